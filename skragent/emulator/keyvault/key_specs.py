"""Keys as a person names them: `demo:RSA-3072`, `hsm/mac:oct-256,policy=mac.json`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skragent.emulator.keyvault.release_policy import MALFORMED, parse_policy
from skragent.emulator.service import RefusalError
from skragent.files import read_regular

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

_POLICY = "policy="
_MAX_POLICY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A key to create: in which store, under what name, in the words of Key Vault."""

    name: str
    parameters: dict[str, Any]
    store: Literal["vault", "hsm"] = "vault"
    policy: bytes = b""  # the release policy's JSON; empty for the emulator's own


def parse_key_spec(text: str) -> KeySpec:
    """Read [STORE/]NAME[:KIND][,policy=FILE]; without a kind it is an RSA-2048 key.

    Raises:
        ValueError: with a sentence for a person.
    """
    head, comma, option = text.partition(",")  # a file's name may have any character
    head, _, kind = head.partition(":")
    store, slash, name = head.rpartition("/")
    if slash and store not in ("vault", "hsm"):
        raise ValueError(f"`{store}` is no store of keys; there are vault, hsm")
    if not _NAME.fullmatch(name):
        raise ValueError(f"`{name}` is no name of a key (letters, digits and `-`)")
    kind = (kind or "RSA").replace("-HSM", "")
    if kind not in _KINDS:
        raise ValueError(f"`{kind}` is no kind of key; there are {', '.join(KINDS)}")
    policy = _read_policy(option) if comma else b""
    return KeySpec(name, _KINDS[kind], "hsm" if store == "hsm" else "vault", policy)


def _read_policy(option: str) -> bytes:
    """Read the file of `policy=FILE`, as a vault would accept it."""
    if not option.startswith(_POLICY):
        raise ValueError(f"`{option}` is no option of a key; there is policy=FILE")
    path = Path(option.removeprefix(_POLICY))
    try:
        policy = read_regular(str(path), max_bytes=_MAX_POLICY_BYTES)
        parse_policy(policy)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"the policy {path} cannot be read: {why}") from error
    except RefusalError as error:
        why = error.message.removeprefix(f"{MALFORMED}: ").removesuffix(".")
        raise ValueError(f"{path} is no release policy: {why}") from error
    return policy
