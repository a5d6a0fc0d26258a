"""Commands in the guest, through QEMU's guest agent: exit code and bounded output.

The agent's protocol is JSON lines over a virtio port, which QEMU shows as a Unix
socket. The port carries one session at a time. After a boot, `guest-sync-delimited`
finds the beginning of the session.
"""

from __future__ import annotations

import base64
import json
import secrets
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_LINE_BYTES = 32 * 1024 * 1024
# Timeouts in this package are for an idle host. On a busy host QEMU's emulated CPU is
# several times slower, and the scenarios must pass there, too.
BUSY_FACTOR = 5
_REPLY_SECONDS = 60.0  # of QEMU's guest agent
_CHUNK_BYTES = 256 * 1024
_ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root")


class GuestError(AssertionError):
    """A command failed in the guest, or the guest did not answer in time."""


@dataclass(frozen=True, slots=True)
class Done:
    """The exit code and the output of a command in the guest."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Job:
    """A command that runs in the guest in the background."""

    pid: int
    script: str


class Guest:
    """The guest's shell, as root."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._buffer = b""

    def connect(self, timeout: float, reply_timeout: float = _REPLY_SECONDS) -> None:
        """Wait until the agent in the guest answers.

        Args:
            timeout: seconds until the first reply.
            reply_timeout: seconds until each later reply.
        """
        timeout *= BUSY_FACTOR
        deadline = time.monotonic() + timeout
        while True:
            self.close()
            try:
                self._synchronise()
            except (OSError, ValueError) as error:
                if time.monotonic() > deadline:
                    raise GuestError(f"no guest within {timeout:.0f} s") from error
                _pause(0.1)
            else:
                assert self._socket is not None
                self._socket.settimeout(reply_timeout * BUSY_FACTOR)
                return

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def run(self, script: str, *, timeout: float = 60.0, stdin: bytes = b"") -> Done:
        """Run a shell script to its end; a failure of the script raises nothing."""
        return self.wait(self.start(script, stdin=stdin), timeout=timeout)

    def check(self, script: str, *, timeout: float = 60.0, stdin: bytes = b"") -> str:
        """Run a shell script that must succeed, and return its output."""
        done = self.run(script, timeout=timeout, stdin=stdin)
        if done.code:
            raise GuestError(f"$ {script}\n{done.out}{done.err}[exit {done.code}]")
        return done.out

    def until(self, script: str, *, timeout: float = 60.0) -> None:
        """Wait in the guest until a script succeeds."""
        loop = f"until {{ {script}\n}} >/dev/null 2>&1; do sleep 0.2; done"
        seconds = timeout * BUSY_FACTOR
        command = f"timeout {seconds:.0f} sh -c {shlex.quote(loop)}"
        if self.run(command, timeout=timeout + 30).code:
            last = self.run(script)
            raise GuestError(
                f"not within {seconds:.0f} s: {script}\n{last.out}{last.err}"
            )

    def wait_for(self, happened: Callable[[], bool], what: str, timeout: float) -> None:
        """Wait for an event on the host that the guest causes."""
        timeout *= BUSY_FACTOR
        deadline = time.monotonic() + timeout
        while not happened():
            if time.monotonic() > deadline:
                raise GuestError(f"not within {timeout:.0f} s: {what}")
            _pause(0.1)

    def start(self, script: str, *, stdin: bytes = b"") -> Job:
        """Start a script in the background."""
        arguments: dict[str, Any] = {
            "path": "/bin/sh",
            "arg": ["-c", script],
            "capture-output": True,
            "env": list(_ENVIRONMENT),
        }
        if stdin:
            arguments["input-data"] = base64.b64encode(stdin).decode()
        return Job(self._call("guest-exec", arguments)["pid"], script)

    def wait(self, job: Job, *, timeout: float = 60.0) -> Done:
        """Wait for the end of a script."""
        timeout *= BUSY_FACTOR
        deadline, pause = time.monotonic() + timeout, 0.02
        while True:
            status = self._call("guest-exec-status", {"pid": job.pid})
            if status["exited"]:
                break
            if time.monotonic() > deadline:
                raise GuestError(f"still running after {timeout:.0f} s: {job.script}")
            _pause(pause)
            pause = min(pause * 1.5, 0.3)
        out, err = (
            base64.b64decode(status.get(name, "")).decode(errors="replace")
            for name in ("out-data", "err-data")
        )
        return Done(status.get("exitcode", -status.get("signal", 0)), out, err)

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file in the guest."""
        data = content.encode() if isinstance(content, str) else content
        target = shlex.quote(path)
        self.check(
            f"mkdir -p $(dirname {target}) && install -m {mode:o} /dev/stdin {target}",
            stdin=data,
        )

    def read(self, path: str) -> bytes:
        """Read a file of the guest."""
        handle = self._call("guest-file-open", {"path": path, "mode": "r"})
        content = b""
        while True:
            arguments = {"handle": handle, "count": _CHUNK_BYTES}
            part = self._call("guest-file-read", arguments)
            content += base64.b64decode(part["buf-b64"])
            if part["eof"]:
                break
        self._call("guest-file-close", {"handle": handle})
        return content

    def _synchronise(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(1.0)
        self._socket.connect(str(self._path))
        identity = secrets.randbelow(1 << 30)
        # 0xff makes the agent discard an unfinished command; its reply begins with it.
        self._send("guest-sync-delimited", {"id": identity}, prefix=b"\xff")
        for _ in range(100):
            answer = json.loads(self._line().lstrip(b"\xff"))
            if answer.get("return") == identity:
                return
        raise ValueError("only old answers")

    def _call(self, name: str, arguments: Mapping[str, object]) -> Any:  # noqa: ANN401 - JSON
        try:
            self._send(name, arguments)
            answer = json.loads(self._line())
        except (OSError, ValueError) as error:
            raise GuestError(f"the guest agent does not answer {name}") from error
        if "error" in answer:
            raise GuestError(f"{name}: {answer['error']}")
        return answer["return"]

    def _send(
        self, name: str, arguments: Mapping[str, object], prefix: bytes = b""
    ) -> None:
        assert self._socket is not None, "not connected"
        line = json.dumps({"execute": name, "arguments": arguments}).encode()
        self._socket.sendall(prefix + line + b"\n")

    def _line(self) -> bytes:
        assert self._socket is not None, "not connected"
        while b"\n" not in self._buffer:
            data = self._socket.recv(1 << 20)
            if not data or len(self._buffer) > _MAX_LINE_BYTES:
                raise OSError("the guest agent's line has no end")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _pause(seconds: float) -> None:
    time.sleep(seconds)  # noqa: TID251 - no event of the guest can be awaited
