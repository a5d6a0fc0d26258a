"""Release a key: parse the request, check the policy, wrap the key.

The vault signs the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skragent.emulator.encoding import base64url
from skragent.emulator.keyvault.key_material import bad_parameter
from skragent.emulator.keyvault.key_wrapping import (
    DEFAULT_ENC,
    select_wrapping_key,
    wrap_key,
)
from skragent.emulator.service import RefusalError

if TYPE_CHECKING:
    from skragent.emulator.keyvault.key_store import KeyVersion
    from skragent.emulator.keyvault.release_policy import Policy

Through = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """The body of a release request."""

    token: str
    enc: str
    nonce: str | None


def parse_release_request(body: dict[str, Any]) -> ReleaseRequest:
    """Parse a body; the default `enc` uses SHA-1."""
    token = body.get("target")
    enc = body.get("enc") or DEFAULT_ENC
    nonce = body.get("nonce")
    if not isinstance(token, str) or not token:
        raise bad_parameter("target must be an attestation token.")
    if not isinstance(enc, str) or not isinstance(nonce, str | None):
        raise bad_parameter("enc and nonce must be strings.")
    return ReleaseRequest(token, enc, nonce)


def verify_policy(policy: Policy, claims: dict[str, Any]) -> None:
    """Require that a verified token's claims satisfy the policy."""
    if not policy.is_satisfied_by(claims):
        raise RefusalError(
            403,
            "Forbidden",
            "Target environment attestation does not meet key release policy"
            " requirements.",
            inner="AccessDenied",
        )


def wrap_for_release(
    asked: ReleaseRequest,
    claims: dict[str, Any],
    version: KeyVersion,
    through: Through,
) -> dict[str, Any]:
    """Wrap a version to the token's wrapping key; return the `key_hsm` members."""
    wrapping_key = select_wrapping_key(claims)
    ciphertext = wrap_key(
        through("target", version.target),
        through("wrapping_key", wrapping_key.key),
        asked.enc,
    )
    return {
        "schema_version": "1.0",
        "header": {"kid": wrapping_key.kid, "alg": "dir", "enc": asked.enc},
        "ciphertext": base64url(ciphertext),
    }
