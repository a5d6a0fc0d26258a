"""Client assertions (RFC 7523 §2.2), as Microsoft Entra ID verifies them.

An assertion is a JWT in place of a client secret. Either the application signs it with
the key of its registered certificate, or a trusted platform signs it. The issuer tells
which: an application's id, or a URL.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from skragent.emulator.encoding import NotBase64Error, decode_base64
from skragent.emulator.entra.errors import bad_client, bad_request

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection

    from cryptography import x509

    from skragent.emulator.entra.applications import Application, Federation
    from skragent.emulator.service import RefusalError

# Microsoft does not document the clock skew that Entra ID allows. Five minutes is the
# default of its own JWT library (TokenValidationParameters.ClockSkew).
_SKEW_SECONDS = 300

_PADDINGS: dict[str, padding.AsymmetricPadding] = {
    "RS256": padding.PKCS1v15(),
    "PS256": padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size),
}
_HELP = (
    "Review the documentation at https://docs.microsoft.com/azure/active-directory/"
    "develop/active-directory-certificate-credentials"
)
_FEDERATION_HELP = (
    "Check your federated identity credential Subject, Audience and Issuer against the"
    " presented assertion."
    " https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
)


@dataclass(frozen=True, slots=True)
class _Jws:
    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split a compact JWS without verifying it."""
        try:
            head, payload, signature = text.split(".")
            header = json.loads(decode_base64(head))
            claims = json.loads(decode_base64(payload))
            parsed = cls(
                header, claims, f"{head}.{payload}".encode(), decode_base64(signature)
            )
        except (NotBase64Error, ValueError, RecursionError) as error:
            raise _malformed() from error
        if not isinstance(header, dict) or not isinstance(claims, dict):
            raise _malformed()
        return parsed

    def text(self, claim: str) -> str:
        """Return a claim that must be a non-empty string."""
        value = self.claims.get(claim)
        if not isinstance(value, str) or not value:
            raise _malformed()
        return value

    def is_signed_by(self, key: rsa.RSAPublicKey, *algorithms: str) -> bool:
        algorithm = self.header.get("alg")
        if algorithm not in algorithms:
            return False
        scheme = _PADDINGS[algorithm]
        try:
            key.verify(self.signature, self.signed, scheme, hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def verify_assertion(
    text: str, application: Application, audiences: Collection[str], now: dt.datetime
) -> None:
    """Verify that an assertion authenticates an application.

    Args:
        text: the assertion.
        application: the application that the request names.
        audiences: the names of the endpoint.
        now: the endpoint's time.

    Raises:
        RefusalError: with the text of Entra ID.
    """
    jws = _Jws.parse(text)
    if "://" in jws.text("iss"):
        _verify_platform(jws, application)
    else:
        _verify_own(jws, application, audiences)
    _verify_times(jws, now)


def _verify_own(
    jws: _Jws, application: Application, audiences: Collection[str]
) -> None:
    if (
        jws.text("iss") != application.client_id
        or jws.text("sub") != application.client_id
    ):
        raise bad_client(
            "AADSTS700021: Client assertion application identifier doesn't match"
            f" 'client_id' parameter. {_HELP} ."
        )
    cert = next((c for c in application.certificates if _is_named(jws, c)), None)
    if cert is None:
        raise bad_client(
            "AADSTS700027: The certificate with identifier used to sign the client"
            " assertion is not registered on application. [Reason - The key was not"
            " found., Please visit the Azure Portal, Graph Explorer or directly use MS"
            f" Graph to see configured keys for app Id '{application.client_id}']."
        )
    key = cert.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or not jws.is_signed_by(key, *_PADDINGS):
        raise _bad_signature(cert)
    if jws.text("aud") not in audiences:
        raise bad_client(
            "AADSTS700023: Client assertion audience claim does not match Realm"
            f" issuer. {_HELP}."
        )
    # Each assertion has its own `jti` (RFC 7523 §3), but MSAL reuses an assertion while
    # it is valid. So the claim is required, and may repeat. Azure's text for a missing
    # `jti` is unknown.
    jws.text("jti")


def _is_named(jws: _Jws, cert: x509.Certificate) -> bool:
    """Return whether the header names a certificate by either fingerprint."""
    # SHA-1 only names it (RFC 7515 §4.1.7); some clients send no other fingerprint.
    algorithms = {"x5t": hashes.SHA1(), "x5t#S256": hashes.SHA256()}
    given = [name for name in algorithms if name in jws.header]
    try:
        named = {name: decode_base64(jws.header[name]) for name in given}
    except NotBase64Error as error:
        raise _malformed() from error
    return bool(named) and all(
        cert.fingerprint(algorithms[name]) == value for name, value in named.items()
    )


def _verify_platform(jws: _Jws, application: Application) -> None:
    trusted = _federation(jws, application)
    if jws.header.get("kid") != trusted.kid:
        raise bad_client(
            f"AADSTS7000272: The certificate with identifier {jws.header.get('kid')}"
            " used to sign the federated credential could not be found in the metadata"
            f" of identity provider {trusted.issuer}. Please validate that your"
            " Identity Provider's metadata exposes the key used to sign the incoming"
            " token."
        )
    # Entra ID accepts only RS256 for tokens of other issuers. Its text for an invalid
    # signature is unknown.
    if not jws.is_signed_by(trusted.key, "RS256"):
        raise _bad_signature(None)


def _federation(jws: _Jws, application: Application) -> Federation:
    """Return the federation that matches a token; comparison is exact."""
    found = [f for f in application.federations if f.issuer == jws.text("iss")]
    if not found:
        raise _no_match("AADSTS700211", "issuer", jws.text("iss"))
    found = [f for f in found if f.subject == jws.text("sub")]
    if not found:
        raise _no_match("AADSTS700213", "subject", jws.text("sub"))
    given = jws.claims.get("aud")
    audiences = given if isinstance(given, list) else [given]
    for trusted in found:
        if trusted.audience in audiences:
            return trusted
    raise _no_match("AADSTS7002121", "audience", str(given))


def _verify_times(jws: _Jws, now: dt.datetime) -> None:
    begins, ends = jws.claims.get("nbf", 0), jws.claims.get("exp")
    if not isinstance(begins, int | float) or not isinstance(ends, int | float):
        raise _malformed()
    seconds = now.timestamp()
    if not begins - _SKEW_SECONDS <= seconds < ends + _SKEW_SECONDS:
        raise bad_client(
            "AADSTS700024: Client assertion is not within its valid time range."
            f" Current time: {now:%Y-%m-%dT%H:%M:%SZ}, assertion valid from {begins},"
            f" expiry time of assertion {ends}. {_HELP} ."
        )


def _malformed() -> RefusalError:
    return bad_request(
        "invalid_request", "AADSTS50027: JWT token is invalid or malformed."
    )


def _bad_signature(cert: x509.Certificate | None) -> RefusalError:
    found = ""
    if cert is not None:
        # Entra ID names a certificate by its SHA-1 fingerprint in hexadecimal.
        name = cert.fingerprint(hashes.SHA1()).hex().upper()
        found = (
            f", Thumbprint of key used by client: '{name}', Found key"
            f" 'Start={cert.not_valid_before_utc:%m/%d/%Y %H:%M:%S},"
            f" End={cert.not_valid_after_utc:%m/%d/%Y %H:%M:%S}'"
        )
    return bad_client(
        "AADSTS700027: Client assertion contains an invalid signature. [Reason - The"
        f" provided signature value did not match the expected signature value.{found}]"
    )


def _no_match(number: str, what: str, given: str) -> RefusalError:
    return bad_client(
        f"{number}: No matching federated identity record found for presented"
        f" assertion {what} '{given}'. {_FEDERATION_HELP}"
    )
