"""The TCG log: it is trimmed, and a malformed log is left out."""

from __future__ import annotations

import struct

import pytest

from skragent.evidence.tcglog import MAX_TCG_LOG_BYTES, trim_tcg_log

SHA1, SHA256, SHA384 = (0x0004, 20), (0x000B, 32), (0x000C, 48)
ALL = (SHA1, SHA256, SHA384)


def header(
    algorithms: tuple[tuple[int, int], ...] = ALL,
    *,
    signature: bytes = b"Spec ID Event03\0",
    vendor: bytes = b"vendor",
) -> bytes:
    spec = signature + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
    spec += struct.pack("<I", len(algorithms))
    spec += b"".join(struct.pack("<HH", *pair) for pair in algorithms)
    spec += bytes((len(vendor),)) + vendor
    return struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec


def event(
    pcr: int, data: bytes = b"event", algorithms: tuple[tuple[int, int], ...] = ALL
) -> bytes:
    digests = b"".join(
        struct.pack("<H", number) + bytes([pcr % 256]) * size
        for number, size in algorithms
    )
    start = struct.pack("<III", pcr, 13, len(algorithms))
    return start + digests + struct.pack("<I", len(data)) + data


def test_a_log_keeps_sha256_of_pcr_0_to_7() -> None:
    log = header() + event(0) + event(7) + event(8) + event(0xFFFFFFFF)
    only = (SHA256,)
    kept = header(only) + event(0, algorithms=only) + event(7, algorithms=only)
    assert trim_tcg_log(log) == kept


def test_a_trimmed_log_trims_to_itself() -> None:
    trimmed = trim_tcg_log(header() + event(0) + event(4))
    assert trim_tcg_log(trimmed) == trimmed


def test_an_event_with_its_digests_in_another_order_is_kept() -> None:
    log = header() + event(1, algorithms=(SHA256, SHA1))
    assert trim_tcg_log(log) == header((SHA256,)) + event(1, algorithms=(SHA256,))


@pytest.mark.parametrize(
    "log",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"none", id="the-units-stand-in"),
        pytest.param(header((SHA1,)) + event(0, algorithms=(SHA1,)), id="sha1-only"),
        pytest.param(header(signature=b"Spec ID Event00\0"), id="tpm-1.2"),
        pytest.param(header(((0x000B, 31),)), id="size-of-sha256"),
        pytest.param(header(((0x000B, 32),) * 17), id="too-many-algorithms"),
        pytest.param(header()[:-1], id="header-cut-short"),
        pytest.param(b"\1" + header()[1:], id="first-event-of-pcr-1"),
        pytest.param(header() + event(0)[:-1], id="event-cut-short"),
        pytest.param(
            header((SHA256,)) + event(0, algorithms=(SHA384,)), id="unlisted-digest"
        ),
        pytest.param(header() + event(0, algorithms=(SHA1,)), id="event-without"),
        pytest.param(header() + event(0, algorithms=ALL * 2), id="too-many-digests"),
        pytest.param(
            header() + event(0, bytes(MAX_TCG_LOG_BYTES)), id="longer-than-any"
        ),
    ],
)
def test_an_odd_log_becomes_an_empty_one(log: bytes) -> None:
    assert trim_tcg_log(log) == b""
