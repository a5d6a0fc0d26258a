"""AMD's certificates: load them, and read the extensions on chip and firmware.

"Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification"
(AMD 57230), section 3. Extensions are under 1.3.6.1.4.1.3704.1.

`endorsements` verifies signatures and trust.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509

from skragent.certificates import (
    CertificateError,
    load_der,
    load_pem,
    reading,
    require_names,
)
from skragent.errors import EndorsementsError
from skragent.evidence.tcb import Tcb

MAX_CERTIFICATES_BYTES = 64 * 1024  # a chain of three has 6.5 kB
_MAX_CERTIFICATES = 8

_PEM = b"-----BEGIN "
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN (X509 )?CERTIFICATE-----")  # RFC 7468 §5.1

_ARC = "1.3.6.1.4.1.3704.1"
_PRODUCT_NAME = f"{_ARC}.2"
_BOOTLOADER_SPL = f"{_ARC}.3.1"
_TEE_SPL = f"{_ARC}.3.2"
_SNP_SPL = f"{_ARC}.3.3"
_MICROCODE_SPL = f"{_ARC}.3.8"
_FMC_SPL = f"{_ARC}.3.9"  # Turin and newer
_HW_ID = f"{_ARC}.4"  # VCEK
_CSP_ID = f"{_ARC}.5"  # VLEK

_ASN1_INTEGER = 0x02
_ASN1_STRINGS = {0x0C, 0x13, 0x16}  # UTF8String, PrintableString, IA5String


@dataclass(frozen=True, slots=True)
class AmdExtensions:
    """The statements of a VCEK or VLEK certificate on chip and firmware."""

    product_name: str  # such as Milan-B0
    tcb: Tcb  # the TCB that the key is derived from
    hw_id: bytes | None  # VCEK: the chip id, 64 bytes, or 8 from Turin on
    csp_id: str | None  # VLEK: the cloud provider's id


def malformed(message: str) -> EndorsementsError:
    """Return the error of certificates that do not parse."""
    return EndorsementsError(message, code="endorsements.malformed")


def load_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read certificates from PEM text, or one from DER.

    Raises:
        EndorsementsError: endorsements.malformed
    """
    if len(data) > MAX_CERTIFICATES_BYTES:
        raise malformed(
            f"certificates of {len(data)} bytes: at most {MAX_CERTIFICATES_BYTES}"
        )
    try:
        if _PEM in data and _PEM_CERTIFICATE.search(data) is None:
            kind = "a private key" if b"PRIVATE KEY-----" in data else "other PEM data"
            raise malformed(f"there is no certificate here, but {kind}")
        certificates = load_pem(data) if _PEM in data else (load_der(data),)
        if len(certificates) > _MAX_CERTIFICATES:
            raise malformed(f"more than {_MAX_CERTIFICATES} certificates")
        for certificate in certificates:
            require_names(certificate)
    except CertificateError as error:
        raise malformed(f"the certificates do not parse: {error}") from error
    return certificates


def read_extensions(certificate: x509.Certificate) -> AmdExtensions:
    """Read AMD's extensions of a VCEK or VLEK certificate.

    Raises:
        EndorsementsError: endorsements.malformed
    """
    try:
        with reading("the extensions of the signer's certificate"):
            values = {
                extension.oid.dotted_string: extension.value.value
                for extension in certificate.extensions
                if isinstance(extension.value, x509.UnrecognizedExtension)
            }
    except CertificateError as error:
        raise malformed(str(error)) from error
    csp_id = values.get(_CSP_ID)
    return AmdExtensions(
        product_name=_read_string(values.get(_PRODUCT_NAME, b"")),
        tcb=Tcb(
            bootloader=_read_spl(values, _BOOTLOADER_SPL),
            tee=_read_spl(values, _TEE_SPL),
            snp=_read_spl(values, _SNP_SPL),
            microcode=_read_spl(values, _MICROCODE_SPL),
            fmc=_read_spl(values, _FMC_SPL) if _FMC_SPL in values else None,
        ),
        hw_id=values.get(_HW_ID),  # raw: AMD does not wrap it in an OCTET STRING
        csp_id=None if csp_id is None else _read_string(csp_id),
    )


def _read_spl(values: dict[str, bytes], oid: str) -> int:
    """Read a security version: a DER INTEGER of 0 to 255.

    From 0x80 on it has two bytes of content, the first of them zero (X.690 §8.3).
    """
    value = values.get(oid, b"")
    content = value[2:]
    if len(content) not in {1, 2} or value[:2] != bytes((_ASN1_INTEGER, len(content))):
        raise malformed(f"the signer's certificate has no integer in {oid}")
    number = int.from_bytes(content, "big", signed=True)
    if not 0 <= number <= 0xFF:  # noqa: PLR2004 - one byte in TCB_VERSION
        raise malformed(f"the signer's certificate has {number} in {oid}")
    return number


def _read_string(value: bytes) -> str:
    """Read a short DER string; empty if it is not one: no check depends on it."""
    content = value[2:]
    if not content or value[0] not in _ASN1_STRINGS or value[1] != len(content):
        return ""
    return content.decode("ascii", "replace")
