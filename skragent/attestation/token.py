"""The attestation token: verified before it is used, and a value only afterwards.

What is verified: the signature by a key of the pinned provider's own key set, never
one that the token points to; issuer, times and lifetime; our nonce, exactly as it was
sent; and that our wrapping key is the first suitable one, because the vault wraps to
the first suitable one.

This is a sanity check that fails early, not the security decision: that is the
vault's, by release policy. Claims on the guest are not appraised here.
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
from skragent.job import MAX_TOKEN_CHARACTERS
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
_MAX_CLAIM_CHARS = 100  # of one that is shown

# How far the provider's clock may be ahead of ours; the vault judges by its own.
CLOCK_SKEW = timedelta(minutes=5)
# 8 hours were always seen, one day is an older document's default.
MAX_LIFETIME = timedelta(days=1)

_MADE_HERE = object()


@dataclass(frozen=True, slots=True, repr=False)
class AttestationToken:
    """A token that `verify_token` has verified, in this job or in an earlier one.

    `resume_token` makes it again from the text that the agent kept since then.
    """

    raw: str  # what goes to the vault is what was verified
    issuer: str
    issued_at: datetime
    expires_at: datetime
    wrapping_key_id: str  # the `kid` that it gives our wrapping key
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
        """The hash of its text, to find it again in others' logs."""
        return hashlib.sha256(self.raw.encode()).hexdigest()

    def text_claim(self, *path: str) -> str:
        """Look up a short printable text among the claims; else empty."""
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
        """Tell whether a key of that very name is published."""
        return any(kid == name for name, _ in self.keys)

    def candidates(self, kid: str) -> tuple[rsa.RSAPublicKey, ...]:
        """Give the keys of that name or, as Microsoft advises, all if there is none."""
        named = tuple(key for name, key in self.keys if name == kid)
        return named or tuple(key for _, key in self.keys)


class _KeySet(msgspec.Struct):
    keys: list[Any]


def parse_signing_keys(body: bytes) -> SigningKeys:
    """Read the answer of GET /certs; each key comes from its entry's `x5c`.

    An entry that cannot be used is skipped, as RFC 7517 §5 advises: another entry may
    be the one that signed the token.

    Raises:
        InvalidTokenError: token.signing_keys: this is no JWK set, or no entry is left.
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
        except ValueError as error:  # CertificateError, or no base64
            reasons.append(str(error))
    if not keys:
        why = f"; the first of {len(reasons)}: {reasons[0]}" if reasons else ""
        raise _invalid(
            f"the provider publishes no RSA signing key that can be used{why}",
            "signing_keys",
        )
    return SigningKeys(tuple(keys))


def _read_signing_key(entry: object) -> tuple[str, rsa.RSAPublicKey]:
    """Read one entry of a JWK set, whatever JSON it is.

    Raises:
        ValueError: it has no RSA key in a certificate.
    """
    if not isinstance(entry, dict):
        raise CertificateError("the entry is no JSON object")
    kid, x5c = entry.get("kid", ""), entry.get("x5c")
    if not isinstance(kid, str):
        raise CertificateError("its `kid` is no text")
    if not (isinstance(x5c, list) and x5c and isinstance(x5c[0], str)):
        raise CertificateError("it has no certificate in `x5c`")
    certificate = load_certificate(decode_base64(x5c[0]))
    with reading("the key of its certificate"):
        key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise CertificateError("the key of its certificate is no RSA key")
    return kid, key


class _RuntimeKey(msgspec.Struct):
    """A member of x-ms-runtime.keys, as the vault's rules look at it."""

    kty: str = ""
    kid: str = ""
    use: str = ""
    key_use: str = ""  # the documents' spelling of `use`
    key_ops: list[str] | str = []  # some send it as one string
    n: str = ""
    e: str = ""

    def may_wrap(self) -> bool:
        """Tell whether the vault may choose it: an RSA key for encryption."""
        ops = [self.key_ops] if isinstance(self.key_ops, str) else self.key_ops
        for_encryption = "enc" in (self.use, self.key_use) or "encrypt" in ops
        return self.kty == "RSA" and for_encryption

    def is_key(self, key: RsaPublic) -> bool:
        """Tell whether this is that key."""
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
    """Read which signing key a token names, before anything is verified.

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
    """Verify a token that the provider gave us.

    Args:
        raw: its text, a compact JWS.
        signing_keys: of the provider that was asked.
        issuer: that provider's URL.
        now: aware.
        nonce: as `encode_guest_request` got it.
        wrapping_key: of our vTPM.

    Raises:
        InvalidTokenError: token.invalid, .signature, .issuer, .lifetime, .nonce,
            .wrapping_key
        TokenExpiredError: its time is over or has not begun.
    """
    jws = _parse(raw)
    issuer = issuer.rstrip("/")
    # Never followed; but a token that points elsewhere is nobody's we know.
    if jws.jku is not None and not jws.jku.startswith(f"{issuer}/"):
        raise _invalid("its key set is not its provider's", "issuer")
    if not any(is_signed_by(jws, key) for key in signing_keys.candidates(jws.kid)):
        raise _invalid("no key of the provider made its signature", "signature")
    claims, everything = _read_claims(jws.payload)
    if claims.iss != issuer:
        raise _invalid(f"its issuer is {claims.iss[:200]!r}, not {issuer}", "issuer")
    issued_at, expires_at = _verify_times(claims, now)
    if claims.runtime.client_payload.get("nonce") != encode_nonce(nonce):
        raise _invalid("it does not bring back our nonce", "nonce")
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
    """Go on with a token that an earlier job verified, and the agent kept since.

    Args:
        raw: its text, a compact JWS.
        now: aware.
        wrapping_key: as the vTPM made it again.

    Raises:
        InvalidTokenError: token.invalid, .lifetime; .wrapping_key: PCRs changed since,
            and the key with them.
        TokenExpiredError: its time is over.
    """
    claims, everything = _read_claims(_parse(raw).payload)
    issued_at, expires_at = _verify_times(claims, now)
    try:
        key_id = _find_wrapping_key(claims.runtime.keys, wrapping_key)
    except InvalidTokenError as error:
        raise _invalid(
            "it is for a wrapping key that this vTPM does not make any more",
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
        raise _invalid(f"it is no token: {error}") from error


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
        raise _invalid("its times are no times", "lifetime") from error
    if not timedelta(0) < expires_at - issued_at <= MAX_LIFETIME:
        raise _invalid("its lifetime is none or more than a day", "lifetime")
    here = f"this VM's clock says {now:%Y-%m-%dT%H:%M:%SZ}"
    if expires_at <= now:
        raise TokenExpiredError(
            f"the token was good until {expires_at:%Y-%m-%dT%H:%M:%SZ}, and {here}",
            hint="If that is ahead of the time elsewhere, set it: `timedatectl` shows"
            " it.",
        )
    begins_at = max(issued_at, begins_at)
    if begins_at > now + CLOCK_SKEW:
        raise TokenExpiredError(
            f"the token begins at {begins_at:%Y-%m-%dT%H:%M:%SZ}, and {here}: it is"
            " behind",
            hint="Set this VM's clock: `timedatectl` shows it.",
        )
    return issued_at, expires_at


def _find_wrapping_key(keys: list[_RuntimeKey], ours: RsaPublic) -> str:
    first = next((key for key in keys if key.may_wrap()), None)
    try:
        if first is not None and first.is_key(ours):
            return first.kid
    except ValueError:  # not base64url: nobody's key
        pass
    raise _invalid(
        "the first key in it that a vault may wrap to is not this vTPM's",
        "wrapping_key",
    )


def _invalid(reason: str, kind: str = "invalid") -> InvalidTokenError:
    return InvalidTokenError(
        f"the attestation token cannot be used: {reason}", code=f"token.{kind}"
    )
