"""Replay the TCG event log (TCG PC Client Platform Firmware Profile, §10).

A log shorter than an event header is treated like an empty log, which clients without
a log send. A longer log must parse completely and replay to every quoted PCR.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from skragent.emulator.maa.appraisal.fields import Reader, invalid

_SHA256 = 0x000B
_DIGEST_BYTES = 32
_HEADER_BYTES = 32  # TCG_PCR_EVENT: PCR 4, type 4, SHA-1 20, size 4
_EV_NO_ACTION = 0x00000003
_EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
_SPEC_ID = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_SECURE_BOOT_PCR = 7
_MAX_ALGORITHMS = 16


@dataclass(frozen=True, slots=True)
class _Event:
    pcr: int
    type: int
    sha256: bytes | None
    data: bytes


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log: the resulting PCR values and the state of secure boot."""

    is_empty: bool
    pcrs: dict[int, bytes]
    secure_boot: bool | None  # None: not in the log

    def verify_replays_to(self, quoted: dict[int, bytes]) -> None:
        """Require that the log's events lead to each quoted PCR.

        A PCR without events must still have its value after a reset.
        """
        if self.is_empty:
            return
        for index, value in quoted.items():
            if self.pcrs.get(index, bytes(_DIGEST_BYTES)) != value:
                raise invalid(f"TcgLogs does not replay to PCR{index}.")


def parse_event_log(data: bytes) -> EventLog:
    """Parse and replay a log, or refuse it."""
    if len(data) < _HEADER_BYTES:
        return EventLog(is_empty=True, pcrs={}, secure_boot=None)
    reader = Reader(data, "TcgLogs", "little")
    algorithms = _parse_spec_id(reader)
    pcrs: dict[int, bytes] = {}
    secure_boot = None
    while reader.rest:
        event = _parse_event(reader, algorithms)
        _extend(pcrs, event)
        if secure_boot is None:
            secure_boot = _secure_boot_of(event)
    return EventLog(is_empty=False, pcrs=pcrs, secure_boot=secure_boot)


def _parse_spec_id(reader: Reader) -> dict[int, int]:
    """Read the first event, which lists the log's hash algorithms and sizes."""
    reader.expect(4, 0, "the first event's PCR")
    reader.expect(4, _EV_NO_ACTION, "the first event's type")
    reader.take(20)
    spec = Reader(reader.sized(4), "TcgLogs: Spec ID event", "little")
    if spec.take(16) != _SPEC_ID:
        raise invalid("TcgLogs is not a crypto-agile log.")
    spec.take(8)  # platform class, specification version and errata, UINTN size
    count = spec.uint(4)
    if count > _MAX_ALGORITHMS:
        raise invalid("TcgLogs names too many algorithms.")
    algorithms = {spec.uint(2): spec.uint(2) for _ in range(count)}
    spec.sized(1)  # vendor information
    spec.finish()
    if algorithms.get(_SHA256) != _DIGEST_BYTES:
        raise invalid("TcgLogs has no SHA-256 digests.")
    return algorithms


def _parse_event(reader: Reader, algorithms: dict[int, int]) -> _Event:
    """Read one TCG_PCR_EVENT2."""
    pcr, kind, count = reader.uint(4), reader.uint(4), reader.uint(4)
    if count > len(algorithms):
        raise invalid("TcgLogs has an event with too many digests.")
    sha256 = None
    for _ in range(count):
        algorithm = reader.uint(2)
        if algorithm not in algorithms:
            raise invalid("TcgLogs has a digest of an undeclared algorithm.")
        digest = reader.take(algorithms[algorithm])
        if algorithm == _SHA256:
            sha256 = digest
    return _Event(pcr, kind, sha256, reader.sized(4))


def _extend(pcrs: dict[int, bytes], event: _Event) -> None:
    if event.type == _EV_NO_ACTION:
        if event.pcr == 0 and event.data.startswith(_STARTUP_LOCALITY):
            pcrs.setdefault(0, event.data[16:17].rjust(_DIGEST_BYTES, b"\0"))
        return
    if event.sha256 is None:
        raise invalid("TcgLogs has an event without a SHA-256 digest.")
    before = pcrs.get(event.pcr, bytes(_DIGEST_BYTES))
    pcrs[event.pcr] = hashlib.sha256(before + event.sha256).digest()


def _secure_boot_of(event: _Event) -> bool | None:
    """Read the UEFI variable SecureBoot from its measurement (UEFI_VARIABLE_DATA)."""
    if event.pcr != _SECURE_BOOT_PCR or event.type != _EV_EFI_VARIABLE_DRIVER_CONFIG:
        return None
    if hashlib.sha256(event.data).digest() != event.sha256:
        raise invalid("TcgLogs: a variable's data is not what was measured.")
    reader = Reader(event.data, "TcgLogs: UEFI_VARIABLE_DATA", "little")
    reader.take(16)  # vendor GUID
    name_units, data_size = reader.uint(8), reader.uint(8)
    name = reader.take(2 * name_units).decode("utf-16-le", "replace")
    value = reader.take(data_size)
    return value == b"\x01" if name == "SecureBoot" else None
