"""Guest attestation (`/attest/AzureGuest`): appraise hardware, vTPM and boot together.

AMD certifies the chip, the chip signs the hash of the runtime data, the runtime data
has the vTPM's AK, the AK signs the PCRs and the wrapping key, and the boot log must
replay to the PCRs.
Each link that fails has its own refusal.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from skragent.emulator.maa.appraisal import claims
from skragent.emulator.maa.appraisal import tpm_structures as tpm
from skragent.emulator.maa.appraisal.event_log import parse_event_log
from skragent.emulator.maa.appraisal.fields import (
    base64_member,
    decoded,
    invalid,
    member,
    parsed_object,
    undecodable,
)
from skragent.emulator.maa.appraisal.platform import Trust, verify_snp_evidence
from skragent.emulator.service import RefusalError

if TYPE_CHECKING:
    import datetime as dt

    from cryptography.hazmat.primitives.asymmetric import rsa

# Azure refused quotes over more PCRs in 2025 ("PCR11").
_PCRS = tuple(range(8))
_PROTOCOL = "2.0"
_SHA256_BYTES = 32
_LONG_FORM = 0x80  # of a DER length
_CVM_COMPLIANT = "azure-compliant-cvm"


@dataclass(frozen=True, slots=True)
class GuestAppraisal:
    """Accepted evidence: the claims, and the key to encrypt the token to."""

    claims: dict[str, Any]
    wrapping_key: rsa.RSAPublicKey


def appraise_guest_request(
    body: dict[str, Any], trust: Trust, now: dt.datetime
) -> GuestAppraisal:
    """Appraise an AzureGuest request, or refuse it."""
    # Clients send AttestationInfo; the published specification has attestationInfo.
    encoded = body.get("AttestationInfo", body.get("attestationInfo"))
    info = parsed_object(decoded(encoded, "AttestationInfo"), "AttestationInfo")
    if info.get("AttestationProtocolVersion") != _PROTOCOL:
        raise invalid(f"AttestationProtocolVersion is not {_PROTOCOL}.")
    isolation = member(info, "IsolationInfo", dict)
    if isolation.get("Type") != "SevSnp":
        raise invalid("This emulator appraises only IsolationInfo of type SevSnp.")
    evidence = member(isolation, "Evidence", dict)
    proof = parsed_object(base64_member(evidence, "Proof"), "Proof")
    runtime_data = base64_member(evidence, "RunTimeData")
    platform = verify_snp_evidence(proof, runtime_data, trust, now)
    runtime = parsed_object(runtime_data, "RunTimeData")

    tpm_info = member(info, "TpmInfo", dict)
    ak = _verify_ak(tpm_info, runtime, trust, now)
    pcrs = _verify_quote(tpm_info, ak)
    wrapping_key = _verify_wrapping_key(tpm_info, ak, pcrs)
    _verify_boot(info, runtime, pcrs)
    tee = claims.snp_claims(
        platform.report, platform.endorsements, runtime, _CVM_COMPLIANT
    )
    result = claims.guest_claims(
        _system_claims(info, runtime),
        tee,
        pcrs,
        wrapping_key.key,
        info.get("ClientPayload"),
    )
    return GuestAppraisal(result | claims.common_claims(), wrapping_key.key)


def _verify_ak(
    tpm_info: dict[str, Any],
    runtime: dict[str, Any],
    trust: Trust,
    now: dt.datetime,
) -> tpm.RsaPublicArea:
    """Verify the AK against the runtime data, which the report signs."""
    ak = tpm.parse_public(base64_member(tpm_info, "AikPub"), "AikPub")
    tpm.verify_ak_attributes(ak)
    if ak.modulus != _hcl_ak_modulus(runtime):
        raise invalid("AikPub is not the HCLAkPub of the runtime data.")
    cert, key = _ak_certificate(base64_member(tpm_info, "AikCert"))
    if key != ak.key:
        raise invalid("AikCert is for another key than AikPub.")
    if not cert.not_valid_before_utc <= now <= cert.not_valid_after_utc:
        raise invalid("AikCert is not valid now.")
    if trust.vtpm_roots and not any(
        _is_issued_by(cert, x509.load_der_x509_certificate(root))
        for root in trust.vtpm_roots
    ):
        raise invalid("AikCert is not issued by a trusted virtual TPM CA.")
    return ak


def _hcl_ak_modulus(runtime: dict[str, Any]) -> int:
    for key in member(runtime, "keys", list):
        if isinstance(key, dict) and key.get("kid") == "HCLAkPub":
            return int.from_bytes(base64_member(key, "n"), "big")
    raise invalid("The runtime data has no HCLAkPub.")


def _ak_certificate(data: bytes) -> tuple[x509.Certificate, object]:
    """Parse a certificate, which may be followed by zeros of its NV index.

    Returns:
        The certificate and its public key.
    """
    size = 2 + data[1] if len(data) > 1 and data[1] < _LONG_FORM else 0
    if not size and len(data) > 1:
        length_bytes = data[1] - _LONG_FORM
        length = int.from_bytes(data[2 : 2 + length_bytes], "big")
        size = 2 + length_bytes + length
    if any(data[size:]):
        raise invalid("AikCert is followed by bytes other than zeros.")
    try:
        certificate = x509.load_der_x509_certificate(data[:size])
        return certificate, certificate.public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise undecodable("AikCert is not a certificate.") from error


def _is_issued_by(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return cert.public_bytes(Encoding.DER) == issuer.public_bytes(Encoding.DER)
    return True


def _verify_quote(tpm_info: dict[str, Any], ak: tpm.RsaPublicArea) -> dict[int, bytes]:
    """Verify the quote over the PCR values in the request."""
    message = base64_member(tpm_info, "PcrQuote")
    signature = base64_member(tpm_info, "PcrSignature")
    tpm.verify_signature(ak.key, signature, message, "PcrQuote")
    quote = tpm.parse_quote(message)
    pcrs: dict[int, bytes] = {}
    for entry in member(tpm_info, "PCRs", list):
        if not isinstance(entry, dict):
            raise invalid("PCRs has an entry that is not an object.")
        index, value = member(entry, "Index", int), base64_member(entry, "Digest")
        if index in pcrs or len(value) != _SHA256_BYTES:
            raise invalid(f"PCR{index} is given twice or is not a SHA-256 digest.")
        pcrs[index] = value
    pcrs = dict(sorted(pcrs.items()))
    if tuple(pcrs) != _PCRS or quote.selection != _PCRS:
        raise invalid("The quoted PCRs are not PCR0 to PCR7.")
    if sorted(map(str, member(tpm_info, "PcrSet", list))) != list(map(str, _PCRS)):
        raise invalid("PcrSet is not PCR0 to PCR7.")
    if _digest_of(pcrs) != quote.pcr_digest:
        raise invalid("The quote is of other PCR values.")
    return pcrs


def _digest_of(pcrs: dict[int, bytes]) -> bytes:
    return hashlib.sha256(b"".join(pcrs.values())).digest()


def _verify_wrapping_key(
    tpm_info: dict[str, Any], ak: tpm.RsaPublicArea, pcrs: dict[int, bytes]
) -> tpm.RsaPublicArea:
    """Verify that the wrapping key is in this TPM and bound to these PCRs."""
    key = tpm.parse_public(base64_member(tpm_info, "EncKeyPub"), "EncKeyPub")
    message = base64_member(tpm_info, "EncKeyCertifyInfo")
    signature = base64_member(tpm_info, "EncKeyCertifyInfoSignature")
    tpm.verify_signature(ak.key, signature, message, "EncKeyCertifyInfo")
    if tpm.parse_certified_name(message) != key.name:
        raise invalid("EncKeyCertifyInfo is for another key than EncKeyPub.")
    tpm.verify_wrapping_key_attributes(key)
    if key.auth_policy != tpm.policy_pcr(_PCRS, _digest_of(pcrs)):
        raise invalid("EncKeyPub is not bound to the quoted PCRs.")
    return key


def _verify_boot(
    info: dict[str, Any], runtime: dict[str, Any], pcrs: dict[int, bytes]
) -> None:
    """Replay the log; deny guests without secure boot, as the shared providers do."""
    log = parse_event_log(decoded(info.get("TcgLogs", ""), "TcgLogs"))
    log.verify_replays_to(pcrs)
    secure_boot = log.secure_boot
    if secure_boot is None:
        configuration = runtime.get("vm-configuration")
        secure_boot = (
            isinstance(configuration, dict) and configuration.get("secure-boot") is True
        )
    if not secure_boot:
        raise RefusalError(
            400,
            "PolicyEvaluationError",
            "Native operation failed with 65518: PolicyValidationFailure:"
            ' [type=="secureboot", value==false] => deny();. Policy Engine Exception:'
            " A Deny claim was issued, authorization failed.",
        )


def _system_claims(info: dict[str, Any], runtime: dict[str, Any]) -> dict[str, Any]:
    """Return the guest's statements about itself, and the VM's id.

    The id is in the runtime data, so the hardware report proves it. Nothing proves
    the other claims.
    """
    os_type = _text(info, "OSType")
    configuration = runtime.get("vm-configuration")
    vm_id = ""
    if isinstance(configuration, dict):
        vm_id = str(configuration.get("vmUniqueId", ""))
    return {
        "x-ms-azurevm-is-windows": os_type == "Windows",
        "x-ms-azurevm-osbuild": _text(info, "OSBuild"),
        "x-ms-azurevm-osdistro": _text(info, "OSDistro"),
        "x-ms-azurevm-ostype": os_type,
        "x-ms-azurevm-osversion-major": _number(info, "OSVersionMajor"),
        "x-ms-azurevm-osversion-minor": _number(info, "OSVersionMinor"),
        "x-ms-azurevm-vmid": vm_id,
    }


def _text(info: dict[str, Any], name: str) -> str:
    return decoded(info.get(name, ""), name).decode("utf-8", "replace")


def _number(info: dict[str, Any], name: str) -> int:
    """Read an integer; the Python client sends it as a string."""
    value = info.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:9])
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"{name} is not a number.")
    return value
