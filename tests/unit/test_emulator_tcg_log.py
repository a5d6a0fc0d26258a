"""The TCG log that the emulated firmware writes, read with a parser of the test's."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter

from skragent.emulator.paravisor.tcg_log import Event, boot_events, encode_log


def read_log(log: bytes) -> list[tuple[int, int, dict[int, bytes], bytes]]:
    """Read the TCG_PCR_EVENT2s after the first event."""
    (size,) = struct.unpack_from("<I", log, 28)
    offset = 32 + size
    events = []
    while offset < len(log):
        pcr, kind, count = struct.unpack_from("<III", log, offset)
        offset += 12
        digests = {}
        for _ in range(count):
            (algorithm,) = struct.unpack_from("<H", log, offset)
            length = {4: 20, 11: 32}[algorithm]
            digests[algorithm] = log[offset + 2 : offset + 2 + length]
            offset += 2 + length
        (size,) = struct.unpack_from("<I", log, offset)
        events.append((pcr, kind, digests, log[offset + 4 : offset + 4 + size]))
        offset += 4 + size
    return events


def test_log_begins_with_the_spec_id_event() -> None:
    log = encode_log([])
    assert struct.unpack_from("<II", log) == (0, 3)  # PCR 0, EV_NO_ACTION
    assert log[32:48] == b"Spec ID Event03\0"
    # Two algorithms: SHA-1 of 20 bytes, SHA-256 of 32; no vendor's information.
    assert log[56:] == struct.pack("<IHHHHB", 2, 4, 20, 11, 32, 0)


def test_log_holds_every_event() -> None:
    events = boot_events(secure_boot=True)
    assert read_log(encode_log(events)) == [
        (one.pcr, one.kind, dict(one.digests), one.data) for one in events
    ]


def test_event_has_a_digest_for_each_bank() -> None:
    event = Event(7, 1, b"logged", b"measured")
    assert event.digests == (
        (4, hashlib.sha1(b"measured").digest()),
        (11, hashlib.sha256(b"measured").digest()),
    )


def test_firmware_separates_each_of_its_pcrs_once() -> None:
    separators = [one for one in boot_events(secure_boot=True) if one.kind == 4]
    assert Counter(one.pcr for one in separators) == dict.fromkeys(range(8), 1)
    assert {one.data for one in separators} == {bytes(4)}


def secure_boot_of(events: list[Event]) -> bytes:
    name = "SecureBoot".encode("utf-16-le")
    (found,) = [one.data for one in events if name in one.data]
    return found[-1:]


def test_secure_boot_is_in_the_log() -> None:
    assert secure_boot_of(boot_events(secure_boot=True)) == b"\1"
    assert secure_boot_of(boot_events(secure_boot=False)) == b"\0"


def test_every_boot_measures_the_same() -> None:
    assert boot_events(secure_boot=True) == boot_events(secure_boot=True)


def test_some_events_are_beyond_the_firmwares_pcrs() -> None:
    assert {one.pcr for one in boot_events(secure_boot=True)} == {*range(10), 14}
