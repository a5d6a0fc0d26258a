"""The table of an authority's denials, and how each denial is confirmed.

Only an authority takes a held key away. There are two authorities: the vault that holds
the key, and the attestation provider that judges this VM's evidence. An error whose
code is in `DENIALS` is a denial. An error with any other code is a fault, and a fault
never ends a held key: a missing file, a token that does not verify, a response that is
not the authority's own, or a response of IMDS or Entra ID, which are not authorities.

Codes enter an error in the two modules that recognise an authority's own error format:
`release.vault_failures` (Key Vault REST API, "Error") and `attestation.maa` (Azure
Attestation REST API, "CloudError"). A release whose attributes say `enabled: false` is
a denial too: `release.denied.disabled`.

A vault that refuses a key because of its `exp` or `nbf` has not denied it
(`release.expired`, `release.not_yet_valid`): the refusal may be about a newer version,
and the held version ends by its own `exp`.

Other things that end a held key are not denials: its own `exp`, an administrator, and
`max_stale_seconds`. See `skragent.agent.key_records`.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Authority(enum.Enum):
    """A service that can deny a key."""

    VAULT = "vault"
    PROVIDER = "provider"  # the attestation provider


class Confirmation(enum.Enum):
    """The condition under which a denial ends a held key."""

    # An unambiguous text: a second denial, with a fresh attestation token, confirms it.
    FRESH_TOKEN = "fresh_token"  # noqa: S105 - not a password
    # The text can also describe a temporary state, such as a firewall that is being
    # changed: the denial must be repeated `REPEATED_AFTER_SECONDS` after the first.
    REPEATED = "repeated"


REPEATED_AFTER_SECONDS: Final = 300.0


class Denial(NamedTuple):
    """The authority of a denial, and its confirmation."""

    by: Authority
    confirmation: Confirmation


_CLEAR: Final = Denial(Authority.VAULT, Confirmation.FRESH_TOKEN)
_UNCLEAR: Final = Denial(Authority.VAULT, Confirmation.REPEATED)

DENIALS: Final[Mapping[str, Denial]] = MappingProxyType(
    {
        "release.denied.policy": _CLEAR,
        "release.denied.permission": _CLEAR,
        "release.denied.disabled": _CLEAR,
        "release.not_found": _CLEAR,
        "release.denied.firewall": _UNCLEAR,
        "release.denied.connection": _UNCLEAR,
        "release.denied": _UNCLEAR,
        "token.refused": Denial(Authority.PROVIDER, Confirmation.REPEATED),
    }
)


def is_denial(code: str) -> bool:
    """Return whether an error with this code is an authority's denial."""
    return code in DENIALS
