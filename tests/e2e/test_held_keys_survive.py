"""A held key survives every fault; each example ended keys once.

An authority's own denial ends a key: see test_key_released_end_to_end. Here each
attempt fails, as often as would confirm a denial, and the key stays. One agent takes it
all.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.e2e import Agent, config_for, type_

from skragent.cli.main import main
from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

ATTEMPTS = 2  # as many as confirm a denial

FAULTS = {
    # The provider's key set lags, or its tokens do not verify.
    "token.signature": (
        ("maa.rotate", "maa.jwks=stale"),
        ("maa.signature",),
        ("maa.key=unknown",),
        ("maa.key=forged",),
        ("maa.tamper.jti=1",),
    ),
    "token.invalid": (
        ("maa.unsigned",),
        ('maa.header.alg="PS256"',),
        ("maa.token.iat=null",),
    ),
    "token.issuer": (('maa.token.iss="https://other.example"',),),
    "token.nonce": (("maa.token.x-ms-runtime={}",),),
    "token.lifetime": (("maa.token.exp=1000000",),),
    "token.sealed": (
        ("maa.sealed=Jwt",),
        ("maa.sealed=EncryptedInnerKey",),
        ("vm.rc=0x101,command=0x159,times=2",),
    ),
    "token.signing_keys": (("maa.jwks=empty",),),
    # Something answers in the place of the provider or the vault.
    "transport.unexpected": (
        *((f"maa.status={s}", "maa.body") for s in (400, 401, 403, 404, 418, 421)),
        *((f"vault.status={s}", "vault.body") for s in (400, 403, 404, 405, 413, 425)),
        ("vault.status=403", 'vault.body={"error": "blocked"}'),
        ("maa.status=403,code=Forbidden,message=no",),
        ("maa.status=404,path=/certs",),
        ("vault.bomb",),
        ("maa.status=302", "maa.flood"),
    ),
    "transport.oversized": (("vault.flood",), ("maa.oversize",)),
    # IMDS is no authority.
    "identity.not_found": (
        ("imds.identity.removed",),
        ("imds.status=400,path=/metadata/identity,code=invalid_request,message=x",),
    ),
    "identity.refused": (("vault.unauthorized",), ("imds.access_token",)),
    # The TPM's odd answers.
    "evidence.tpm": (
        *((f"vm.rc={rc},times=99",) for rc in ("0x100", "0x101", "0x149")),
        *(("vm.rc=0x101,times=1",), ("vm.rc=0x18b,times=99",)),
    ),
    "evidence.not_a_cvm": (("vm.rc=0x18b,command=0x169,times=99",),),
    "evidence.tpm.busy": (("vm.rc=0x14a,times=99",),),
    "evidence.malformed": (("vm.report=magic",), ("vm.report=runtime_data",)),
    "evidence.signature": (("vm.report=signature",), ("vm.report=measurement",)),
    # A release that does not verify, or is malformed.
    "release.malformed": (
        ('vault.release.payload.response.key.key.kid="VAULT/keys/demo/a€b"',),
        ("vault.body=" + "[" * 1000,),
    ),
    "release.signature": (("vault.release.signature",),),
    "release.mismatch": (('vault.release.payload.request.nonce="x"',),),
}
CASES = [(code, faults) for code, all_ in FAULTS.items() for faults in all_]


class Surviving:
    """An agent that holds `demo`, and how often each code was logged."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._admin = str(agent.socket.with_name("admin.sock"))

    def count(self, text: str) -> int:
        return len(re.findall(text, self.agent.log.read_text()))

    def refresh(self, text: str) -> None:
        """Order a refresh, and wait until the log says this once more."""
        before = self.count(text)
        assert main(["refresh", "--socket", self._admin]) == 0
        self.agent.until(lambda: self.count(text) > before)

    def must_fail(self, code: str, times: int = ATTEMPTS) -> None:
        for _ in range(times):
            self.refresh(rf" code={re.escape(code)}\b")
            assert self.agent.holds("demo")
        assert self.agent.process.poll() is None

    def must_succeed(self) -> None:
        self.refresh("demo: version .* is held")
        assert self.agent.holds("demo")


@contextlib.contextmanager
def surviving(
    emulator: EmulatorThread, directory: Path, change: Callable[[str], str] = str
) -> Iterator[Surviving]:
    config = change(config_for(emulator, directory, "demo"))
    admin = f'admin_socket = "{directory}/admin.sock"'
    config = re.sub(r'(?m)^admin_socket = ".*"$', admin, config)
    with Agent(directory, config) as agent:
        agent.until(lambda: agent.holds("demo"))
        yield Surviving(agent)


@pytest.fixture(scope="module")
def held(running_emulator: EmulatorThread) -> Iterator[Surviving]:
    with (
        tempfile.TemporaryDirectory(prefix="skr-") as name,
        surviving(running_emulator, Path(name)) as one,
    ):
        yield one


@pytest.mark.parametrize(
    ("code", "faults"), CASES, ids=[f"{c} {' '.join(f)}"[:80] for c, f in CASES]
)
def test_a_held_key_survives(
    emulator: EmulatorThread, held: Surviving, code: str, faults: tuple[str, ...]
) -> None:
    world = emulator.world
    for fault in faults:
        emulator.call(world.faults.apply(fault.replace("VAULT", world.vault.url)))
    is_once = any(fault.endswith(("times=1", "times=2")) for fault in faults)
    held.must_fail(code, 1 if is_once else ATTEMPTS)
    emulator.call(world.faults.reset())
    held.must_succeed()


def test_a_held_key_survives_a_region_that_is_not_known(
    emulator: EmulatorThread, directory: Path
) -> None:
    with surviving(emulator, directory) as one:
        config = directory / "skragent.toml"
        auto = re.sub(
            r'(?m)^endpoint = "https.*$', 'endpoint = "auto"', config.read_text()
        )
        config.write_text(auto)
        emulator.call(emulator.world.faults.apply('imds.compute.location="atlantis"'))
        assert main(["reload", "--socket", str(directory / "admin.sock")]) == 0
        one.must_fail("token.endpoint")


@pytest.mark.parametrize("content", ["", "no certificate", None])
def test_a_held_key_survives_roots_that_cannot_be_used_during_a_refresh(
    emulator: EmulatorThread, directory: Path, content: str | None
) -> None:
    roots = directory / "roots.pem"

    def move_roots(config: str) -> str:
        (named,) = re.findall(r'(?m)^release_roots = "(.*)"$', config)
        roots.write_bytes(Path(named).read_bytes())
        return config.replace(
            f'release_roots = "{named}"', f'release_roots = "{roots}"'
        )

    with surviving(emulator, directory, move_roots) as one:
        good = roots.read_bytes()
        if content is None:
            roots.unlink()
        else:
            roots.write_text(content)
        one.must_fail("config.invalid")
        status = type_(one.agent, "status").stdout
        assert "key demo needs attention: config.invalid" in status
        roots.write_bytes(good)
        one.must_succeed()


@pytest.mark.parametrize("fault", ["vm.rc=0x18b,times=1", "vm.rc=0x101,times=1"])
def test_one_odd_answer_of_the_tpm_at_boot_does_not_end_the_agent(
    emulator: EmulatorThread, directory: Path, fault: str
) -> None:
    emulator.call(emulator.world.faults.apply(fault))
    with surviving(emulator, directory) as one:
        assert one.count("Next attempt in") == 1


def test_a_release_without_a_nonce_is_held_and_shown(
    emulator: EmulatorThread, directory: Path
) -> None:
    emulator.call(emulator.world.faults.apply("vault.release.payload.request.nonce"))
    with surviving(emulator, directory) as one:
        assert "does not repeat our nonce" in type_(one.agent, "status").stdout
