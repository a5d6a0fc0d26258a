"""The denials of authorities, and how the agent confirms each of them.

Of all errors, only a denial of an authority ends a held key. There are two authorities:
the vault of the key, and the attestation provider, which appraises this VM's evidence.
An error with a code in `DENIALS` is a denial. Every other error is a fault, and a fault
never ends a held key. Examples of faults are a missing file, a token that does not
verify, a response that is not in the authority's own format, and each response of IMDS
or Entra ID, which are not authorities.

Two modules recognise the authorities' error formats and set these codes:
`release.vault_failures` (Key Vault REST API, "Error") and `attestation.maa` (Azure
Attestation REST API, "CloudError"). A release with the attribute `enabled: false` is a
denial, too: `release.denied.disabled`.

A refusal because of a key's `exp` or `nbf` is not a denial (`release.expired`,
`release.not_yet_valid`): it may be about a newer version, and a held version ends by
its own `exp`.

Other events end a held key without a denial: its own `exp`, an administrator, and
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
    """The event after a first denial that makes it end a held key."""

    # The vault's reason is clear: a second denial, with a fresh attestation token.
    FRESH_TOKEN = "fresh_token"  # noqa: S105 - not a password
    # The reason may be temporary, such as a change of a firewall: a second denial at
    # least `REPEATED_AFTER_SECONDS` after the first.
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
