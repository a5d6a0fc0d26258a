"""The command `skragent emulator`, from start to stop."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from support.deadlines import DEADLINE_SECONDS

from skragent.config import parse_config
from skragent.emulator.clock import Clock
from skragent.emulator.keyvault.key_store import KeyStore

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.swtpm

_COMMAND = [sys.executable, "-I", "-m", "skragent.cli.main", "emulator", "--dir"]
APPLICATION_FILES = (".pem", "-secret", "-token")


@pytest.fixture
def directory() -> Iterator[Path]:
    # Short, because it contains sockets.
    with tempfile.TemporaryDirectory(prefix="skr") as name:
        yield Path(name)


class Running:
    """Run the command as a process until it prints READY."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*_COMMAND, str(directory), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.said: list[str] = []
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if self.said[-1] == "READY":
                return
        raise AssertionError(self.process.communicate())

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        _, self.complaints = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_prints_addresses_and_files_and_ends_cleanly(
    directory: Path, number: signal.Signals
) -> None:
    with Running(directory) as running:
        config = parse_config((directory / "skragent.toml").read_text())
        text = "\n".join(running.said)
        for value in (
            config.vtpm.tcti,
            config.attestation.endpoint,
            config.imds.endpoint,
            config.keys["demo"].vault,
            config.trust.tls_roots,
            *(str(directory / f"application{end}") for end in APPLICATION_FILES),
        ):
            assert value in text
        assert running.stop(number) == 0
        assert running.complaints == ""
    assert not list(directory.rglob("*.sock"))


def test_requested_keys_are_created_once(directory: Path) -> None:
    for _ in range(2):
        with Running(directory, "--key", "a:P-384", "--key", "b:oct") as running:
            config = parse_config((directory / "skragent.toml").read_text())
            assert set(config.keys) == {"a", "b"}
            assert running.stop(signal.SIGTERM) == 0
    files = sorted((directory / "keys").rglob("*.json"))
    assert [file.name for file in files] == ["a.json", "b.json"]


def test_requested_keys_are_in_their_stores_with_their_policies(
    directory: Path,
) -> None:
    authority = {
        "authority": "https://maa.test",
        "allOf": [{"claim": "secureboot", "equals": "true"}],
    }
    policy = directory / "policy.json"
    policy.write_text(json.dumps({"version": "1.0.0", "anyOf": [authority]}))
    keys = ("a:EC", "hsm/a:oct", f"hsm/b:EC,policy={policy}")
    arguments = [word for key in keys for word in ("--key", key)]
    with Running(directory, *arguments) as running:
        config = parse_config((directory / "skragent.toml").read_text())
        assert running.stop(signal.SIGTERM) == 0
        warning = running.complaints
    assert "the vault will not release the key b: its policy" in warning
    assert "trusts https://maa.test, which is not an attestation provider" in warning
    assert f'Write "authority": "{config.attestation.endpoint}"' in warning
    names = {
        alias: (key.vault, key.name or alias) for alias, key in config.keys.items()
    }
    vault, hsm = names["a"][0], names["b"][0]
    assert vault != hsm
    assert names == {"a": (vault, "a"), "a-hsm": (hsm, "a"), "b": (hsm, "b")}
    stored = {
        f"{path.parent.name}/{path.stem}": json.loads(path.read_text())
        for path in (directory / "keys").rglob("*.json")
    }
    assert {*stored} == {"skragent-demo/a", "skragent-hsm/a", "skragent-hsm/b"}
    assert json.loads(stored["skragent-hsm/b"]["policy"])["anyOf"] == [authority]
    assert stored["skragent-hsm/a"]["versions"][0]["kty"] == "oct"


def test_a_policy_of_the_emulators_own_provider_has_no_warning(
    directory: Path,
) -> None:
    with Running(directory) as running:
        config = parse_config((directory / "skragent.toml").read_text())
        assert running.stop(signal.SIGTERM) == 0
    authority = {
        "authority": config.attestation.endpoint,
        "allOf": [{"claim": "secureboot", "equals": "true"}],
    }
    policy = directory / "policy.json"
    policy.write_text(json.dumps({"version": "1.0.0", "anyOf": [authority]}))
    with Running(directory, "--key", f"c:EC,policy={policy}") as running:
        assert running.stop(signal.SIGTERM) == 0
        assert running.complaints == ""


def test_deleted_key_stays_deleted_after_a_restart(directory: Path) -> None:
    with Running(directory) as running:
        assert running.stop(signal.SIGTERM) == 0
    store = KeyStore(directory / "keys" / "local" / "skragent-demo")
    store.soft_delete("demo", int(Clock().now()))
    for arguments in ((), ("--key", "demo:EC")):
        with Running(directory, *arguments) as running:
            assert "[keys." not in (directory / "skragent.toml").read_text()
            assert running.stop(signal.SIGTERM) == 0


def test_second_emulator_in_a_directory_is_refused(directory: Path) -> None:
    with Running(directory) as running:
        second = subprocess.run(
            [*_COMMAND, str(directory)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert second.returncode != 0
        assert "emulator.in_use" in second.stderr
        assert running.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    "key", ["a:DSA", "no_such name", ":RSA", "disk/a", "a,policy=/none/at/all"]
)
def test_invalid_key_is_refused(directory: Path, key: str) -> None:
    outcome = subprocess.run(
        [*_COMMAND, str(directory), "--key", key],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert outcome.returncode == 2
    assert "argument --key: " in outcome.stderr


def test_missing_extra_is_an_error_with_a_remedy(directory: Path) -> None:
    program = (
        "import sys; sys.modules['aiohttp'] = None;"
        "from skragent.cli.main import main;"
        f"sys.exit(main(['emulator', '--dir', {str(directory)!r}]))"
    )
    outcome = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert outcome.returncode != 0
    assert "emulator.not_installed" in outcome.stderr
    assert "skragent[emulator]" in outcome.stderr
