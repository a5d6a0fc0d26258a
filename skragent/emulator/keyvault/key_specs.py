"""Parse key specifications: `demo:RSA-3072`, `hsm/mac:oct-256,policy=mac.json`."""

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
    """The store, name and Key Vault parameters of a key to create."""

    name: str
    parameters: dict[str, Any]
    store: Literal["vault", "hsm"] = "vault"
    policy: bytes = b""  # the release policy as JSON; empty: the emulator's default


def parse_key_spec(text: str) -> KeySpec:
    """Parse [STORE/]NAME[:KIND][,policy=FILE]; the default kind is RSA-2048.

    Raises:
        ValueError: with a message for the user.
    """
    head, comma, option = text.partition(",")  # file names may contain any character
    head, _, kind = head.partition(":")
    store, slash, name = head.rpartition("/")
    if slash and store not in ("vault", "hsm"):
        raise ValueError(f"`{store}` is not a key store; choose vault or hsm")
    if not _NAME.fullmatch(name):
        raise ValueError(f"`{name}` is not a key name (letters, digits and `-`)")
    kind = (kind or "RSA").replace("-HSM", "")
    if kind not in _KINDS:
        raise ValueError(f"`{kind}` is not a kind of key; choose {', '.join(KINDS)}")
    policy = _read_policy(option) if comma else b""
    return KeySpec(name, _KINDS[kind], "hsm" if store == "hsm" else "vault", policy)


def _read_policy(option: str) -> bytes:
    """Read the file of `policy=FILE`; it must be valid for a vault."""
    if not option.startswith(_POLICY):
        raise ValueError(f"`{option}` is not an option of a key; use policy=FILE")
    path = Path(option.removeprefix(_POLICY))
    try:
        policy = read_regular(str(path), max_bytes=_MAX_POLICY_BYTES)
        parse_policy(policy)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"the policy {path} cannot be read: {why}") from error
    except RefusalError as error:
        why = error.message.removeprefix(f"{MALFORMED}: ").removesuffix(".")
        raise ValueError(f"{path} is not a release policy: {why}") from error
    return policy
