"""The certificates that vouch for the report's signer: ARK -> ASK -> VCEK (or VLEK).

"Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification"
(AMD 57230). The chain comes from Azure's THIM or a file; trust comes from the
fingerprints of AMD's roots, which are pinned here.

`imds` fetches the chain, `amd_certificate` reads AMD's extensions, and `snp_signature`
verifies the report's signature.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import SignatureAlgorithmOID

from skragent.certificates import CertificateError, load_der, reading
from skragent.errors import EndorsementsError, UnsupportedEvidenceError
from skragent.evidence.amd_certificate import (
    MAX_CERTIFICATES_BYTES,
    AmdExtensions,
    load_certificates,
    malformed,
    read_extensions,
)
from skragent.evidence.snp import (
    CHIP_ID_BYTES,
    SHORT_CHIP_ID_BYTES,
    SigningKey,
    SnpReport,
)
from skragent.evidence.tcb import Generation, generation_of_product_name
from skragent.pem_bundle import Bundle, load_bundle

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from cryptography import x509

# SHA-256 over the DER of AMD's root certificates (ARK), from https://kdsintf.amd.com.
AMD_ROOTS = frozenset(
    bytes.fromhex(fingerprint)
    for fingerprint in (
        # Milan
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        # Genoa
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        # Turin
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    )
)


@dataclass(frozen=True, slots=True)
class Endorsements:
    """A chain: parsed and in order, its signatures not yet verified."""

    pem: bytes  # VCEK, ASK, ARK as PEM text: the verifier receives this
    signer: x509.Certificate  # VCEK or VLEK
    intermediate: x509.Certificate  # ASK or ASVK
    root: x509.Certificate  # ARK
    tcbm: str = ""  # the TCB that THIM says the VCEK is for, in hex; empty from files


def parse_thim_response(data: bytes) -> Endorsements:
    """Parse the response of IMDS to GET /metadata/THIM/amd/certification (JSON).

    Raises:
        EndorsementsError: endorsements.malformed
    """
    if len(data) > MAX_CERTIFICATES_BYTES:
        raise malformed("THIM's response is too long")
    try:
        response = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise malformed("THIM's response is not JSON") from error
    texts = [
        response.get(name) if isinstance(response, dict) else None
        for name in ("vcekCert", "certificateChain", "tcbm")
    ]
    signer, chain, tcbm = (text if isinstance(text, str) else "" for text in texts)
    if not signer or not chain:
        raise malformed("THIM's response lacks vcekCert or certificateChain")
    try:
        pem = f"{signer}\n{chain}".encode("ascii")
    except UnicodeEncodeError as error:
        raise malformed("THIM's response has certificates that are not PEM") from error
    return order_chain(load_certificates(pem), tcbm=tcbm)


def order_chain(
    certificates: Iterable[x509.Certificate], *, tcbm: str = ""
) -> Endorsements:
    """Recognise the three certificates by keys and names, and leave others out.

    Raises:
        EndorsementsError: endorsements.malformed, if one of the three is missing
    """
    given = list(dict.fromkeys(certificates))
    signer = find_signer(given)
    try:
        with reading("a certificate of the chain"):
            intermediate = _find_issuer(signer, given, "ASK or ASVK")
            root = _find_issuer(intermediate, given, "ARK")
            chain = (signer, intermediate, root)
            pem = b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain)
    except CertificateError as error:
        raise malformed(str(error)) from error
    return Endorsements(pem, signer, intermediate, root, tcbm)


def find_signer(certificates: Iterable[x509.Certificate]) -> x509.Certificate:
    """Return the VCEK or VLEK: the certificate with an EC key. AMD's keys are RSA.

    Raises:
        EndorsementsError: endorsements.malformed, if there is none or more than one
    """
    try:
        with reading("the key of a certificate"):
            signers = [
                certificate
                for certificate in dict.fromkeys(certificates)
                if isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
            ]
    except CertificateError as error:
        raise malformed(str(error)) from error
    if len(signers) != 1:
        raise malformed(
            f"{len(signers)} of the certificates are a VCEK or VLEK; one is needed"
        )
    return signers[0]


def _find_issuer(
    certificate: x509.Certificate, given: list[x509.Certificate], what: str
) -> x509.Certificate:
    for candidate in given:
        if candidate != certificate and candidate.subject == certificate.issuer:
            return candidate
    raise malformed(f"the {what} certificate is missing")


def parse_roots(data: bytes) -> Bundle[bytes]:
    """Return the SHA-256 fingerprints of the root certificates of a file.

    The file is PEM, or one certificate in DER. A certificate that cannot be read is
    skipped: a chain that ends with it could not be read either.

    Raises:
        EndorsementsError: endorsements.malformed: no certificate can be read.
    """
    try:
        if b"-----BEGIN" not in data:
            return Bundle((_fingerprint(data),))
        return load_bundle(data, _fingerprint)
    except CertificateError as error:
        raise malformed(f"the trusted roots cannot be used: {error}") from error


def _fingerprint(der: bytes) -> bytes:
    certificate = load_der(der)
    with reading("the certificate"):
        return certificate.fingerprint(hashes.SHA256())


def chip_generation(report: SnpReport, signer: x509.Certificate) -> Generation:
    """Return the generation that the report names or, in version 2, its certificate.

    Raises:
        EndorsementsError: endorsements.malformed
        UnsupportedEvidenceError: neither names a generation that this code knows.
    """
    product_name = read_extensions(signer).product_name
    named = generation_of_product_name(product_name)
    reported = report.generation
    # By the chip id version 2 can only be guessed: the signed certificate wins.
    found = (reported or named) if report.cpuid is not None else (named or reported)
    if found is None:
        raise UnsupportedEvidenceError(
            f"the chip's generation is unknown (CPUID {report.cpuid},"
            f" product {product_name!r})"
        )
    return found


def verify_endorsements(
    endorsements: Endorsements,
    report: SnpReport,
    *,
    now: datetime,
    roots: AbstractSet[bytes] = AMD_ROOTS,
) -> None:
    """Verify the chain up to a trusted root, and that it is for this report.

    Args:
        endorsements: the chain.
        report: the signer's certificate must name its chip and its reported TCB.
        now: aware; all three certificates must be valid then.
        roots: SHA-256 fingerprints of the trusted ARKs.

    Raises:
        EndorsementsError: endorsements.root, .chain, .lifetime, .tcb, .chip
        UnsupportedEvidenceError: an unknown chip generation.
    """
    root = endorsements.root
    if root.fingerprint(hashes.SHA256()) not in roots:
        raise EndorsementsError(
            "the root certificate (ARK) is not trusted",
            code="endorsements.root",
        )
    _verify_issued(endorsements.intermediate, root, "ASK or ASVK")
    _verify_issued(endorsements.signer, endorsements.intermediate, "VCEK or VLEK")
    for certificate in (root, endorsements.intermediate, endorsements.signer):
        _verify_lifetime(certificate, now)
    extensions = read_extensions(endorsements.signer)
    _verify_chip(extensions, report)
    generation = chip_generation(report, endorsements.signer)
    reported = report.decode_reported_tcb(generation)
    if extensions.tcb != reported:
        raise EndorsementsError(
            f"the certificate is for TCB {extensions.tcb.describe()};"
            f" the report's is {reported.describe()}",
            code="endorsements.tcb",
            hint="Passes by itself: THIM can be behind a firmware update of the host.",
        )


def _verify_issued(
    certificate: x509.Certificate, issuer: x509.Certificate, what: str
) -> None:
    """Verify the issuer's signature, RSASSA-PSS with SHA-384 as AMD's are."""
    try:
        with reading(f"the signature of the {what} certificate"):
            _require_pss_with_sha384(certificate)
            certificate.verify_directly_issued_by(issuer)
    except CertificateError as error:
        raise EndorsementsError(
            f"the {what} certificate is not signed by the next in the chain",
            code="endorsements.chain",
        ) from error


def _require_pss_with_sha384(certificate: x509.Certificate) -> None:
    algorithm = certificate.signature_algorithm_oid
    hash_algorithm = certificate.signature_hash_algorithm
    if algorithm != SignatureAlgorithmOID.RSASSA_PSS or not isinstance(
        hash_algorithm, hashes.SHA384
    ):
        raise CertificateError("it is not RSASSA-PSS with SHA-384")


def _verify_lifetime(certificate: x509.Certificate, now: datetime) -> None:
    try:
        with reading("the lifetime of a certificate of the chain"):
            begin = certificate.not_valid_before_utc
            end = certificate.not_valid_after_utc
    except CertificateError as error:
        raise malformed(str(error)) from error
    if not begin <= now <= end:
        raise EndorsementsError(
            f"a certificate of the chain is valid from {begin:%F} to {end:%F} only",
            code="endorsements.lifetime",
            hint="Check this machine's clock.",
        )


def _verify_chip(extensions: AmdExtensions, report: SnpReport) -> None:
    """Verify that the certificate is of the kind and chip that signed the report.

    A VLEK belongs to a cloud provider, not to a chip. A chip id of zeros was hidden by
    the host (MASK_CHIP_ID): then only the signature can show the signer.
    """
    kind = SigningKey.VCEK if extensions.csp_id is None else SigningKey.VLEK
    if report.key_info.signing_key != kind:
        raise EndorsementsError(
            f"the certificate is for a {kind.name}; the report was signed by"
            f" {report.key_info.signing_key.name}",
            code="endorsements.chip",
        )
    if kind is SigningKey.VLEK or not any(report.chip_id):
        return
    hw_id = extensions.hw_id or b""
    whole = hw_id.ljust(CHIP_ID_BYTES, b"\0")
    sizes = {SHORT_CHIP_ID_BYTES, CHIP_ID_BYTES}
    if len(hw_id) not in sizes or whole != report.chip_id:
        raise EndorsementsError(
            "the certificate is for another chip", code="endorsements.chip"
        )
