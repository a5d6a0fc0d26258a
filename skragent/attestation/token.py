"""Verify an attestation token; only a verified token becomes an `AttestationToken`.

The checks: a key of the configured provider's own key set signed it, never a key that
the token refers to; issuer, times and lifetime; our nonce; and that our wrapping key
is the first suitable key, because the vault wraps to the first suitable key.

These are early sanity checks. The security decision is the vault's, by release policy,
so claims on the guest are not appraised here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from skragent.attestation.guest import encode_nonce
from skragent.certificates import CertificateError, reading
from skragent.errors import InvalidTokenError, TokenExpiredError
from skragent.job import MAX_TOKEN_CHARACTERS, MAX_TOKEN_LIFE_SECONDS
from skragent.jose import (
    CompactJws,
    decode_base64,
    decode_base64url,
    decode_json,
    is_signed_by,
    load_certificate,
    parse_compact_jws,
)

if TYPE_CHECKING:
    from skragent.evidence.tpm_public import RsaPublic

_MAX_SIGNING_KEYS = 64
_MAX_CLAIM_CHARS = 100  # of a claim that is shown

# The provider's clock may be ahead of this VM's by this much.
CLOCK_SKEW = timedelta(minutes=5)
MAX_LIFETIME = timedelta(seconds=MAX_TOKEN_LIFE_SECONDS)

_MADE_HERE = object()


@dataclass(frozen=True, slots=True, repr=False)
class AttestationToken:
    """A token that `verify_token` has verified, in this job or in an earlier job.

    In the second case `resume_token` made it from the text that the agent kept.
    """

    raw: str  # the verified text; the vault receives it unchanged
    issuer: str
    issued_at: datetime
    expires_at: datetime
    wrapping_key_id: str  # the token's `kid` of our wrapping key
    claims: Mapping[str, Any]
    _maker: object = field(compare=False)

    def __post_init__(self) -> None:
        if self._maker is not _MADE_HERE:
            raise TypeError("an AttestationToken is made in this module only")

    def __repr__(self) -> str:  # type: ignore[explicit-override]
        until = self.expires_at.isoformat()
        return f"AttestationToken({self.issuer}, until {until}, {self.sha256[:16]})"

    @property
    def sha256(self) -> str:
        """The hash of its text, to find the token in logs of other services."""
        return hashlib.sha256(self.raw.encode()).hexdigest()

    def text_claim(self, *path: str) -> str:
        """Return a claim that is a short printable text; else empty."""
        found: object = self.claims
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(found, str) or len(found) > _MAX_CLAIM_CHARS:
            return ""
        return found if found.isprintable() else ""


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The provider's published keys: kid and key; a kid may be empty or repeated."""

    keys: tuple[tuple[str, rsa.RSAPublicKey], ...]

    def has(self, kid: str) -> bool:
        """Return whether a key of this id is published."""
        return any(kid == name for name, _ in self.keys)

    def candidates(self, kid: str) -> tuple[rsa.RSAPublicKey, ...]:
        """Return the keys of this id or, if there is none, all keys.

        Microsoft advises that: learn.microsoft.com, azure/attestation/faq.
        """
        named = tuple(key for name, key in self.keys if name == kid)
        return named or tuple(key for _, key in self.keys)


class _KeySet(msgspec.Struct):
    keys: list[Any]


def parse_signing_keys(body: bytes) -> SigningKeys:
    """Parse the response to GET /certs; each key comes from its entry's `x5c`.

    An entry that cannot be used is skipped (RFC 7517 §5): another entry may have signed
    the token.

    Raises:
        InvalidTokenError: token.signing_keys: this is not a JWK set, or no entry can be
            used.
    """
    try:
        entries = decode_json(body, _KeySet).keys[:_MAX_SIGNING_KEYS]
    except ValueError as error:
        raise _invalid(
            f"the provider's signing keys cannot be read: {error}", "signing_keys"
        ) from error
    keys: list[tuple[str, rsa.RSAPublicKey]] = []
    reasons: list[str] = []
    for entry in entries:
        try:
            keys.append(_read_signing_key(entry))
        except ValueError as error:  # CertificateError, or not base64
            reasons.append(str(error))
    if not keys:
        why = f"; the first of {len(reasons)}: {reasons[0]}" if reasons else ""
        raise _invalid(
            f"the provider publishes no RSA signing key that can be used{why}",
            "signing_keys",
        )
    return SigningKeys(tuple(keys))


def _read_signing_key(entry: object) -> tuple[str, rsa.RSAPublicKey]:
    """Read one entry of a JWK set, which may be any JSON.

    Raises:
        ValueError: the entry has no certificate with an RSA key.
    """
    if not isinstance(entry, dict):
        raise CertificateError("the entry is not a JSON object")
    kid, x5c = entry.get("kid", ""), entry.get("x5c")
    if not isinstance(kid, str):
        raise CertificateError("its `kid` is not a text")
    if not (isinstance(x5c, list) and x5c and isinstance(x5c[0], str)):
        raise CertificateError("it has no certificate in `x5c`")
    certificate = load_certificate(decode_base64(x5c[0]))
    with reading("the key of its certificate"):
        key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise CertificateError("the key of its certificate is not an RSA key")
    return kid, key


class _RuntimeKey(msgspec.Struct):
    """A member of x-ms-runtime.keys, with what the vault's rules examine."""

    kty: str = ""
    kid: str = ""
    use: str = ""
    key_use: str = ""  # the documentation's spelling of `use`
    key_ops: list[str] | str = []  # some tokens have one string
    n: str = ""
    e: str = ""

    def may_wrap(self) -> bool:
        """Return whether the vault may choose it: an RSA key for encryption."""
        ops = [self.key_ops] if isinstance(self.key_ops, str) else self.key_ops
        for_encryption = "enc" in (self.use, self.key_use) or "encrypt" in ops
        return self.kty == "RSA" and for_encryption

    def is_key(self, key: RsaPublic) -> bool:
        """Return whether the numbers are those of the key."""
        n = int.from_bytes(decode_base64url(self.n), "big")
        e = int.from_bytes(decode_base64url(self.e), "big")
        return (n, e) == (key.modulus, key.exponent)


class _Runtime(msgspec.Struct):
    keys: list[_RuntimeKey] = []
    client_payload: dict[str, Any] = msgspec.field(
        name="client-payload", default_factory=dict
    )


class _Claims(msgspec.Struct):
    iss: str
    iat: int
    exp: int
    nbf: int | None = None
    runtime: _Runtime = msgspec.field(name="x-ms-runtime", default_factory=_Runtime)


def token_key_id(raw: str) -> str:
    """Return the id of the signing key that an unverified token names.

    Raises:
        InvalidTokenError: token.invalid
    """
    return _parse(raw).kid


def verify_token(
    raw: str,
    *,
    signing_keys: SigningKeys,
    issuer: str,
    now: datetime,
    nonce: str,
    wrapping_key: RsaPublic,
) -> AttestationToken:
    """Verify a token of the provider.

    Args:
        raw: the token's text, a compact JWS.
        signing_keys: the provider's keys.
        issuer: the provider's URL.
        now: aware.
        nonce: the argument of `encode_guest_request`.
        wrapping_key: the public key of the vTPM's wrapping key.

    Raises:
        InvalidTokenError: token.invalid, .signature, .issuer, .lifetime, .nonce,
            .wrapping_key
        TokenExpiredError: the token has expired or is not valid yet.
    """
    jws = _parse(raw)
    issuer = issuer.rstrip("/")
    # `jku` is never followed, but another provider's key set means another issuer.
    if jws.jku is not None and not jws.jku.startswith(f"{issuer}/"):
        raise _invalid("its `jku` is not its provider's", "issuer")
    if not any(is_signed_by(jws, key) for key in signing_keys.candidates(jws.kid)):
        raise _invalid("no key of the provider verifies its signature", "signature")
    claims, everything = _read_claims(jws.payload)
    if claims.iss != issuer:
        raise _invalid(f"its issuer is {claims.iss[:200]!r}, not {issuer}", "issuer")
    issued_at, expires_at = _verify_times(claims, now)
    if claims.runtime.client_payload.get("nonce") != encode_nonce(nonce):
        raise _invalid("it does not repeat the nonce of the request", "nonce")
    return AttestationToken(
        raw=raw,
        issuer=issuer,
        issued_at=issued_at,
        expires_at=expires_at,
        wrapping_key_id=_find_wrapping_key(claims.runtime.keys, wrapping_key),
        claims=everything,
        _maker=_MADE_HERE,
    )


def resume_token(
    raw: str, *, now: datetime, wrapping_key: RsaPublic
) -> AttestationToken:
    """Return a token that an earlier job verified and the agent kept.

    Args:
        raw: the token's text, a compact JWS.
        now: aware.
        wrapping_key: the wrapping key that the vTPM has made again.

    Raises:
        InvalidTokenError: token.invalid, .lifetime; .wrapping_key if the PCRs have
            changed, and the key with them.
        TokenExpiredError: the token has expired.
    """
    claims, everything = _read_claims(_parse(raw).payload)
    issued_at, expires_at = _verify_times(claims, now)
    try:
        key_id = _find_wrapping_key(claims.runtime.keys, wrapping_key)
    except InvalidTokenError as error:
        raise _invalid(
            "it is for a wrapping key that this vTPM can no longer make",
            "wrapping_key",
        ) from error
    return AttestationToken(
        raw=raw,
        issuer=claims.iss,
        issued_at=issued_at,
        expires_at=expires_at,
        wrapping_key_id=key_id,
        claims=everything,
        _maker=_MADE_HERE,
    )


def _parse(raw: str) -> CompactJws:
    try:
        return parse_compact_jws(raw, max_chars=MAX_TOKEN_CHARACTERS)
    except ValueError as error:
        raise _invalid(f"it is not a token: {error}") from error


def _read_claims(payload: bytes) -> tuple[_Claims, dict[str, Any]]:
    try:
        return decode_json(payload, _Claims), decode_json(payload, dict[str, Any])
    except ValueError as error:
        raise _invalid(f"its claims cannot be read: {error}") from error


def _verify_times(claims: _Claims, now: datetime) -> tuple[datetime, datetime]:
    try:
        issued_at = datetime.fromtimestamp(claims.iat, UTC)
        expires_at = datetime.fromtimestamp(claims.exp, UTC)
        begins_at = datetime.fromtimestamp(
            claims.iat if claims.nbf is None else claims.nbf, UTC
        )
    except (OverflowError, OSError, ValueError) as error:
        raise _invalid("`iat`, `nbf` or `exp` is out of range", "lifetime") from error
    if not timedelta(0) < expires_at - issued_at <= MAX_LIFETIME:
        raise _invalid("its lifetime is not between 0 and 24 hours", "lifetime")
    here = f"this VM's clock says {now:%Y-%m-%dT%H:%M:%SZ}"
    if expires_at <= now:
        raise TokenExpiredError(
            f"the token expired at {expires_at:%Y-%m-%dT%H:%M:%SZ}, and {here}",
            hint="If that clock is ahead, set it: `timedatectl` shows it.",
        )
    begins_at = max(issued_at, begins_at)
    if begins_at > now + CLOCK_SKEW:
        raise TokenExpiredError(
            f"the token begins at {begins_at:%Y-%m-%dT%H:%M:%SZ}, and {here}: it is"
            " behind",
            hint="Set this VM's clock: `timedatectl` shows it.",
        )
    return issued_at, expires_at


def _find_wrapping_key(keys: list[_RuntimeKey], wrapping_key: RsaPublic) -> str:
    first = next((key for key in keys if key.may_wrap()), None)
    try:
        if first is not None and first.is_key(wrapping_key):
            return first.kid
    except ValueError:  # not base64url: not our key
        pass
    raise _invalid(
        "the first key in it that a vault may wrap to is not this vTPM's",
        "wrapping_key",
    )


def _invalid(reason: str, kind: str = "invalid") -> InvalidTokenError:
    return InvalidTokenError(
        f"the attestation token cannot be used: {reason}", code=f"token.{kind}"
    )
