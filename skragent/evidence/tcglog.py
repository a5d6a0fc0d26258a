"""Trim the TCG event log to what the verifier needs: PCR 0 to 7, SHA-256 only.

TCG PC Client Platform Firmware Profile, section 10: the crypto-agile format. It begins
with one TCG_PCClientPCREvent that holds the TCG_EfiSpecIdEvent, which lists the digest
algorithms; TCG_PCR_EVENT2 follow. Trimming also edits that list, so that the result is
a valid log. The verifier replays the log against the PCR values.
"""

from __future__ import annotations

from skragent.errors import MalformedEvidenceError
from skragent.evidence.byte_reader import Reader
from skragent.evidence.tpm_public import TPM_ALG_SHA256

MAX_TCG_LOG_BYTES = 1024 * 1024  # firmware logs have 20 to 100 kB

_KEPT_PCRS = range(8)
_EV_NO_ACTION = 3
_SHA1_BYTES = 20
_SHA256_BYTES = 32
_SPEC_ID = b"Spec ID Event03\0"
_SPEC_ID_FIXED_BYTES = 8  # platformClass, version, errata, uintnSize
_MAX_ALGORITHMS = 16


def trim_tcg_log(data: bytes) -> bytes:
    """Keep the events of PCR 0 to 7 with their SHA-256 digests.

    A log that does not parse, has no SHA-256 or is too long becomes an empty log. MAA
    accepts that, and a malformed log of a firmware must not keep keys from a VM.
    """
    if len(data) > MAX_TCG_LOG_BYTES:
        return b""
    try:
        return _trim(Reader(data, "the TCG log", "little"))
    except MalformedEvidenceError:
        return b""


def _trim(reader: Reader) -> bytes:
    sizes, header = _trim_header(reader)
    kept = [header]
    while reader.left:
        event = _trim_event(reader, sizes)
        if event is not None:
            kept.append(event)
    return b"".join(kept)


def _trim_header(reader: Reader) -> tuple[dict[int, int], bytes]:
    """Read the first event; return the sizes of digests, and the trimmed event."""
    start = reader.take(8)
    digest = reader.take(_SHA1_BYTES)
    if start != _number(0) + _number(_EV_NO_ACTION):
        raise MalformedEvidenceError("the TCG log does not begin with a Spec ID event")
    spec = Reader(reader.take(reader.number(4)), "the Spec ID event", "little")
    if spec.take(len(_SPEC_ID)) != _SPEC_ID:
        raise MalformedEvidenceError("the TCG log is not crypto-agile")
    fixed = spec.take(_SPEC_ID_FIXED_BYTES)
    count = spec.number(4)
    if count > _MAX_ALGORITHMS:
        raise MalformedEvidenceError(f"the TCG log claims {count} algorithms")
    sizes = {spec.number(2): spec.number(2) for _ in range(count)}
    if sizes.get(TPM_ALG_SHA256) != _SHA256_BYTES:
        raise MalformedEvidenceError("the TCG log has no SHA-256 digests")
    vendor = spec.take(spec.number(1))
    spec.end()
    trimmed = (
        _SPEC_ID
        + fixed
        + _number(1)
        + _number(TPM_ALG_SHA256, 2)
        + _number(_SHA256_BYTES, 2)
        + _number(len(vendor), 1)
        + vendor
    )
    return sizes, start + digest + _number(len(trimmed)) + trimmed


def _trim_event(reader: Reader, sizes: dict[int, int]) -> bytes | None:
    """Read one event; return it trimmed, or None if it belongs to another PCR."""
    pcr, kind, count = reader.number(4), reader.number(4), reader.number(4)
    if count > len(sizes):
        raise MalformedEvidenceError(f"an event of the TCG log has {count} digests")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.number(2)
        if algorithm not in sizes:
            raise MalformedEvidenceError(f"a digest of algorithm {algorithm:#06x}")
        digests[algorithm] = reader.take(sizes[algorithm])
    event = reader.take(reader.number(4))
    if pcr not in _KEPT_PCRS:
        return None
    if TPM_ALG_SHA256 not in digests:
        raise MalformedEvidenceError("an event of the TCG log has no SHA-256 digest")
    return (
        _number(pcr)
        + _number(kind)
        + _number(1)
        + _number(TPM_ALG_SHA256, 2)
        + digests[TPM_ALG_SHA256]
        + _number(len(event))
        + event
    )


def _number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")
