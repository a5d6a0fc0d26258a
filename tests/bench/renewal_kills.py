"""Kill agents while they renew the AK certificate; no kill may lose it.

    renewal_kills.py [--kills N] [--seed N]

Real processes: the emulator with its TPM, the agent and its releasers. Each round has
an index and a certificate of one kind, which ends soon. An agent starts, releases a key
and renews the certificate. SIGTERM or SIGKILL ends the agent, its releaser or both, at
a random time after THIM's response. Then an agent starts that gets no new certificate.
As soon as that agent holds its key, the index must have the old or the new certificate,
byte for byte and then zeros, and the copy must be deleted. SIGTERM must not interrupt a
write.

The last line of the output is `renewal_kills: ok`, after counts. Any other output is a
failure.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.ak_renewal import ANEW, AT_ONCE, CHANGES, IN_PIECES, Guest, Kind
from support.e2e import SKRAGENT

from skragent.client import SkragentClient, SkragentError
from skragent.emulator.keyvault.key_specs import parse_key_spec
from skragent.emulator.thread import EmulatorThread

# Kinds of renewals that a kill can interrupt occur more often.
KINDS = (AT_ONCE, IN_PIECES, IN_PIECES, ANEW, ANEW)
VICTIMS = ("agent", "releaser", "both")  # both: as systemd's KillMode=control-group
SIGNALS = (signal.SIGTERM, signal.SIGKILL)
DEADLINE_SECONDS = 60.0
# Azure's vTPM is slower than the emulator's. This delay makes a kill during a command
# as likely as on Azure.
COMMAND_SECONDS = 0.004


class Lost(Exception):  # noqa: N818 - a finding
    """A certificate or a copy that a kill has lost."""


@dataclass
class Renewal:
    """The requests to the TPM and to THIM in one renewal."""

    is_answered: bool = False  # by THIM
    answered_at: float = 0.0
    commands: int = 0  # TPM commands since then
    first_change: int = 0  # number of the first command that changes the index; 0: none
    last_at: float = 0.0

    def note(self, code: int) -> None:
        """Count a TPM command before it runs."""
        if self.is_answered:
            time.sleep(COMMAND_SECONDS)
            self.commands += 1
            self.last_at = time.monotonic()
            if code in CHANGES and not self.first_change:
                self.first_change = self.commands


class Rounds:
    """The emulator, the agent, and rounds with one kill each."""

    def __init__(
        self, directory: Path, emulator: EmulatorThread, dice: random.Random
    ) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        (directory / "state").mkdir(mode=0o700)
        self._guest = Guest(emulator, directory / "state")
        self._directory = directory
        self._dice = dice
        self.seconds: dict[str, float] = {}  # of a renewal, from THIM's answer on
        self._agent: subprocess.Popen[bytes] | None = None
        self._log = (directory / "agent.log").open("ab")
        self._renewal = Renewal()

    def prepare(self) -> None:
        """Create the key and the configuration."""
        emulated = self._guest.instance
        emulated.imds.is_limited = False
        emulated.create_key(parse_key_spec("demo:RSA"))
        text = emulated.config_text(["demo"], api_socket=self._directory / "api.sock")
        (self._directory / "skragent.toml").write_text(text)

    def close(self) -> None:
        """Kill the agent."""
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait()
        self._log.close()

    def run(self) -> None:
        """Kill once, start again, and check the index and the copy."""
        kind = self._dice.choice(KINDS)
        victim, number = self._dice.choice(VICTIMS), self._dice.choice(SIGNALS)
        if kind.name not in self.seconds:
            self.seconds[kind.name] = self._measure(kind)
        delay = self._dice.uniform(0, 1.1 * self.seconds[kind.name])
        what = f"{number.name} of {victim} after {delay * 1e3:.1f} ms, index: {kind}"
        hit = self._kill(kind, victim, number, delay)
        left = self._guest.holds()
        self.counts["kills"] += 1
        self.counts[f"{number.name} {victim}"] += 1
        self.counts[f"kind {kind}"] += 1
        if hit:
            self.counts["kills while the index was being written"] += 1
        if self._guest.copy.exists():
            self.counts["kills that left a copy"] += 1
            if number is signal.SIGTERM:
                raise Lost(f"{what}: a write was interrupted")
        if left not in {"old", "new"}:
            self.counts[f"kills that left {left}"] += 1
            if not self._guest.copy.exists():
                raise Lost(f"{what}: the index has {left}, and there is no copy")
        self._start_again()
        found = self._guest.holds()
        if found not in {"old", "new"}:
            raise Lost(f"{what}: after the next start the index has {found}")
        if self._guest.copy.exists():
            raise Lost(f"{what}: a copy is left after the next start")
        self.counts[f"rounds that ended with the {found} certificate"] += 1

    def _measure(self, kind: Kind) -> float:
        """Run one renewal without a kill; return the time of its TPM commands."""
        self._prepare_round(kind, lambda: None)
        before = self._logged_renewals()
        self._start()
        self._until(lambda: self._logged_renewals() > before)
        self._stop()
        return self._renewal.last_at - self._renewal.answered_at

    def _logged_renewals(self) -> int:
        log = (self._directory / "agent.log").read_text()
        return log.count("the AK certificate is renewed")

    def _kill(
        self, kind: Kind, victim: str, number: signal.Signals, delay: float
    ) -> bool:
        """Kill during one renewal; return whether its write had begun."""
        killed, hits = threading.Event(), []

        def kill() -> None:
            releasers = self._releasers()
            hits.append(bool(self._renewal.first_change and releasers))
            pids = [agent.pid] if victim != "releaser" else []
            pids += releasers if victim != "agent" else []
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            killed.set()

        def arm() -> None:
            threading.Timer(delay, kill).start()

        self._prepare_round(kind, arm)
        agent = self._start()
        if not killed.wait(DEADLINE_SECONDS):
            raise Lost("the agent did not renew the certificate")
        if victim == "releaser":
            self._until(lambda: not self._releasers())
            agent.send_signal(signal.SIGTERM)
        agent.wait(DEADLINE_SECONDS)
        self._agent = None
        return hits[0]

    def _start_again(self) -> None:
        self._guest.is_thim_mute = True
        self._start()
        self._until(self._holds_key)
        self._stop()

    def _prepare_round(self, kind: Kind, on_answer: Callable[[], None]) -> None:
        self._renewal = renewal = Renewal()
        self._guest.is_thim_mute = False
        self._guest.prepare(kind)
        self._guest.instance.vm.vtpm.guards["kills"] = renewal.note

        def begin() -> None:
            renewal.is_answered = True
            renewal.answered_at = time.monotonic()
            on_answer()

        self._guest.on_renewal = begin

    def _start(self) -> subprocess.Popen[bytes]:
        self._agent = subprocess.Popen(
            [*SKRAGENT, "run", "--config", self._directory / "skragent.toml"],
            stdout=self._log,
            stderr=self._log,
            env=os.environ | {"STATE_DIRECTORY": str(self._guest.state)},
        )
        return self._agent

    def _stop(self) -> None:
        if self._agent is not None:
            self._agent.terminate()
            self._agent.wait(DEADLINE_SECONDS)
            self._agent = None

    def _releasers(self) -> list[int]:
        if self._agent is None:
            return []
        pid = self._agent.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        return [int(child) for child in children if not _is_dead(int(child))]

    def _holds_key(self) -> bool:
        client = SkragentClient(str(self._directory / "api.sock"))
        try:
            client.get_key("demo")
        except SkragentError:
            return False
        return True

    def _until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                raise Lost(f"no change within {DEADLINE_SECONDS:.0f} s")
            time.sleep(0.02)


def _is_dead(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def main() -> None:
    """Run the rounds of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="skr-") as name,
        EmulatorThread(Path(name, "emulator")) as emulator,
    ):
        rounds = Rounds(Path(name), emulator, random.Random(arguments.seed))
        try:
            rounds.prepare()
            for number in range(arguments.kills):
                rounds.run()
                if number % 100 == 99:
                    print(f"{number + 1} kills: {dict(rounds.counts)}", flush=True)
        except Lost as lost:
            tail = Path(name, "agent.log").read_text().splitlines()[-30:]
            print("\n".join(tail), file=sys.stderr)
            sys.exit(f"renewal_kills: seed {arguments.seed}: {lost}")
        finally:
            rounds.close()
    for kind, seconds in rounds.seconds.items():
        print(f"{seconds * 1e3:6.0f} ms from THIM's answer to the end, index: {kind}")
    for what, count in sorted(rounds.counts.items()):
        print(f"{count:6} {what}")
    print("renewal_kills: ok")


if __name__ == "__main__":
    main()
