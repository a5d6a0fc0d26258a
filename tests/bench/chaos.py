"""Random faults in all services around the agent, while clients check its responses.

    chaos.py [--seconds N] [--seed N] [--deadline N]

Real processes and sockets: the emulator with its TPM, the agent, its releasers, and
clients that request keys without a pause. The clients check these rules:

- The bytes of a key are those of the version in the response.
- An agent serves a key that it has served before through every transient fault. So does
  the next agent after SIGKILL, during any fault.
- A key that the vault denies, that has expired or that was dropped is not served any
  more within seconds of the refresh that finds the reason.
- No request takes longer than its `wait`.
- After the last fault every key is current within a minute.

--deadline is for a busy machine: it replaces every time limit, so that a late response
is not a violation.

The last line of the output is `chaos: ok`, after counts. Any other output is a failure,
with the seed that reproduces it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.chaos_clients import Clients, Limits, Violation
from support.e2e import SKRAGENT
from support.fd_store import FdStore
from support.transient_faults import TRANSIENT_FAULTS

from skragent.emulator.hostile_responses import DRIPS
from skragent.emulator.keyvault.key_changes import add_version
from skragent.emulator.keyvault.key_material import create_material
from skragent.emulator.keyvault.key_specs import parse_key_spec
from skragent.emulator.thread import EmulatorThread
from skragent.secretmem import create_arena

KEYS = {"alpha": "RSA", "beta": "P-256", "gamma": "P-384"}
RECOVERY_SECONDS = 60.0  # from the end of the faults until every key is current
DENY_SECONDS = 30.0  # from a refresh until a denied key is not served any more
START_SECONDS = 30.0
COMMAND_SECONDS = 120.0

# Transient faults: no key may be lost to them. `times` makes a fault end by itself.
TRANSIENT = (
    *(
        (f"{service}.{fault}",)
        for service in ("imds", "maa", "vault")
        for fault in (
            *("status=500", "status=503,retry_after=1", "status=429"),
            *("status=429,retry_after=2", "latency=0.5", "hang,times=2"),
            *("reset,times=3", "truncate,times=3", "oversize,times=2"),
            *("content_type,times=3", "body,times=3"),
            *(f"drip={part},times=2" for part in DRIPS),
            *("flood,times=3", "bomb,times=3"),
        )
    ),
    *(("imds.status=410",), ("imds.throttle=2",), ("vault.throttle=2",)),
    *(("vault.unverified,times=3",), ("maa.rotate",), ("vm.rc=0x922,times=20",)),
    *(("vm.reboot",), ("imds.compute.location=null",)),
    *(faults for of_a_code in TRANSIENT_FAULTS.values() for faults in of_a_code),
    # Denials that drop a key only if a job five minutes later confirms them.
    *(("vm.pcr=7",), ("maa.status=400",), ("vault.status=409",)),
    ("vault.status=403,inner=ForbiddenByFirewall,message=Not from this address",),
)
# Faults that make the vault deny the release.
DENYING = (
    *("vault.key.disabled={}", "vault.key.policy={}", "vault.key.deleted={}"),
    *("vault.key.expired={}", "vault.role.revoked=release"),
)


class Chaos:
    """The emulator, the agent and the clients, and the faults."""

    def __init__(
        self,
        directory: Path,
        emulator: EmulatorThread,
        dice: random.Random,
        deadline_seconds: float,
    ) -> None:
        self.directory = directory
        self._deadline_seconds = deadline_seconds
        self.counts: collections.Counter[str] = collections.Counter()
        self._emulator = emulator
        self._dice = dice
        self._agent: subprocess.Popen[bytes] | None = None
        limits = Limits.of(deadline_seconds) if deadline_seconds else Limits()
        self._clients = Clients(str(directory / "api.sock"), list(KEYS), limits)
        self._systemd = FdStore(directory)
        arena = create_arena(1)
        arena.close_fd()
        self._keeps_keys = arena.is_secret  # without secret memory SIGKILL ends them

    def prepare(self) -> None:
        """Create keys and the configuration; start the agent."""
        emulated = self._emulator.instance
        emulated.imds.is_limited = False  # except by faults
        for name, kind in KEYS.items():
            emulated.create_key(parse_key_spec(f"{name}:{kind}"))
            stored = emulated.vault.store.find(name)
            assert stored is not None
            self._clients.know(name, stored.latest.version, stored.latest.target)
        text = emulated.config_text(KEYS)
        for name in ("tls_roots", "release_roots"):  # faults change one file, not both
            roots = self.directory / f"{name}.pem"
            roots.write_bytes((self.directory / "ca.pem").read_bytes())
            text = re.sub(rf'(?m)^{name} = ".*"$', f'{name} = "{roots}"', text)
        limits = "[limits]\nrequest_timeout_seconds = 2.0\n"
        (self.directory / "skragent.toml").write_text(f"{text}\n{limits}")
        self._start_agent()
        self._until("all keys after the start", self._all_current, START_SECONDS)

    def close(self) -> None:
        """Stop the clients and the agent."""
        self._clients.close()
        self._systemd.close()

    def run(self, seconds: float) -> None:
        """Inject faults for that time, then check that everything recovers."""
        self._clients.start()
        episodes: list[tuple[int, Callable[[], None]]] = [
            (6, self._inject_transient_faults),
            (1, self._break_roots),
            (2, self._rotate),
            (2, self._deny),
            (1, self._drop),
            (2, self._kill_releaser),
            (1, self._kill_agent),
            (1, self._stop_tpm),
            (1, self._reload),
        ]
        weights = [weight for weight, _ in episodes]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            (_, episode), *_ = self._dice.choices(episodes, weights)
            self.counts[episode.__name__.strip("_")] += 1
            episode()
            self._check()
        self._recover()
        self._check()

    @property
    def responses(self) -> collections.Counter[str]:
        """Return the counts of the clients' responses."""
        return self._clients.responses

    # Faults and events

    def _inject_transient_faults(self) -> None:
        for faults in self._dice.sample(TRANSIENT, self._dice.randint(1, 3)):
            for fault in faults:
                self._inject(fault)
        for _ in range(self._dice.randint(1, 3)):
            self._refresh()
            self._sleep(0.2, 1.5)
        if self._dice.random() < 0.5:  # otherwise they last into the next episode
            self._remove_faults()

    def _break_roots(self) -> None:
        """Remove or truncate a file of roots for some refreshes."""
        name = self._dice.choice(("tls_roots", "release_roots"))
        roots = self.directory / f"{name}.pem"
        good = roots.read_bytes()
        if self._dice.random() < 0.5:
            roots.unlink()
        else:
            roots.write_bytes(good[: self._dice.choice((0, len(good) // 2))])
        for _ in range(self._dice.randint(1, 3)):
            self._refresh()
            self._sleep(0.2, 1.5)
        roots.write_bytes(good)

    def _rotate(self) -> None:
        name = self._dice.choice(list(KEYS))
        emulated = self._emulator.instance

        spec = parse_key_spec(f"{name}:{KEYS[name]}")

        async def add() -> str:
            stored = emulated.vault.store.find(name)
            material = create_material(spec.parameters)
            now = emulated.azure.clock.now()
            added = add_version(stored, name, {}, material, is_hsm_key=True, now=now)
            latest = added.latest
            self._clients.know(name, latest.version, latest.target)
            emulated.vault.store.save(added)
            return latest.version

        self._remove_faults()
        latest = self._emulator.call(add())
        self._until(
            f"the new version of {name}",
            lambda: self._clients.version_of(name) == latest,
            RECOVERY_SECONDS,
            again=self._refresh,
        )

    def _deny(self) -> None:
        name = self._dice.choice(list(KEYS))
        fault = self._dice.choice(DENYING)
        gone = [name] if "{}" in fault else list(KEYS)
        self._remove_faults()
        self._until(
            "all keys", self._all_current, RECOVERY_SECONDS, again=self._refresh
        )
        self._clients.expect_nothing(gone)
        self._inject(fault.format(name))
        self._refresh()
        self._until(
            f"{', '.join(gone)} not to be served after {fault}",
            lambda: not any(self._clients.is_served(alias) for alias in gone),
            DENY_SECONDS,
        )
        with self._clients.expecting_gone(gone):
            self._sleep(0.5, 1.0)
        self._recover()

    def _drop(self) -> None:
        name = self._dice.choice(list(KEYS))
        self._clients.expect_nothing([name])
        if self._command("drop", name) != 0:
            return  # the agent restarts
        with self._clients.expecting_gone([name]):
            self._refresh()  # all keys except dropped keys
            self._sleep(0.2, 1.0)
        self._remove_faults()
        self._until(
            f"{name} to be served again",
            lambda: self._clients.is_served(name),
            RECOVERY_SECONDS,
            again=lambda: self._command("refresh", name),
        )
        self._recover()

    def _kill_releaser(self) -> None:
        self._refresh()
        for _ in range(20):
            if children := self._releasers():
                for pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.counts["releasers killed"] += len(children)
                return
            time.sleep(0.05)

    def _kill_agent(self) -> None:
        assert self._agent is not None
        with self._clients.without_agent():
            self._agent.kill()
            self._agent.wait()
            self._start_agent()
            if not self._keeps_keys:
                self._remove_faults()
                self._until(
                    "all keys after SIGKILL", self._all_current, RECOVERY_SECONDS
                )
        self._clients.expect_all()

    def _stop_tpm(self) -> None:
        pid = self._tpm()
        os.kill(pid, signal.SIGSTOP)
        self._refresh()
        self._sleep(0.5, 3.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _reload(self) -> None:
        path = self.directory / "skragent.toml"
        good = path.read_text()
        path.write_text(good + '\n[keys.bad]\nvault = "nowhere"\n')
        rejected = self._command("reload")
        path.write_text(good)
        accepted = self._command("reload")
        if (rejected, accepted) != (78, 0):
            raise Violation(
                f"reload: exit status {rejected} for a bad file,"
                f" {accepted} for a good file"
            )

    # Helpers

    def _recover(self) -> None:
        self._remove_faults()
        self._until(
            "every key to be current",
            self._all_current,
            RECOVERY_SECONDS,
            again=lambda: self._command("refresh", *KEYS),
        )
        self._clients.expect_all()

    def _start_agent(self) -> None:
        config = self.directory / "skragent.toml"
        self._agent = self._systemd.launch([*SKRAGENT, "run", "--config", str(config)])

    def _check(self) -> None:
        assert self._agent is not None
        if self._agent.poll() is not None:
            raise Violation(f"the agent ended with {self._agent.returncode}")
        self._clients.check()

    def _all_current(self) -> bool:
        done = self._skragent("status", "--json")
        if done.returncode != 0:
            return False
        keys = json.loads(done.stdout)["keys"]
        return all(key["state"] == "current" for key in keys) and all(
            self._clients.is_served(alias) for alias in KEYS
        )

    def _refresh(self) -> None:
        self._command("refresh")

    def _command(self, *words: str) -> int:
        return self._skragent(*words).returncode

    def _skragent(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SKRAGENT, *words, "--socket", str(self.directory / "admin.sock")],
            capture_output=True,
            text=True,
            timeout=max(COMMAND_SECONDS, self._deadline_seconds),
            check=False,
        )

    def _inject(self, fault: str) -> None:
        emulated = self._emulator.instance
        self._emulator.call(
            emulated.faults.apply(fault.replace("VAULT", emulated.vault.url))
        )
        self.counts["faults"] += 1

    def _remove_faults(self) -> None:
        self._emulator.call(self._emulator.instance.faults.reset())

    def _releasers(self) -> list[int]:
        assert self._agent is not None
        return children_of(self._agent.pid)

    def _tpm(self) -> int:
        return next(
            pid
            for pid in children_of(os.getpid())
            if Path(f"/proc/{pid}/comm").read_text().strip() == "swtpm"
        )

    def _sleep(self, least: float, most: float) -> None:
        time.sleep(self._dice.uniform(least, most))

    def _until(
        self,
        what: str,
        is_so: Callable[[], bool],
        seconds: float,
        *,
        again: Callable[[], object] | None = None,
    ) -> None:
        """Wait for a condition; repeat `again`, because a fault may have hit it."""
        seconds = self._deadline_seconds or seconds
        deadline = time.monotonic() + seconds
        repeated = -10.0
        while not is_so():
            self._check()
            now = time.monotonic()
            if now > deadline:
                raise Violation(f"waited {seconds:.0f} s in vain for {what}")
            if again is not None and now - repeated > 5:
                again()
                repeated = now
            time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    """List the children of all threads of a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


@contextlib.contextmanager
def run_emulator() -> Iterator[tuple[Path, EmulatorThread]]:
    """Start an emulator in a directory of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="skrc-") as name,
        EmulatorThread(Path(name)) as emulator,
    ):
        yield Path(name), emulator


def main() -> int:
    """Run from the command line, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--deadline", type=float, default=0.0)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    print(f"chaos: seed {seed}, {options.seconds:.0f} s", flush=True)
    dice = random.Random(seed)
    with run_emulator() as (directory, emulator):
        chaos = Chaos(directory, emulator, dice, options.deadline)
        try:
            chaos.prepare()
            chaos.run(options.seconds)
        except Violation as violation:
            print((directory / "agent.log").read_text()[-6000:])
            print(f"chaos: {violation} (seed {seed})")
            return 1
        finally:
            chaos.close()
        for name, count in sorted((chaos.counts + chaos.responses).items()):
            print(f"  {count:7} {name}")
    print("chaos: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
