"""The AzureGuest exchange: encode the request, decode the encrypted response.

The request has the members and encodings of Microsoft's C++ client
(github.com/Azure/confidential-computing-cvm-guest-attestation,
AttestationParameters.cpp and TpmInfo.cpp). AttestationInfo is unpadded base64url of a
JSON whose texts are padded standard base64, except SnpReport. The response is encrypted
to the wrapping key that the AK certified, so only the guest of the evidence can read
it.

`token` verifies the token, `maa` sends the request, and the TPM decrypts the inner key.
docs/protocols/attestation.md lists the members.
"""

from __future__ import annotations

import base64
import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skragent.attestation import MAX_RESPONSE_BYTES
from skragent.certificates import CertificateError, reading
from skragent.errors import InvalidTokenError
from skragent.jose import (
    decode_base64,
    decode_base64url,
    decode_json,
    encode_base64url,
)

if TYPE_CHECKING:
    from skragent.evidence.verification import Evidence

_PROTOCOL_VERSION = "2.0"
_OS_BUILD = "NotApplication"  # sic: the C++ client sends this on Linux

_ASSOCIATED_DATA = b"Transport Key"
_IV_BYTES = 12  # SP 800-38D §5.2.1.1; observed
_TAG_BYTES = 16
_INNER_KEY_BYTES = (16, 24, 32)

_MAX_VERSION_DIGITS = 9


@dataclass(frozen=True, slots=True)
class OsInfo:
    """The operating system, for people: no evidence proves it."""

    distribution: str
    version_major: int
    version_minor: int


def parse_os_release(text: str) -> OsInfo:
    """Parse os-release(5); missing or malformed values become the C++ client's."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            values[name] = _unquote(value)
    major, _, rest = values.get("VERSION_ID", "").partition(".")
    return OsInfo(
        distribution=values.get("NAME") or "Linux",
        version_major=_number(major, 1),
        version_minor=_number(rest.partition(".")[0], 0),
    )


def _number(text: str, otherwise: int) -> int:
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_VERSION_DIGITS
    return int(text) if is_number else otherwise


def _unquote(value: str) -> str:
    try:
        return " ".join(shlex.split(value))
    except ValueError:  # a quote that is never closed
        return value


def encode_guest_request(evidence: Evidence, os_info: OsInfo, nonce: str) -> bytes:
    """Encode the body of POST /attest/AzureGuest.

    Args:
        evidence: the complete evidence.
        os_info: the operating system, for people.
        nonce: the token repeats it in base64, which ties the token to this request.
    """
    info = {
        "AttestationProtocolVersion": _PROTOCOL_VERSION,
        "ClientPayload": {"nonce": encode_nonce(nonce)},
        "IsolationInfo": _isolation_info(evidence),
        "OSBuild": _base64(_OS_BUILD.encode()),
        "OSDistro": _base64(os_info.distribution.encode()),
        "OSType": _base64(b"Linux"),
        "OSVersionMajor": os_info.version_major,
        "OSVersionMinor": os_info.version_minor,
        "TcgLogs": _base64(evidence.tcg_log),
        "TpmInfo": _tpm_info(evidence),
    }
    return _json({"AttestationInfo": encode_base64url(_json(info))})


def encode_nonce(nonce: str) -> str:
    """Encode a nonce as ClientPayload and the token contain it."""
    return _base64(nonce.encode())


def _isolation_info(evidence: Evidence) -> dict[str, object]:
    proof = {
        "SnpReport": encode_base64url(evidence.hcl_report.snp_report.raw),
        "VcekCertChain": _base64(evidence.endorsements.pem),
    }
    return {
        "Evidence": {
            "Proof": _base64(_json(proof)),
            "RunTimeData": _base64(evidence.hcl_report.runtime_data.raw),
        },
        "Type": "SevSnp",
    }


def _tpm_info(evidence: Evidence) -> dict[str, object]:
    certification = evidence.wrapping_key_certification
    return {
        "AikCert": _base64(evidence.ak_certificate),
        "AikPub": _base64(evidence.ak_public),
        "EncKeyCertifyInfo": _base64(certification.message),
        "EncKeyCertifyInfoSignature": _base64(certification.signature),
        "EncKeyPub": _base64(evidence.wrapping_key_public),
        "PCRs": [
            {"Digest": _base64(digest), "Index": index}
            for index, digest in enumerate(evidence.pcrs)
        ],
        "PcrQuote": _base64(evidence.quote.message),
        "PcrSet": list(range(len(evidence.pcrs))),
        "PcrSignature": _base64(evidence.quote.signature),
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class SealedToken:
    """The provider's response, still encrypted."""

    ciphertext: bytes = field(repr=False)
    encrypted_inner_key: bytes = field(repr=False)  # RSAES-PKCS1-v1_5, wrapping key
    iv: bytes
    tag: bytes


class _Response(msgspec.Struct):
    token: str


class _EncryptionParams(msgspec.Struct, rename="pascal"):
    """Only the IV is used; block mode, padding, cipher and key size are fixed."""

    iv: str


class _Sealed(msgspec.Struct, rename="pascal"):
    jwt: str
    encrypted_inner_key: str
    encryption_params: _EncryptionParams
    authentication_data: str


def parse_guest_response(body: bytes) -> SealedToken:
    """Parse the provider's response.

    Raises:
        InvalidTokenError: token.sealed
    """
    if len(body) > MAX_RESPONSE_BYTES:
        raise _broken(f"longer than {MAX_RESPONSE_BYTES} bytes")
    try:
        # Accept padding of the outer layer, as other clients do.
        outer = decode_json(body, _Response).token.rstrip("=")
        sealed = decode_json(decode_base64url(outer), _Sealed)
        token = SealedToken(
            ciphertext=decode_base64(sealed.jwt),
            encrypted_inner_key=decode_base64(sealed.encrypted_inner_key),
            iv=decode_base64(sealed.encryption_params.iv),
            tag=decode_base64(sealed.authentication_data),
        )
    except ValueError as error:
        raise _broken(str(error)) from error
    if len(token.iv) != _IV_BYTES or len(token.tag) != _TAG_BYTES:
        raise _broken(f"an IV of {len(token.iv)} and a tag of {len(token.tag)} bytes")
    if not token.encrypted_inner_key:
        raise _broken("no inner key")
    return token


def open_sealed_token(sealed: SealedToken, inner_key: bytes | bytearray) -> str:
    """Decrypt the token with the inner key that the TPM has decrypted.

    Returns:
        The token's text, unverified.

    Raises:
        InvalidTokenError: token.sealed
    """
    if len(inner_key) not in _INNER_KEY_BYTES:
        raise _broken(f"an inner key of {len(inner_key)} bytes")
    try:
        with reading("the sealed token", quotes_reason=False):
            text = AESGCM(inner_key).decrypt(
                sealed.iv, sealed.ciphertext + sealed.tag, _ASSOCIATED_DATA
            )
    except CertificateError as error:
        raise _broken("it does not decrypt") from error
    try:
        return text.decode("ascii")
    except UnicodeDecodeError as error:
        raise _broken("its content is not ASCII") from error


def _broken(reason: str) -> InvalidTokenError:
    return InvalidTokenError(
        f"the provider's sealed response cannot be used: {reason}", code="token.sealed"
    )
