"""Change signed data: flip a bit of a signature, change a member after signing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from skragent.emulator.encoding import (
    base64std,
    base64url,
    decode_base64,
    dump_plain_json,
)
from skragent.emulator.faults.grammar import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER: Final = 0
PAYLOAD: Final = 1


def flip(data: bytes) -> bytes:
    """Flip one bit in the middle; empty data stays empty."""
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def flip_base64(text: str) -> str:
    """Flip one bit of the bytes in a standard base64 text."""
    return base64std(flip(decode_base64(text)))


def flip_signature(token: str) -> str:
    """Flip one bit of a compact JWS's signature."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{base64url(flip(decode_base64(signature)))}"


def change_part(
    token: str, number: int, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> str:
    """Change a compact JWS's HEADER or PAYLOAD without a new signature."""
    parts = token.split(".")
    changed = change(json.loads(decode_base64(parts[number])))
    parts[number] = base64url(dump_plain_json(changed))
    return ".".join(parts)


def with_member(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy in which a member is set or removed.

    Args:
        document: a JSON object.
        path: names separated by dots, like claims in release policies; a list's
            member is named by its number, from 0 on.
        value: a JSON value, or MISSING to remove the member.
    """
    changed: dict[str, Any] = _with(document, path, value)
    return changed


def _with(node: object, path: str, value: object) -> Any:  # noqa: ANN401 - any JSON
    name, dot, rest = path.partition(".")
    if isinstance(node, list) and name in map(str, range(len(node))):
        numbered = {str(number): member for number, member in enumerate(node)}
        return list(_with(numbered, path, value).values())
    members = node if isinstance(node, dict) else {}
    if dot:
        return members | {name: _with(members.get(name), rest, value)}
    if value is MISSING:
        return {n: member for n, member in members.items() if n != name}
    return members | {name: value}
