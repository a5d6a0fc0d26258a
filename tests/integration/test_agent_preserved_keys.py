"""Held keys outlive the agent's process, in what systemd keeps of it."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.fd_store import FdStore

from skragent import exit_codes
from skragent.cli.main import main
from skragent.client import SkragentClient, SkragentError
from skragent.secretmem import create_arena

KEY = b"k" * 32  # the substitute releaser's

# So a name looks, too, while the directory service does not answer.
UNKNOWN_NAME = (
    '[keys.mail]\nvault = "https://v.vault.azure.net"\n'
    'allow = [{ user = "no-such-user" }]\n'
)


def has_secret_memory() -> bool:
    arena = create_arena(1)
    arena.close_fd()
    return arena.is_secret


pytestmark = pytest.mark.skipif(
    not has_secret_memory(), reason="needs memfd_secret(2): secretmem.enable=1"
)


@pytest.fixture
def systemd() -> Iterator[FdStore]:
    with tempfile.TemporaryDirectory(prefix="skr-") as name:
        store = FdStore(Path(name))
        try:
            yield store
        finally:
            store.close()


def served(systemd: FdStore, alias: str = "disk") -> bytes | None:
    """The key, if it is served."""
    client = SkragentClient(str(systemd.directory / "api.sock"))
    try:
        return client.get_bytes(alias, "raw")
    except SkragentError as error:
        assert error.code in ("serve.not_ready", "serve.denied")  # noqa: PT017 - a fact
        return None


def hold(systemd: FdStore, *aliases: str) -> subprocess.Popen[bytes]:
    """Start an agent that holds these keys, which systemd keeps as well."""
    systemd.configure(*aliases)
    agent = systemd.start("release")
    systemd.until(lambda: len(systemd.kept) == len(aliases))
    assert served(systemd) == KEY
    return agent


def end(agent: subprocess.Popen[bytes], number: signal.Signals) -> None:
    agent.send_signal(number)
    agent.wait(DEADLINE_SECONDS)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGABRT, signal.SIGTERM], ids=lambda n: n.name
)
def test_keys_are_served_by_the_next_agent_while_the_vault_is_absent(
    systemd: FdStore, number: signal.Signals
) -> None:
    end(hold(systemd, "disk", "mail"), number)
    systemd.start("hang")
    assert served(systemd, "disk") == KEY
    assert served(systemd, "mail") == KEY


def test_a_restored_key_is_shown_in_secret_memory_before_any_release(
    systemd: FdStore, capsys: pytest.CaptureFixture[str]
) -> None:
    end(hold(systemd, "disk"), signal.SIGKILL)
    systemd.start("hang")
    assert main(["status", "--socket", f"{systemd.directory}/admin.sock"]) == 0
    assert "key memory: memfd_secret" in capsys.readouterr().out


def test_keys_outlive_one_agent_after_another(systemd: FdStore) -> None:
    agent = hold(systemd, "disk")
    for _ in range(3):
        end(agent, signal.SIGKILL)
        agent = systemd.start("hang")
        assert served(systemd) == KEY
    assert len(systemd.kept) == 1


def test_a_new_release_takes_the_place_of_what_systemd_keeps(systemd: FdStore) -> None:
    end(hold(systemd, "disk"), signal.SIGKILL)
    (before,) = systemd.kept
    systemd.start("release")
    systemd.until(lambda: systemd.kept and before not in systemd.kept)
    assert len(systemd.kept) == 1
    assert served(systemd) == KEY


def test_a_dropped_key_is_wiped_in_what_systemd_keeps(systemd: FdStore) -> None:
    agent = hold(systemd, "disk", "mail")
    copies = {name: os.dup(fd) for name, fd in systemd.kept.items()}
    assert main(["drop", "disk", "--socket", f"{systemd.directory}/admin.sock"]) == 0
    systemd.until(lambda: len(systemd.kept) == 1)
    (gone,) = copies.keys() - systemd.kept.keys()
    with mmap.mmap(copies[gone], 0, mmap.MAP_SHARED) as memory:
        assert not any(memory[:])
    for fd in copies.values():
        os.close(fd)
    end(agent, signal.SIGKILL)
    systemd.start("hang")
    assert served(systemd, "disk") is None
    assert served(systemd, "mail") == KEY


def test_a_key_that_the_configuration_no_longer_has_is_not_restored(
    systemd: FdStore,
) -> None:
    end(hold(systemd, "disk", "mail"), signal.SIGKILL)
    systemd.configure("mail")
    systemd.start("hang")
    systemd.until(lambda: len(systemd.kept) == 1)
    assert served(systemd, "mail") == KEY
    assert "key disk" in systemd.log()


def test_an_alias_that_now_means_another_key_waits_for_that_one(
    systemd: FdStore,
) -> None:
    end(hold(systemd, "disk"), signal.SIGKILL)
    systemd.configure("disk", more='name = "another"\n')
    systemd.start("hang")
    systemd.until(lambda: not systemd.kept)
    assert served(systemd) is None


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ("no TOML", "config.syntax"),
        ("surprise = 1\n", "config.invalid"),
        ('[[keys.disk.allow]]\nuser = "x"\n', "config.syntax"),
        (UNKNOWN_NAME, "config.unknown_name"),
    ],
)
def test_keys_wait_in_systemd_while_the_configuration_cannot_be_used(
    systemd: FdStore, more: str, code: str
) -> None:
    end(hold(systemd, "disk"), signal.SIGTERM)
    systemd.configure("disk", more=more)
    assert systemd.refuse("hang") == exit_codes.TEMPFAIL
    assert code in systemd.log()
    assert "systemd keeps the held keys" in systemd.log()
    systemd.configure("disk")
    systemd.start("hang")
    assert served(systemd) == KEY


def test_keys_wait_in_systemd_while_the_configuration_is_missing(
    systemd: FdStore,
) -> None:
    end(hold(systemd, "disk"), signal.SIGKILL)
    (systemd.directory / "skragent.toml").unlink()
    assert systemd.refuse("hang") == exit_codes.TEMPFAIL
    systemd.configure("disk")
    systemd.start("hang")
    assert served(systemd) == KEY


def test_another_spelling_of_the_vault_restores_the_key(systemd: FdStore) -> None:
    end(hold(systemd, "disk"), signal.SIGKILL)
    config = systemd.directory / "skragent.toml"
    text = config.read_text()
    config.write_text(text.replace("//v.vault.azure.net", "//V.vault.azure.net:443/"))
    systemd.start("hang")
    assert served(systemd) == KEY


def test_a_descriptor_that_holds_no_key_is_discarded(systemd: FdStore) -> None:
    systemd.configure("disk")
    foreign = create_arena(4096)
    reader, writer = os.pipe()
    os.close(writer)
    systemd.kept = {"key-1": os.dup(foreign.fd), "key-2": reader}
    foreign.close_fd()
    systemd.start("hang")
    systemd.until(lambda: not systemd.kept)
    assert systemd.log().count("memory.content") == 2
    assert served(systemd) is None


def test_the_agent_keeps_no_descriptor_of_restored_memory(systemd: FdStore) -> None:
    end(hold(systemd, "disk"), signal.SIGKILL)
    agent = systemd.start("hang")
    assert served(systemd) == KEY
    open_files = [str(fd.readlink()) for fd in Path(f"/proc/{agent.pid}/fd").iterdir()]
    assert not any("secretmem" in name for name in open_files)


def test_a_restored_key_says_when_the_vault_released_it(systemd: FdStore) -> None:
    agent = hold(systemd, "disk")
    client = SkragentClient(str(systemd.directory / "api.sock"))
    (before,) = client.list_keys()
    end(agent, signal.SIGKILL)
    systemd.start("hang")
    assert client.list_keys() == [before]
