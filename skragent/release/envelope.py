"""Verify a release, a JWS signed by the vault, and read the wrapped key in it.

The vault signs with the key of its TLS certificate (KeyReleaseResult of Azure's REST
specification; github.com/microsoft/confidential-sidecar-containers, pkg/common/akv.go).
Any party that can answer HTTPS in place of the vault could wrap a key of its own to our
wrapping key. So the signature, the chain to trusted roots and the vault's host name are
verified first, and then that the release is for this request. Vaults and Managed HSMs
differ in the order of members, `-HSM`, leading zeros and absent members; both parse.

`keywrap` unwraps the key, and `formats` compares it with the signed public part.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from skragent.certificates import CertificateError, reading
from skragent.errors import MalformedReleaseError
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
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography.x509.verification import ServerVerifier

MAX_RELEASE_CHARS = 512 * 1024  # observed: 9 kB, more with a long release policy
_MAX_CHAIN = 8
_MAX_CIPHERTEXT_BYTES = 64 * 1024
_MAX_INTEGER_BYTES = 1024  # RSA-4096 has 512, and leading zeros occur

Enc = Literal["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"]
KeyType = Literal["RSA", "EC", "oct"]
PublicNumbers = rsa.RSAPublicNumbers | ec.EllipticCurvePublicNumbers

# Key Vault's names and RFC 8812's.
_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
    "P-256K": ec.SECP256K1,
    "secp256k1": ec.SECP256K1,
}


# A key version of Key Vault and Managed HSM: 32 hexadecimal digits. It becomes an ETag.
_VERSION = re.compile(r"[0-9a-f]{32}")

# The id of a key in printable ASCII without blanks: it is served and logged unchanged.
# The longest id in Azure has 24 characters of vault, 127 of name and 32 of version.
_KID = re.compile(r"[!-~]{1,512}")


def is_version(text: str) -> bool:
    """Return whether a text is a key version as vaults write it."""
    return _VERSION.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """The request that a release must be for."""

    vault: str  # https://HOST[:PORT]
    name: str
    version: str  # empty for the latest
    enc: Enc
    nonce: str
    wrapping_key_id: str  # the token's kid of our wrapping key


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A released key, still encrypted; its other members are verified."""

    kid: str
    version: str
    kty: KeyType
    public: PublicNumbers | None  # None for oct
    enc: Enc
    ciphertext: bytes = field(repr=False)
    repeats_nonce: bool  # whether the signed request has our nonce; else it has none
    enabled: bool = True
    not_before: float | None = None
    expires: float | None = None


class _Request(msgspec.Struct):
    enc: Enc
    kid: str
    nonce: str | None = None


class _Jwk(msgspec.Struct):
    kid: str
    kty: Literal["RSA", "RSA-HSM", "EC", "EC-HSM", "oct", "oct-HSM"]
    key_hsm: str
    n: str = ""
    e: str = ""
    crv: str = ""
    x: str = ""
    y: str = ""


# Optional by Azure's specification (KeyBundle), although every observed release has
# them. A vault also releases outside of `nbf` and `exp`, so the agent enforces them. A
# missing attribute imposes no restriction.
class _Attributes(msgspec.Struct):
    enabled: bool = True
    nbf: float | None = None
    exp: float | None = None


class _KeyBundle(msgspec.Struct):
    key: _Jwk
    attributes: _Attributes = msgspec.field(default_factory=_Attributes)


class _Response(msgspec.Struct):
    key: _KeyBundle


class _Payload(msgspec.Struct):
    request: _Request
    response: _Response


class _KeyHsmHeader(msgspec.Struct):
    kid: str = ""
    enc: str = ""


class _KeyHsm(msgspec.Struct):
    ciphertext: str
    header: _KeyHsmHeader = msgspec.field(default_factory=_KeyHsmHeader)


def verify_release(
    raw: str,
    request: ReleaseRequest,
    *,
    now: datetime,
    roots: Sequence[x509.Certificate],
) -> WrappedKey:
    """Verify a vault's response and read the wrapped key.

    Args:
        raw: the compact JWS of the response.
        request: the request.
        now: aware; the vault's certificates must be valid then.
        roots: the vault's certificate must chain to one of them.

    Raises:
        MalformedReleaseError: release.malformed, .chain, .host, .signature, .mismatch
    """
    try:
        jws = parse_compact_jws(raw, max_chars=MAX_RELEASE_CHARS)
        chain = _parse_chain(jws)
    except ValueError as error:
        raise _broken(f"it is not a signed release: {error}") from error
    _verify_chain(chain, request, now, roots)
    signer = _public_key(chain[0])
    if not isinstance(signer, rsa.RSAPublicKey) or not is_signed_by(jws, signer):
        raise _broken("its certificate's key did not sign it", "signature")
    try:
        payload = decode_json(jws.payload, _Payload)
        _verify_request(payload, request)
        return _read_key(payload, request)
    except ValueError as error:
        raise _broken(f"its signed content cannot be read: {error}") from error


def _public_key(certificate: x509.Certificate) -> object:
    try:
        with reading("the key of the vault's certificate"):
            return certificate.public_key()
    except CertificateError as error:
        raise _broken(str(error), "signature") from error


def _parse_chain(jws: CompactJws) -> list[x509.Certificate]:
    if not 1 <= len(jws.x5c) <= _MAX_CHAIN:
        raise ValueError(f"a chain of {len(jws.x5c)} certificates")
    return [load_certificate(decode_base64(text)) for text in jws.x5c]


def _verify_chain(
    chain: list[x509.Certificate],
    request: ReleaseRequest,
    now: datetime,
    roots: Sequence[x509.Certificate],
) -> None:
    """Verify chain and host as a browser does (RFC 5280, CA/Browser Forum baseline)."""
    host = _split(request.vault).hostname or ""
    try:
        with reading(f"the certificate chain of {host}"):
            _build_verifier(host, now, roots).verify(chain[0], chain[1:])
    except CertificateError as error:
        cause = error.__cause__
        if not isinstance(
            cause, VerificationError
        ):  # such as a chain without a DNS name
            raise _broken(str(error), "chain") from error
        reason = " ".join(str(cause).split())[:300]
        # Only the library's text distinguishes the two; no decision depends on it.
        kind = "host" if "subjectAltName" in reason else "chain"
        raise _broken(
            f"the certificate chain does not prove {host}: {reason}", kind
        ) from error


def _build_verifier(
    host: str, now: datetime, roots: Sequence[x509.Certificate]
) -> ServerVerifier:
    return (
        PolicyBuilder()
        .store(Store(list(roots)))
        .time(now)
        .build_server_verifier(_subject(host))
    )


def _subject(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _verify_request(payload: _Payload, request: ReleaseRequest) -> None:
    """Verify that this release is for our request."""
    signed = payload.request
    if signed.enc != request.enc:
        raise _mismatch(f"wrapped with {signed.enc}, not {request.enc}")
    if signed.nonce is not None and signed.nonce != request.nonce:
        raise _mismatch("it repeats another nonce")
    _verify_kid(signed.kid, request, may_lack_version=True)
    _verify_kid(payload.response.key.key.kid, request, may_lack_version=False)


def _verify_kid(kid: str, request: ReleaseRequest, *, may_lack_version: bool) -> str:
    """Verify that an id is of our vault, key and version; return the version."""
    # urlsplit removes tabs and line ends from a URL, and blanks from its start.
    if not _KID.fullmatch(kid):
        raise ValueError("a key's id is not printable ASCII, or too long")
    expected, found = _split(request.vault), _split(kid)
    if found.scheme != "https" or found.hostname != expected.hostname:
        raise _mismatch("the key is of another vault")
    # Azure's ids have no port; if an id has one, it must be the vault's.
    if found.port is not None and found.port != expected.port:
        raise _mismatch("the key is of another vault")
    collection, _, name_and_version = found.path.removeprefix("/").partition("/")
    name, _, version = name_and_version.partition("/")
    if collection != "keys" or name.lower() != request.name.lower():
        raise _mismatch("it is another key")
    if request.version and version != request.version:
        lacks = may_lack_version and not version
        if not lacks:
            raise _mismatch("it is another version")
    if not version and not may_lack_version:
        raise _mismatch("it has no version")
    if version and not is_version(version):
        raise ValueError("a version that is not 32 hexadecimal digits")
    if found.query or found.fragment or found.username is not None:
        raise ValueError("an id with more than vault, name and version")
    return version


def _split(url: str) -> urllib.parse.SplitResult:
    parts = urllib.parse.urlsplit(url)
    _ = parts.port  # raises ValueError if the port is not a number
    return parts


def _read_key(payload: _Payload, request: ReleaseRequest) -> WrappedKey:
    bundle = payload.response.key
    wrapped = decode_json(decode_base64url(bundle.key.key_hsm), _KeyHsm)
    if wrapped.header.enc not in ("", payload.request.enc):
        raise _mismatch("the wrapped key names another enc")
    if wrapped.header.kid not in ("", request.wrapping_key_id):
        raise _mismatch("it is wrapped to another key")
    ciphertext = decode_base64url(wrapped.ciphertext)
    if len(ciphertext) > _MAX_CIPHERTEXT_BYTES:
        raise ValueError(f"a ciphertext of {len(ciphertext)} bytes")
    kty, public = _read_public(bundle.key)
    return WrappedKey(
        kid=bundle.key.kid,
        version=_verify_kid(bundle.key.kid, request, may_lack_version=False),
        kty=kty,
        public=public,
        enc=payload.request.enc,
        ciphertext=ciphertext,
        repeats_nonce=payload.request.nonce is not None,
        enabled=bundle.attributes.enabled,
        not_before=bundle.attributes.nbf,
        expires=bundle.attributes.exp,
    )


def _read_public(jwk: _Jwk) -> tuple[KeyType, PublicNumbers | None]:
    if jwk.kty in ("RSA", "RSA-HSM"):
        return "RSA", rsa.RSAPublicNumbers(e=_integer(jwk.e), n=_integer(jwk.n))
    if jwk.kty in ("EC", "EC-HSM"):
        if jwk.crv not in _CURVES:
            raise ValueError("an unknown curve")
        curve = _CURVES[jwk.crv]()
        x, y = _integer(jwk.x), _integer(jwk.y)
        return "EC", ec.EllipticCurvePublicNumbers(x, y, curve)
    return "oct", None


def _integer(text: str) -> int:
    """Decode an integer; vaults write leading zeros (`AAEAAQ`)."""
    data = decode_base64url(text)
    if not 0 < len(data) <= _MAX_INTEGER_BYTES:
        raise ValueError(f"a public number of {len(data)} bytes")
    return int.from_bytes(data, "big")


def _mismatch(reason: str) -> MalformedReleaseError:
    return _broken(reason, "mismatch")


def _broken(reason: str, kind: str = "malformed") -> MalformedReleaseError:
    return MalformedReleaseError(
        f"the release cannot be used: {reason}", code=f"release.{kind}"
    )
