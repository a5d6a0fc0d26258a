"""The claims of MAA's tokens about accepted evidence.

Names and types are those of Microsoft Azure Attestation's guest (`azurevm`) and
platform (`sevsnpvm`) tokens. `maa/service.py` adds issuer, times and signature.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from skragent.emulator.encoding import base64std, base64url, base64url_uint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

    from skragent.emulator.maa.appraisal.endorsements import Endorsements
    from skragent.emulator.maa.appraisal.snp_report import SnpReport

WRAPPING_KEY_ID = "TpmEphemeralEncryptionKey"

# The effective default policy of the shared providers. Its hash is a claim.
POLICY = (
    'version= 1.0; authorizationrules { [type=="secureboot", value==false] => deny();'
    " => permit(); }; issuancerules { };"
)

# The claims of a healthy Linux guest; the emulator does not check them.
_FIXED_GUEST_CLAIMS: dict[str, Any] = {
    "x-ms-attestation-type": "azurevm",
    "x-ms-azurevm-attestation-protocol-ver": "2.0",
    "x-ms-azurevm-bootdebug-enabled": False,
    "x-ms-azurevm-dbvalidated": True,
    "x-ms-azurevm-dbxvalidated": True,
    "x-ms-azurevm-debuggersdisabled": True,
    "x-ms-azurevm-default-securebootkeysvalidated": True,
    "x-ms-azurevm-elam-enabled": False,
    "x-ms-azurevm-flightsigning-enabled": False,
    "x-ms-azurevm-hvci-policy": 0,
    "x-ms-azurevm-hypervisordebug-enabled": False,
    "x-ms-azurevm-kerneldebug-enabled": False,
    "x-ms-azurevm-signingdisabled": True,
    "x-ms-azurevm-testsigning-enabled": False,
}


def common_claims() -> dict[str, Any]:
    """Return the claims that every token has."""
    # The hash covers the base64url text of the policy.
    digest = hashlib.sha256(base64url(POLICY.encode()).encode()).digest()
    return {"x-ms-policy-hash": base64url(digest), "x-ms-ver": "1.0"}


def snp_claims(
    report: SnpReport,
    endorsements: Endorsements,
    runtime: dict[str, Any] | None,
    compliance: str | None,
) -> dict[str, Any]:
    """Return a report's claims: a platform token, or a guest's `x-ms-isolation-tee`."""
    tcb = report.reported_tcb(endorsements.product)
    claims: dict[str, Any] = {
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-sevsnpvm-authorkeydigest": report.author_key_digest.hex(),
        "x-ms-sevsnpvm-bootloader-svn": tcb["bootloader"],
        "x-ms-sevsnpvm-familyId": report.family_id.hex(),
        "x-ms-sevsnpvm-guestsvn": report.guest_svn,
        "x-ms-sevsnpvm-hostdata": report.host_data.hex(),
        "x-ms-sevsnpvm-idkeydigest": report.id_key_digest.hex(),
        "x-ms-sevsnpvm-imageId": report.image_id.hex(),
        "x-ms-sevsnpvm-is-debuggable": report.is_debuggable,
        "x-ms-sevsnpvm-launchmeasurement": report.measurement.hex(),
        "x-ms-sevsnpvm-microcode-svn": tcb["microcode"],
        "x-ms-sevsnpvm-migration-allowed": report.migration_allowed,
        "x-ms-sevsnpvm-reportdata": report.report_data.hex(),
        "x-ms-sevsnpvm-reportid": report.report_id.hex(),
        "x-ms-sevsnpvm-smt-allowed": report.smt_allowed,
        "x-ms-sevsnpvm-snpfw-svn": tcb["snp"],
        "x-ms-sevsnpvm-tee-svn": tcb["tee"],
        "x-ms-sevsnpvm-vmpl": report.vmpl,
        "x-ms-sevsnpvm-chip-family": endorsements.product,
        "x-ms-sevsnpvm-chipid": report.chip_id.hex(),
    }
    if runtime is not None:
        claims["x-ms-runtime"] = runtime
    if compliance is not None:
        claims["x-ms-compliance-status"] = compliance
    return claims


def guest_claims(
    system: dict[str, Any],
    tee: dict[str, Any],
    pcrs: dict[int, bytes],
    wrapping_key: rsa.RSAPublicKey,
    client_payload: object,
) -> dict[str, Any]:
    """Return the claims about a guest's evidence, including the wrapping key."""
    runtime: dict[str, Any] = {"keys": [_wrapping_key_jwk(wrapping_key)]}
    if client_payload:
        runtime["client-payload"] = client_payload
    values = {f"pcr{index}": base64std(value) for index, value in pcrs.items()}
    return {
        **_FIXED_GUEST_CLAIMS,
        **system,
        "secureboot": True,  # guests without secure boot do not get a token
        "x-ms-azurevm-attested-pcrs": list(pcrs),
        "x-ms-azurevm-attested-pcr-values": values,
        "x-ms-isolation-tee": tee,
        "x-ms-runtime": runtime,
    }


def _wrapping_key_jwk(key: rsa.RSAPublicKey) -> dict[str, Any]:
    numbers = key.public_numbers()
    return {
        "e": base64url_uint(numbers.e),
        "key_ops": ["encrypt"],
        "kid": WRAPPING_KEY_ID,
        "kty": "RSA",
        "n": base64url_uint(numbers.n),
    }
