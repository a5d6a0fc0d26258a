"""A soak test: requests from many connections while the key is rotated.

    soak.py [--requests N] [--connections N]

Every body is derived from its version, so that a wrong key and a mixed response are
detected. Half of the connections are kept open. A quarter ends after each request, and
a quarter sends long polls. The last line of the output is `soak: ok (…)`. Any other
line is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import re
import selectors
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop
from support.serving import everybody_in, held_key, no_attempt, ring_with

from skragent.observe import Counters
from skragent.serving import ApiServer, Limits

ALIAS = "db"
ROTATION_SECONDS = 0.01
DEADLINE_SECONDS = 600.0
WARM_UP = 0.1  # this part of the requests, before memory is measured
MAX_GROWTH_KIB = 2048
MAX_MORE_MAPPINGS = 8

HEAD = re.compile(
    rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*?(?:ETag: \"([0-9a-f]{32})\"\r\n)"
)
LENGTH = re.compile(rb"Content-Length: (\d+)\r\n")


def version_of(number: int) -> str:
    return f"{number:032x}"


def body_of(version: str) -> bytes:
    """Derive a body of 100 to 8000 bytes."""
    seed = hashlib.sha256(version.encode()).digest()
    size = 100 + int.from_bytes(seed[:2], "big") % 7900
    return (seed.hex().encode() * (size // 64 + 1))[:size]


def serve(path: str) -> None:
    """Run the server; called in a child process."""
    number = 0
    ring = ring_with(
        held_key(ALIAS, version=version_of(0), forms={"jwk": body_of(version_of(0))})
    )

    async def run() -> None:
        nonlocal number
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        limits = Limits(requests_per_second_per_uid=10_000_000)
        server = ApiServer(
            sock,
            ring,
            everybody_in(ring),
            Counters(),
            now=time.time,
            due_at=no_attempt,
            limits=limits,
        )
        await server.start()
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        while True:
            await asyncio.sleep(ROTATION_SECONDS)
            number += 1
            version = version_of(number)
            ring.put(held_key(ALIAS, version=version, forms={"jwk": body_of(version)}))

    uvloop.run(run())


class Client:
    """A client with one connection, or one connection per request."""

    def __init__(self, path: str, mode: str, selector: selectors.BaseSelector) -> None:
        self.path = path
        self.mode = mode
        self.selector = selector
        self.version = ""
        self.data = bytearray()
        self.sock: socket.socket | None = None
        self.ask()

    def ask(self) -> None:
        if self.sock is None:
            self.sock = socket.socket(socket.AF_UNIX)
            while True:
                try:
                    self.sock.connect(self.path)
                    break
                except BlockingIOError:
                    continue
            self.selector.register(self.sock, selectors.EVENT_READ, self)
        query, more = "", ""
        if self.mode == "poll" and self.version:
            query, more = "?wait=30", f'If-None-Match: "{self.version}"\r\n'
        if self.mode == "new":
            more = "Connection: close\r\n"
        head = f"GET /v1/keys/{ALIAS}{query} HTTP/1.1\r\nHost: x\r\n{more}\r\n"
        self.sock.sendall(head.encode())

    def take(self) -> bool:
        """Read; return whether the response is complete, and check a complete one."""
        assert self.sock is not None
        chunk = self.sock.recv(65536)
        if not chunk:
            raise SystemExit(
                f"soak: {self.mode}: the connection ended: {self.data!r:.99}"
            )
        self.data += chunk
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self.data[: end + 4])
        length = LENGTH.search(head)
        size = end + 4 + int(length[1] if length else 0)
        if len(self.data) < size:
            return False
        self.check(head, bytes(self.data[end + 4 : size]), len(self.data) - size)
        self.data.clear()
        if self.mode == "new":
            self.selector.unregister(self.sock)
            self.sock.close()
            self.sock = None
        return True

    def check(self, head: bytes, body: bytes, more: int) -> None:
        found = HEAD.match(head)
        if found is None or found[1] != b"200" or more:
            raise SystemExit(
                f"soak: {self.mode}: an unexpected response: {head!r} {more}"
            )
        version = found[2].decode()
        if body != body_of(version):
            raise SystemExit(
                f"soak: {self.mode}: the bytes of another version than {version}"
            )
        if version < self.version or (self.mode == "poll" and version == self.version):
            raise SystemExit(
                f"soak: {self.mode}: version {version} after {self.version}"
            )
        self.version = version


def resources_of(pid: int) -> tuple[int, int, int]:
    """Return the resources that may not grow: RSS in KiB, descriptors, mappings."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(status.partition("VmRSS:")[2].split()[0])
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    mappings = len(Path(f"/proc/{pid}/maps").read_text().splitlines())
    return rss, descriptors, mappings


@contextlib.contextmanager
def server(path: str) -> Iterator[int]:
    """Run the server in a child process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        serve(path)
        os._exit(0)
    try:
        assert os.read(reader, 100) == b"serving\n"
        yield pid
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def load(path: str, connections: int, requests: int, clients: list[Client]) -> None:
    """Run the clients until they have that many responses."""
    selector = clients[0].selector if clients else selectors.DefaultSelector()
    modes = ("keep", "new", "poll", "keep")
    clients.extend(
        Client(path, modes[i % 4], selector) for i in range(len(clients), connections)
    )
    deadline, answered = time.monotonic() + DEADLINE_SECONDS, 0
    while answered < requests:
        if time.monotonic() > deadline:
            raise SystemExit(f"soak: only {answered} responses in {DEADLINE_SECONDS} s")
        for key, _ in selector.select(10):
            client: Client = key.data
            if client.take():
                answered += 1
                client.ask()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skrs-") as name:
        path = str(Path(name) / "api.sock")
        with server(path) as pid:
            clients: list[Client] = []
            warm_up = int(arguments.requests * WARM_UP)
            load(path, arguments.connections, warm_up, clients)
            before = resources_of(pid)
            load(path, arguments.connections, arguments.requests - warm_up, clients)
            after = resources_of(pid)
            rotations = max(int(client.version, 16) for client in clients)
    rss, descriptors, mappings = (b - a for a, b in zip(before, after, strict=True))
    counts = (
        f"{arguments.requests} requests, {rotations} rotations, RSS {rss:+} KiB,"
        f" descriptors {descriptors:+}, mappings {mappings:+}"
    )
    # A client may be between two connections when descriptors are counted.
    is_steady = (
        rss <= MAX_GROWTH_KIB
        and abs(descriptors) <= arguments.connections // 4
        and mappings <= MAX_MORE_MAPPINGS
    )
    print(f"soak: {'ok' if is_steady else 'resources have grown'} ({counts})")
    sys.exit(not is_steady)


if __name__ == "__main__":
    main()
