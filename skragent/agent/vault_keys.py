"""Which key of which vault is meant, however the configuration spells it.

A host's letter case, a slash at the end and the default port are one vault's (RFC 3986
§6.2), and Key Vault ignores the case of a key's name ("About keys, secrets, and
certificates": object identifiers are case-insensitive).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from skragent.job import KeyRequest
    from skragent.keyring import PreservedRecord

_DEFAULT_PORT: Final = 443  # of https


def vault_origin(url: str) -> str:
    """Spell a vault's URL, which has been judged, in the one way that requests have."""
    origin = url.lower().removesuffix("/")
    host, _, port = origin.rpartition(":")
    if port.isdecimal():  # `]` ends an IPv6 address without a port
        return host if int(port) == _DEFAULT_PORT else f"{host}:{int(port)}"
    return origin


def is_same_key(
    one: KeyRequest | PreservedRecord, other: KeyRequest | PreservedRecord
) -> bool:
    """Return whether both mean one key of one vault, of whatever version."""
    return _identity(one) == _identity(other)


def _identity(key: KeyRequest | PreservedRecord) -> tuple[str, str]:
    return vault_origin(key.vault), key.name.lower()
