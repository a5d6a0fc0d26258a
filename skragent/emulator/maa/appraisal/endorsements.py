"""Verify the chip's endorsements, ARK, ASK and VCEK, and match them with a report.

AMD's VCEK certificate specification (57230); THIM returns VCEK, ASK, ARK. Signatures
are RSASSA-PSS with SHA-384. The VCEK is an EC P-384 key, and its extensions bind it to
one chip and one TCB.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from skragent.emulator.maa.appraisal.fields import invalid

if TYPE_CHECKING:
    import datetime as dt

    from skragent.emulator.maa.appraisal.snp_report import Product, SnpReport

_AMD = "1.3.6.1.4.1.3704.1."
_PRODUCT_NAME = _AMD + "2"
_HARDWARE_ID = _AMD + "4"
_SPL_OIDS = {
    "bootloader": _AMD + "3.1",
    "tee": _AMD + "3.2",
    "snp": _AMD + "3.3",
    "microcode": _AMD + "3.8",
    "fmc": _AMD + "3.9",
}
_PRODUCTS: tuple[Product, ...] = ("Milan", "Genoa", "Turin")
_TURIN_HARDWARE_ID_BYTES = 8
_DER_INTEGER = b"\x02"


@dataclass(frozen=True)
class Endorsements:
    """A verified chain; its lifetime is checked separately."""

    chain: tuple[x509.Certificate, ...]  # VCEK, ASK, ARK
    vcek: ec.EllipticCurvePublicKey
    product: Product
    extensions: dict[str, bytes]  # by dotted OID

    def verify_lifetime(self, now: dt.datetime) -> None:
        """Require that every certificate is valid now."""
        for cert in self.chain:
            if not cert.not_valid_before_utc <= now <= cert.not_valid_after_utc:
                subject = cert.subject.rfc4514_string()
                raise invalid(f"Certificate `{subject}` is not valid now.")

    def verify_matches(self, report: SnpReport) -> None:
        """Require that the VCEK is for the report's chip and reported TCB."""
        if report.product not in (None, self.product):
            raise invalid("The VCEK is for another product than the report.")
        for name, number in report.reported_tcb(self.product).items():
            if _der_uint(self.extensions.get(_SPL_OIDS[name], b"")) != number:
                raise invalid(f"The VCEK's {name} SPL is not the report's TCB.")
        hardware_id = self.extensions.get(_HARDWARE_ID, b"")
        if not hardware_id or hardware_id.ljust(64, b"\0") != report.chip_id:
            raise invalid("The VCEK's hwID is not the report's CHIP_ID.")


@functools.lru_cache(maxsize=64)
def verify_endorsements(pem: bytes, trusted_arks: frozenset[bytes]) -> Endorsements:
    """Verify a chain against trusted ARKs (DER), or refuse it.

    The result is cached: a VM sends the same chain with every request.
    """
    try:
        with warnings.catch_warnings():
            # AMD issues VCEKs with serial number 0, which RFC 5280 forbids.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            vcek, ask, ark = chain = tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise invalid("VcekCertChain is not VCEK, ASK and ARK in PEM.") from error
    if ark.public_bytes(Encoding.DER) not in trusted_arks:
        raise invalid("The chain does not end in a trusted ARK.")
    for cert, issuer in ((ark, ark), (ask, ark), (vcek, ask)):
        try:
            cert.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError) as error:
            raise invalid(
                f"`{cert.subject.rfc4514_string()}` is not issued by"
                f" `{issuer.subject.rfc4514_string()}`."
            ) from error
    key = vcek.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise invalid("The VCEK is not an EC P-384 key.")
    extensions = _extensions(vcek)
    return Endorsements(chain, key, _product(extensions), extensions)


def _extensions(vcek: x509.Certificate) -> dict[str, bytes]:
    try:
        return {
            e.oid.dotted_string: e.value.value
            for e in vcek.extensions
            if isinstance(e.value, x509.UnrecognizedExtension)
        }
    except (ValueError, x509.DuplicateExtension) as error:
        raise invalid("The VCEK's extensions do not parse.") from error


def _product(extensions: dict[str, bytes]) -> Product:
    # An IA5String such as "Milan-B0": tag, length, text.
    name = extensions.get(_PRODUCT_NAME, b"")[2:].decode("ascii", "replace")
    for product in _PRODUCTS:
        if name.partition("-")[0] == product:
            return product
    raise invalid(f"The VCEK is for an unknown product: {name!r}.")


def _der_uint(data: bytes) -> int | None:
    """Read a DER INTEGER with one or two bytes; SPLs above 127 take two."""
    if data[:1] != _DER_INTEGER or data[1:2] != bytes([max(len(data) - 2, 1)]):
        return None
    return int.from_bytes(data[2:], "big", signed=True)
