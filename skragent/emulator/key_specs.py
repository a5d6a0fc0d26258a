"""Kinds of keys as a person names them: `demo:RSA-3072`, `mac:oct-256`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
_KINDS: dict[str, dict[str, Any]] = {
    "RSA": {"kty": "RSA-HSM", "key_size": 2048},
    "RSA-2048": {"kty": "RSA-HSM", "key_size": 2048},
    "RSA-3072": {"kty": "RSA-HSM", "key_size": 3072},
    "RSA-4096": {"kty": "RSA-HSM", "key_size": 4096},
    "EC": {"kty": "EC-HSM", "crv": "P-256"},
    "P-256": {"kty": "EC-HSM", "crv": "P-256"},
    "P-384": {"kty": "EC-HSM", "crv": "P-384"},
    "P-521": {"kty": "EC-HSM", "crv": "P-521"},
    "P-256K": {"kty": "EC-HSM", "crv": "P-256K"},
    "oct": {"kty": "oct-HSM", "key_size": 256},
    "oct-128": {"kty": "oct-HSM", "key_size": 128},
    "oct-192": {"kty": "oct-HSM", "key_size": 192},
    "oct-256": {"kty": "oct-HSM", "key_size": 256},
}
KINDS = tuple(_KINDS)


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A key to create, in the words of Key Vault."""

    name: str
    parameters: dict[str, Any]


def parse_key_spec(text: str) -> KeySpec:
    """Read NAME:KIND; without a kind it is an RSA-2048 key.

    Raises:
        ValueError: with a sentence for a person.
    """
    name, _, kind = text.partition(":")
    if not _NAME.fullmatch(name):
        raise ValueError(f"`{name}` is no name of a key (letters, digits and `-`)")
    kind = (kind or "RSA").replace("-HSM", "")
    if kind not in _KINDS:
        raise ValueError(f"`{kind}` is no kind of key; there are {', '.join(KINDS)}")
    return KeySpec(name, _KINDS[kind])
