"""The input of `skragent report`: evidence from files, or from the vTPM and IMDS.

This module reads and parses; `report_checks` verifies. Input that cannot be read or
parsed is an error with a code. Missing optional input stays missing.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skragent.cli import deadline
from skragent.cli.config_file import READ_HINT
from skragent.errors import (
    AgentError,
    ConfigError,
    Disposition,
    MalformedEvidenceError,
    UnsupportedEvidenceError,
)
from skragent.evidence.amd_certificate import load_certificates
from skragent.evidence.endorsements import AMD_ROOTS, parse_roots, parse_thim_response
from skragent.evidence.hcl import HCL_SIGNATURE, HclReport, parse_hcl_report
from skragent.evidence.quote import SignedAttest, parse_quote
from skragent.evidence.snp import SnpReport, parse_snp_report
from skragent.evidence.tdx import name_tdx_evidence
from skragent.evidence.tpm_public import TpmPublic, parse_tpm2b_public
from skragent.files import read_regular

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from cryptography import x509

    from skragent.config import Config

MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class QuotedPcrs:
    """A quote with the values of its PCRs, in the order of the quote."""

    signed: SignedAttest
    indices: tuple[int, ...]
    qualifying_data: bytes  # of the quote; not compared with a nonce
    values: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """The evidence that the command decodes and verifies."""

    snp: SnpReport
    hcl: HclReport | None  # None for a bare SNP report
    certificates: tuple[x509.Certificate, ...]
    certificates_problem: str  # the reason if there are no certificates
    quote: QuotedPcrs | None
    ak: TpmPublic | None  # of the vTPM here; None offline
    roots: frozenset[bytes]
    notes: tuple[str, ...] = ()  # remarks about the input, for the user
    raw_hcl: bytes = b""  # the HCL report of this machine; empty offline
    roots_path: str = ""  # of this machine's roots; empty: AMD's own

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Return the notes, including those on unknown newer versions."""
        versions = (
            self.hcl.version_note if self.hcl else "",
            self.snp.version_note,
        )
        return (*filter(None, versions), *self.notes)


def read_files(args: argparse.Namespace) -> Subject:
    """Read the files of the command line."""
    data = _read(args.hcl)
    if name := name_tdx_evidence(data):
        raise UnsupportedEvidenceError(
            f"{args.hcl} is {name}; only reports of AMD SEV-SNP are supported"
        )
    with _naming(args.hcl):
        hcl = parse_hcl_report(data) if data.startswith(HCL_SIGNATURE) else None
        snp = hcl.snp_report if hcl else parse_snp_report(data)
    certificates = [c for path in args.certs for c in _read_certificates(path)]
    roots, notes = _read_roots(args.roots)
    return Subject(
        snp=snp,
        hcl=hcl,
        certificates=tuple(certificates),
        certificates_problem="" if certificates else "no --certs was given",
        quote=_read_quote(args.quote) if args.quote else None,
        ak=None,
        roots=roots,
        notes=notes,
    )


def read_machine(config: Config, roots_path: str) -> Subject:
    """Read this machine's vTPM, and its certificates from IMDS."""
    # Imported here: the import takes half of the command's start-up time.
    from skragent.evidence.tpm import Vtpm  # noqa: PLC0415 - see above

    deadline.doing(f"reading the TPM at {config.vtpm.tcti}")
    with Vtpm(config.vtpm.tcti) as vtpm:
        raw_hcl = vtpm.read_hcl_report()
        hcl = parse_hcl_report(raw_hcl)
        ak = parse_tpm2b_public(vtpm.read_ak_public())
        values = vtpm.read_pcrs()
        signed = vtpm.quote()
    parsed = parse_quote(signed.message)
    certificates, problem = _ask_certificates(config)
    roots, notes = _read_roots(roots_path or config.trust.amd_roots)
    return Subject(
        snp=hcl.snp_report,
        hcl=hcl,
        certificates=tuple(certificates),
        certificates_problem=problem,
        quote=QuotedPcrs(signed, parsed.indices, parsed.qualifying_data, values),
        ak=ak,
        roots=roots,
        notes=notes,
        raw_hcl=raw_hcl,
        roots_path=roots_path or config.trust.amd_roots,
    )


def _ask_certificates(config: Config) -> tuple[Iterable[x509.Certificate], str]:
    """Get the certificates from IMDS; without them the report is still shown."""
    from skragent.evidence.imds import ImdsClient  # noqa: PLC0415 - as in read_machine

    timeout_seconds = config.limits.request_timeout_seconds
    deadline.doing(f"asking IMDS at {config.imds.endpoint}")
    try:
        with ImdsClient(config.imds.endpoint, timeout_seconds) as imds:
            return parse_certificates(imds.endorsements()), ""
    except AgentError as error:
        return (), f"{error.code}: {error.message}"


def parse_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """Parse certificates from PEM, DER or a response of THIM."""
    if data.lstrip().startswith(b"{"):
        chain = parse_thim_response(data)
        return chain.signer, chain.intermediate, chain.root
    return load_certificates(data)


def parse_quote_file(data: bytes) -> QuotedPcrs:
    """Read a quote's JSON: hex `message` and `signature`, and hex `pcrs` from PCR 0 on.

    Raises:
        MalformedEvidenceError: the document has another structure.
    """
    try:
        document = json.loads(data)
        message = bytes.fromhex(document["message"])
        signature = bytes.fromhex(document["signature"])
        pcrs = [bytes.fromhex(pcr) for pcr in document["pcrs"]]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise MalformedEvidenceError(
            "the quote's file is not JSON with hex `message`, `signature` and `pcrs`"
        ) from error
    parsed = parse_quote(message)
    if parsed.indices and parsed.indices[-1] >= len(pcrs):
        raise MalformedEvidenceError(
            f"the quote covers PCR {parsed.indices[-1]}, and its file has no such PCR"
        )
    return QuotedPcrs(
        signed=SignedAttest(message, signature),
        indices=parsed.indices,
        qualifying_data=parsed.qualifying_data,
        values=tuple(pcrs[index] for index in parsed.indices),
    )


def _read_certificates(path: str) -> tuple[x509.Certificate, ...]:
    data = _read(path)
    with _naming(path):
        return parse_certificates(data)


def _read_quote(path: str) -> QuotedPcrs:
    data = _read(path)
    with _naming(path):
        return parse_quote_file(data)


def _read_roots(path: str) -> tuple[frozenset[bytes], tuple[str, ...]]:
    if not path:
        return AMD_ROOTS, ()
    data = _read(path)
    with _naming(path):
        bundle = parse_roots(data)
    notes = tuple(f"{path}: {skipped}" for skipped in bundle.skipped)
    return frozenset(bundle.roots), notes


def _read(path: str) -> bytes:
    """Read a regular file of limited size; `-` is an ordinary name."""
    try:
        return read_regular(path, max_bytes=MAX_FILE_BYTES)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            [f"{path}: {reason}"], code="config.unreadable", hint=READ_HINT
        ) from error


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Add the file's name to an error about its content."""
    try:
        yield
    except AgentError as error:
        raise type(error)(
            f"{path}: {error.message}",
            code=error.code,
            disposition=Disposition.RETRY_SLOWLY,
            hint=error.hint,
        ) from error
