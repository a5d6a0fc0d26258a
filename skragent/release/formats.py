"""Compare a released key with its signed public part, and render every served form.

RSA and EC keys come as PKCS#8 PrivateKeyInfo, oct keys as their bare bytes
(github.com/microsoft/confidential-sidecar-containers, pkg/common/akv.go). Served forms:
JWK (RFC 7517, 7518, 8812), PKCS#8 as DER and PEM, and for oct the bytes themselves.

The vault signs only the public part. The private part comes from the ciphertext, which
any party can make for our wrapping key. So the two parts must be compared.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from skragent.certificates import CertificateError, load_private_key, reading
from skragent.errors import MalformedReleaseError
from skragent.jose import encode_base64url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.job import Form
    from skragent.release.envelope import PublicNumbers, WrappedKey

# RFC 7518 §6.2.1.1 and RFC 8812 §3.1; Key Vault calls the last one P-256K.
_CURVE_NAMES = {
    "secp256r1": "P-256",
    "secp384r1": "P-384",
    "secp521r1": "P-521",
    "secp256k1": "secp256k1",
}
_RSA_BITS = (2048, 3072, 4096)
MAX_OCT_BYTES = 4096  # Managed HSM has 16 to 32 bytes; the arena has no space for more

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class RenderedKey:
    """Every form of one key. `forms` is secret; the rest is public."""

    forms: Mapping[Form, bytearray] = field(repr=False)
    public_jwk: str = ""
    public_pem: str = ""
    fingerprint: str = ""  # SHA-256 of the SubjectPublicKeyInfo, hex

    def wipe(self) -> None:
        """Zero the forms, after they are in secret memory."""
        for data in self.forms.values():
            data[:] = bytes(len(data))


def render_key(wrapped: WrappedKey, plaintext: bytes | bytearray) -> RenderedKey:
    """Verify an unwrapped key and render its forms.

    Raises:
        MalformedReleaseError: release.malformed; release.key_mismatch if the private
            key does not match the signed public part.
    """
    if wrapped.kty == "oct":
        return _render_oct(wrapped.kid, bytes(plaintext))
    try:
        # The library's message may quote the key.
        with reading("the private key", quotes_reason=False):
            key = _load_private_key(plaintext, wrapped.public)
            return _render_pair(wrapped.kid, key)
    except CertificateError:
        raise _broken("not a PKCS#8 private key") from None


def _render_oct(kid: str, key: bytes) -> RenderedKey:
    if not 1 <= len(key) <= MAX_OCT_BYTES:
        raise _broken(f"a key of {len(key)} bytes")
    jwk = {"kty": "oct", "kid": kid, "k": encode_base64url(key)}
    return RenderedKey({"jwk": _json(jwk), "raw": bytearray(key)})


def _render_pair(kid: str, key: _PrivateKey) -> RenderedKey:
    public = key.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public_jwk, private_jwk = (
        _rsa_jwk(key) if isinstance(key, rsa.RSAPrivateKey) else _ec_jwk(key)
    )
    kty = {"kty": "RSA" if isinstance(key, rsa.RSAPrivateKey) else "EC", "kid": kid}
    return RenderedKey(
        forms={
            "jwk": _json(kty | public_jwk | private_jwk),
            "pem": _pkcs8(key, Encoding.PEM),
            "der": _pkcs8(key, Encoding.DER),
        },
        public_jwk=_json(kty | public_jwk).decode(),
        public_pem=public_pem.decode("ascii"),
        fingerprint=hashlib.sha256(spki).hexdigest(),
    )


def _load_private_key(
    der: bytes | bytearray, signed: PublicNumbers | None
) -> _PrivateKey:
    """Load PKCS#8 and require that every number matches the signed public part."""
    key = load_private_key(der)  # the numbers are checked below
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size not in _RSA_BITS:
            raise _broken(f"an RSA key of {key.key_size} bits")
        is_signed_one = _is_whole(key) and key.public_key().public_numbers() == signed
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in _CURVE_NAMES:
            raise _broken("an unsupported curve")
        # Derive the public key: PKCS#8 may contain a public key that does not match.
        scalar = key.private_numbers().private_value
        key = ec.derive_private_key(scalar, key.curve)
        is_signed_one = _same_point(key.public_key().public_numbers(), signed)
    else:
        raise _broken("neither an RSA nor an EC key")
    if not is_signed_one:
        raise MalformedReleaseError(
            "the released private key does not match the signed public part",
            code="release.key_mismatch",
        )
    return key


def _is_whole(key: rsa.RSAPrivateKey) -> bool:
    """Return whether the numbers belong to one key and are in range (RFC 8017 §3.2).

    A number beyond its range can have any length and still work.
    """
    numbers = key.private_numbers()
    n, e = numbers.public_numbers.n, numbers.public_numbers.e
    p, q, d = numbers.p, numbers.q, numbers.d
    return (
        min(p, q) > 1
        and 1 < e < n
        and 0 < d < n
        and 0 < numbers.iqmp < p
        and p * q == n
        and (d * e) % (p - 1) == 1
        and (d * e) % (q - 1) == 1
        and numbers.dmp1 == d % (p - 1)
        and numbers.dmq1 == d % (q - 1)
        and (numbers.iqmp * q) % p == 1
    )


def _same_point(
    derived: ec.EllipticCurvePublicNumbers, signed: PublicNumbers | None
) -> bool:
    return (
        isinstance(signed, ec.EllipticCurvePublicNumbers)
        and derived.curve.name == signed.curve.name
        and (derived.x, derived.y) == (signed.x, signed.y)
    )


def _rsa_jwk(key: rsa.RSAPrivateKey) -> tuple[dict[str, str], dict[str, str]]:
    numbers = key.private_numbers()
    public = numbers.public_numbers
    return (
        {"n": _uint(public.n), "e": _uint(public.e)},
        {
            "d": _uint(numbers.d),
            "p": _uint(numbers.p),
            "q": _uint(numbers.q),
            "dp": _uint(numbers.dmp1),
            "dq": _uint(numbers.dmq1),
            "qi": _uint(numbers.iqmp),
        },
    )


def _ec_jwk(
    key: ec.EllipticCurvePrivateKey,
) -> tuple[dict[str, str], dict[str, str]]:
    numbers = key.private_numbers()
    public = numbers.public_numbers
    size = (key.curve.key_size + 7) // 8  # RFC 7518 §6.2: always the full length
    return (
        {
            "crv": _CURVE_NAMES[key.curve.name],
            "x": encode_base64url(public.x.to_bytes(size, "big")),
            "y": encode_base64url(public.y.to_bytes(size, "big")),
        },
        {"d": encode_base64url(numbers.private_value.to_bytes(size, "big"))},
    )


def _uint(number: int) -> str:
    """Encode a Base64urlUInt: as few octets as the number needs (RFC 7518 §2)."""
    size = max(1, (number.bit_length() + 7) // 8)
    return encode_base64url(number.to_bytes(size, "big"))


def _pkcs8(key: _PrivateKey, encoding: Encoding) -> bytearray:
    return bytearray(key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption()))


def _json(value: dict[str, str]) -> bytearray:
    return bytearray(json.dumps(value, separators=(",", ":")).encode())


def _broken(reason: str) -> MalformedReleaseError:
    return MalformedReleaseError(
        f"the unwrapped bytes are not a supported key: {reason}"
    )
