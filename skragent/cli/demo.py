"""`skragent demo`: show how a key is released and served, with the emulator.

The demonstration runs three ordinary commands as processes: `skragent emulator`,
`skragent run` and `skragent get`. It prints `demo: ok` at the end, or the failure and
exits with status 1.
"""

from __future__ import annotations

import hashlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from skragent.cli import deadline
from skragent.interpreter import module_command

if TYPE_CHECKING:
    import argparse

_DEADLINE_SECONDS = 60.0
_STOP_SECONDS = 10.0
_KEY = "demo"
_SKRAGENT = module_command("skragent.cli.main")


class DemoError(Exception):
    """A step of the demonstration failed."""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = commands.add_parser(
        "demo",
        help="show how a key is released and served, with the emulator",
        description="Start the emulator and the agent in a temporary directory, get a"
        " key over the socket, show the verified evidence, and clean up.",
    )
    # Each step has its own deadline.
    parser.set_defaults(run=run, deadline=deadline.NONE)


def run(_: argparse.Namespace) -> int:
    """Run the demonstration."""
    try:
        with tempfile.TemporaryDirectory(prefix="skr-") as name:
            _demonstrate(Path(name))
    except DemoError as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    print("demo: ok")
    return 0


def _demonstrate(work: Path) -> None:
    print("A confidential VM and the Azure services, emulated in one process")
    print("  (swtpm is the vTPM; the emulator serves IMDS, MAA and Key Vault)")
    with _Command("emulator", "--dir", str(work)) as emulator:
        emulator.show_until("READY")
        print("\nThe agent, as systemd starts it")
        config = work / "skragent.toml"
        began = time.perf_counter()
        with _Command("run", "--config", str(config)) as agent:
            jwk, seconds = _first_key(work / "api.sock", began)
            agent.show_until(f"key {_KEY}")
            _show_key(jwk, seconds)
            _show_listing(work / "api.sock", jwk)


class _Command:
    """A running skragent command; its output is kept until it is shown."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            [*_SKRAGENT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Terminate the command; it ends the processes that it started."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def show_until(self, mark: str) -> None:
        """Print the output up to a line that contains `mark`."""
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise DemoError(f"no line with `{mark}` arrived in time") from None
            if not line:
                raise DemoError("the command ended early; see its output above")
            print(f"  {line.rstrip()}", flush=True)
            if mark in line:
                return

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put("")


def _first_key(sock: Path, began: float) -> tuple[dict[str, str], float]:
    """Get the key as a workload does; return it and the seconds since `began`."""
    answer = _skragent("get", _KEY, "--socket", str(sock), "--wait", "60")
    return json.loads(answer), time.perf_counter() - began


def _skragent(*arguments: str) -> bytes:
    outcome = subprocess.run(  # noqa: S603 - our own interpreter and arguments
        [*_SKRAGENT, *arguments],
        capture_output=True,
        timeout=_DEADLINE_SECONDS + _STOP_SECONDS,
        check=False,
    )
    if outcome.returncode:
        raise DemoError(outcome.stderr.decode(errors="replace").strip())
    return outcome.stdout


def _show_key(jwk: dict[str, str], seconds: float) -> None:
    print("\nA workload gets the key: skragent get demo")
    private = {"d", "p", "q", "dp", "dq", "qi", "k"}
    for member, value in jwk.items():
        shown = f"({len(value)} characters)" if member in private else value
        print(f"  {member:4} {shown[:100]}")
    print(f"  from the agent's start to the workload's key: {seconds:.2f} s")


def _show_listing(sock: Path, jwk: dict[str, str]) -> None:
    """Show the key's public facts, and check that PEM holds the same key."""
    pem = _skragent("get", _KEY, "--socket", str(sock), "--format", "pem")
    # Imported here because no other command needs it.
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    public = serialization.load_pem_private_key(pem, None).public_key()
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    print("\nThe key")
    print(f"  name         {_KEY}")
    print(f"  version      {jwk['kid'].rsplit('/', 1)[-1]}")
    print(f"  fingerprint  {hashlib.sha256(der).hexdigest()}")
