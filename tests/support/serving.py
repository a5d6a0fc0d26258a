"""Keys in secret memory, requests and responses, for the tests of serving."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

from skragent.keyring import HeldKey, Keyring
from skragent.secretmem import Arena, create_arena
from skragent.serving import Access
from skragent.serving.access import Rule
from skragent.serving.http.response import Response
from skragent.serving.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skragent.job import Form
    from skragent.serving.http.long_poll import LongPoll

ALIAS = "db"
VERSION = "0123456789abcdef0123456789abcdef"
NEXT_VERSION = "f" * 32
NOW = 1767225660.0  # a minute after the release
ME = Rule(uid=os.getuid())
MYSELF = Peer(uid=os.getuid(), gid=os.getgid(), pid=os.getpid())
FORMS: dict[Form, bytes] = {
    "jwk": b'{"kty":"RSA","d":"secret"}',
    "pem": b"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n",
    "der": b"\x30\x82secret",
}


def held_key(
    alias: str = ALIAS,
    *,
    version: str = VERSION,
    forms: dict[Form, bytes] | None = None,
    arena: Arena | None = None,
) -> HeldKey:
    """Put the forms of a key into secret memory."""
    contents = FORMS if forms is None else forms
    if arena is None:
        arena = create_arena(sum(map(len, contents.values())) or 1)
        arena.close_fd()
    views: dict[Form, memoryview] = {}
    offset = 0
    for form, content in contents.items():
        views[form] = arena.view(offset, len(content))
        views[form][:] = content
        offset += len(content)
    return key_of(alias, version, views)


def key_of(
    alias: str,
    version: str,
    views: dict[Form, memoryview],
    public_jwk: str = "{}",
    public_pem: str = "",
) -> HeldKey:
    return HeldKey(
        alias=alias,
        kid=f"https://v.vault.azure.net/keys/{alias}/{version}",
        version=version,
        kty="RSA",
        fingerprint="ab" * 32,
        public_jwk=public_jwk,
        public_pem=public_pem,
        forms=views,
        released_at=1767225600.0,
    )


def ring_with(*keys: HeldKey, waiting: Sequence[str] = ()) -> Keyring:
    """Return a keyring with these keys, and with names without keys."""
    ring = Keyring([*(key.alias for key in keys), *waiting])
    for key in keys:
        ring.put(key)
    return ring


def no_attempt(_alias: str) -> None:
    """Return no time: without a scheduler, no attempt is planned."""


def everybody_in(ring: Keyring, rule: Rule = ME) -> Access:
    """Return access rules with one rule for every key."""
    return Access({entry.alias: (rule,) for entry in ring})


def get(path: str, *headers: str) -> bytes:
    """Write a request."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


class ReceivedResponse:
    """A parsed response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document

    @property
    def code(self) -> str:
        return str(self.json["code"])


def received(response: Response | LongPoll) -> ReceivedResponse:
    """Parse a response of a handler."""
    assert isinstance(response, Response)
    (parsed,) = split_responses(b"".join(response.parts))
    return parsed


def split_responses(data: bytes) -> list[ReceivedResponse]:
    """Split a stream into responses. Other bytes fail the test."""
    responses = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"a response without an end: {head[:80]!r}"
        status_line, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [ -~]+", status_line)
        assert match, status_line
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("Content-Length", "0"))
        assert len(data) >= length, "a response is incomplete"
        responses.append(ReceivedResponse(int(match[1]), headers, data[:length]))
        data = data[length:]
    return responses
