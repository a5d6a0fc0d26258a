"""A substitute for `skragent.releaser`: a child that behaves as its argument says.

Standard library only and isolated, as the real one starts: it knows of the project
nothing but the JSON that crosses the pipe.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOL = 4
VERSION = "0123456789abcdef0123456789abcdef"
KEY = b"k" * 32


def released(job: dict[str, Any]) -> dict[str, Any]:
    keys = []
    arena = mmap.mmap(job["arena_fd"], job["arena_bytes"])
    for i, key in enumerate(job["keys"]):
        arena[i * 32 : (i + 1) * 32] = KEY
        keys.append(
            {
                "alias": key["alias"],
                "kid": f"{key['vault']}/keys/{key['name']}/{VERSION}",
                "version": VERSION,
                "kty": "oct",
                "fingerprint": "",
                "public_jwk": "",
                "public_pem": "",
                "forms": {"raw": {"offset": i * 32, "length": 32}},
            }
        )
    attestation = {
        "issuer": "https://sharedeus.eus.attest.azure.net",
        "issued_at": job["now"],
        "expires_at": job["now"] + 28800,
        "token_sha256": "00" * 32,
        "compliance_status": "azure-compliant-cvm",
        "vm_id": "vm",
        "chip_generation": "Milan",
        "report_version": 2,
        "verified": [],
    }
    result = {"protocol": PROTOCOL, "released": keys}
    if not job["token"]:
        result |= {"attestation": attestation, "token": "the.attestation.token"}
    return result


def go_on_later(job: dict[str, Any], path: str) -> dict[str, Any]:
    """Attest and release nothing; then release, if the `unique` field is still there.

    Args:
        job: the job.
        path: the file in which to remember it.
    """
    offset = 16384 * len(job["keys"])
    arena = mmap.mmap(job["arena_fd"], job["arena_bytes"])
    if job["token"]:
        kept = arena[offset : offset + 256].hex() == Path(path).read_text()
        return released(job) if kept else failed("test.lost", "fatal")
    unique = os.urandom(256)
    arena[offset : offset + 256] = unique
    Path(path).write_text(unique.hex())
    failure = failed("transport.server", "retry")["failure"]
    names = [key["alias"] for key in job["keys"]]
    return released(job) | {
        "released": [],
        "failed": [{"alias": name, "failure": failure} for name in names],
        "token": f"token of {path}",
    }


def failed(code: str, disposition: str) -> dict[str, Any]:
    failure = {"code": code, "disposition": disposition, "message": "why"}
    return {"protocol": PROTOCOL, "failure": failure}


def hang(*arguments: str) -> None:
    if arguments:  # the file to write our process id to
        Path(arguments[0]).write_text(str(os.getpid()))
    answer = select.poll()
    answer.register(sys.stdout, 0)
    answer.poll()  # until no agent reads it any more: none leaves us behind


def write_on(path: str) -> None:
    """Write a file when SIGTERM has come, and end: a write that goes on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Path(path).write_text("begun")
    signal.sigwait({signal.SIGTERM})
    Path(path).write_text("done")
    sys.exit(1)


def stay(path: str) -> None:
    """End for SIGKILL alone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    hang(path)


def flood(stream: BinaryIO) -> None:
    while True:
        stream.write(b"x" * 65536)


def leave_a_grandchild() -> None:
    child = subprocess.Popen(["/bin/sleep", "3600"])  # it holds our pipes open
    say(child.pid)


def crash() -> None:
    raise ZeroDivisionError(f"with a token eyJ{'a' * 50}.b.c")


def say(what: object) -> None:
    sys.stderr.write(f"{what}\n")


# What to do before the job is read, and after it is done but not answered yet.
BEFORE: dict[str, Callable[..., object]] = {
    "hang": hang,
    "write-on": write_on,
    "stay": stay,
    "crash-early": lambda: sys.exit(3),
}
PARTS = ("parts", "parts-and-hang", "parts-and-crash")


def write_parts(result: dict[str, Any]) -> None:
    """Write the attestation and the first key, each as a part of its own."""
    first, *rest = result.pop("released")
    part = {"protocol": PROTOCOL, "is_last": False}
    attestation = {name: result.pop(name) for name in ("attestation", "token")}
    for content in (attestation, {"released": [first]}):
        sys.stdout.write(json.dumps(part | content) + "\n")
    sys.stdout.flush()
    result["released"] = rest


AFTER: dict[str, Callable[[], object]] = {
    "crash-late": crash,
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "flood-stdout": lambda: flood(sys.stdout.buffer),
    "flood-stderr": lambda: flood(sys.stderr.buffer),
    "environment": lambda: say(json.dumps(dict(os.environ))),
    "chatty": lambda: say("first\n" + ("y" * 30 + "\n") * 10000 + "last"),
    "grandchild": leave_a_grandchild,
    "nothing-and-exit-1": lambda: sys.exit(1),
}


def fail_last_key(result: dict[str, Any]) -> None:
    """Have a bug in the last key."""
    alias = result["released"].pop()["alias"]
    failure = failed("internal", "retry_slowly")["failure"]
    result["failed"] = [{"alias": alias, "failure": failure}]
    say('  File "keys.py", line 1, in run\nbuiltins.RuntimeError')


def spoil(mode: str, job: dict[str, Any], result: dict[str, Any]) -> None:
    """Change one thing of a result."""
    if mode == "wrong-protocol":
        result["protocol"] = 99
    if mode == "bug-of-one-key":
        fail_last_key(result)
    if mode == "outside":
        result["released"][0]["forms"]["raw"]["offset"] = job["arena_bytes"] - 31
    if mode == "stranger":
        result["released"][0]["alias"] = "stranger"


def answer(mode: str, job: dict[str, Any], arguments: list[str]) -> str:
    if mode == "go-on-later":
        return json.dumps(go_on_later(job, *arguments))
    result = released(job)
    if mode == "failure":
        result = failed(*arguments)
    spoil(mode, job, result)
    if mode == "garbage":
        return "hello"
    if mode in PARTS:
        write_parts(result)
    if mode == "parts-and-hang":
        hang(*arguments)
    if mode == "parts-and-crash":
        sys.exit(1)
    text = json.dumps(result)
    return text[:100] if mode == "half" else text


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    poll = select.poll()
    poll.register(1, 0)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        sys.exit(1)  # the agent died before that
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the agent's, which it inherits
    mode, arguments = sys.argv[1], sys.argv[2:]
    if mode in BEFORE:
        BEFORE[mode](*arguments)
    job = json.load(sys.stdin)
    if mode == "state-directory":
        say(job["state_directory"])
    text = answer(mode, job, arguments)
    if mode in AFTER:
        AFTER[mode]()
    sys.stdout.write(text)


main()
