"""Spoiling signed things: one bit of a signature, a member after it was signed."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from skragent.emulator.encoding import (
    base64std,
    base64url,
    decode_base64,
    dump_plain_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def flip(data: bytes) -> bytes:
    """Flip one bit in the middle; where there is none, there is nothing to flip."""
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def flip_base64(text: str) -> str:
    """Flip one bit of what standard base64 stands for."""
    return base64std(flip(decode_base64(text)))


def flip_signature(token: str) -> str:
    """Flip one bit of a compact JWS's signature."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{base64url(flip(decode_base64(signature)))}"


def change_payload(
    token: str, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> str:
    """Change a compact JWS's payload and keep its signature."""
    head, payload, signature = token.split(".")
    changed = dump_plain_json(change(json.loads(decode_base64(payload))))
    return f"{head}.{base64url(changed)}.{signature}"


def with_member(
    document: dict[str, Any], path: str, value: object | None
) -> dict[str, Any]:
    """Give a copy with a member set, or without it where the value is None.

    Args:
        document: any JSON object.
        path: names separated by dots, as release policies write claims.
        value: any JSON.
    """
    changed = copy.deepcopy(document)
    *parents, last = path.split(".")
    node = changed
    for name in parents:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    if value is None:
        node.pop(last, None)
    else:
        node[last] = value
    return changed
