"""Chunked bodies: what is one, and each bound at the limit and one more."""

from __future__ import annotations

import pytest

from skragent.serving.http.chunked import MAX_LINE_BYTES, ChunkedBody
from skragent.serving.http.interfaces import HttpError

MAX_BYTES = 40
MAX_FRAMING_BYTES = 1000
END = b"0\r\n\r\n"


def body_of(data: bytes, **bounds: int) -> bytes:
    chunks = a_body(**bounds)
    assert chunks.take(bytearray(data)), "the body is not complete"
    return bytes(chunks.body)


def refusal(data: bytes, **bounds: int) -> HttpError:
    with pytest.raises(HttpError) as caught:
        a_body(**bounds).take(bytearray(data))
    return caught.value


def a_body(framing: int = MAX_FRAMING_BYTES) -> ChunkedBody:
    return ChunkedBody(MAX_BYTES, framing)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (END, b""),
        (b"5\r\nhello\r\n" + END, b"hello"),
        (b"5\r\nhello\r\n1\r\n!\r\n" + END, b"hello!"),
        (b"A\r\n0123456789\r\n" + END, b"0123456789"),
        (b"a\r\n0123456789\r\n" + END, b"0123456789"),
        (b"0000000000000005\r\nhello\r\n" + END, b"hello"),
        (b"2\r\n\r\n\r\n" + END, b"\r\n"),
        (b"5\r\n0\r\n\r\n\r\n" + END, b"0\r\n\r\n"),
        (b"000\r\n\r\n", b""),
    ],
)
def test_the_data_of_all_chunks_is_the_body(data: bytes, body: bytes) -> None:
    assert body_of(data) == body


@pytest.mark.parametrize(
    "extension", [b";a", b";a=b", b' ; a = "b;\\"c"', b";a;b=1;c", b';a="\xe4"']
)
def test_extensions_are_ignored(extension: bytes) -> None:
    assert body_of(b"1" + extension + b"\r\nx\r\n" + END) == b"x"


def test_trailers_are_ignored() -> None:
    assert body_of(b"1\r\nx\r\n0\r\nA: b\r\nHost: other\r\nC:\r\n\r\n") == b"x"


def test_bytes_after_a_body_are_left() -> None:
    data = bytearray(b"1\r\nx\r\n" + END + b"GET ")
    assert a_body().take(data)
    assert data == b"GET "


def test_the_bytes_of_the_body_and_its_framing_are_counted() -> None:
    chunks = a_body()
    data = bytearray(b"1\r\nx\r\n" + END + b"GET ")
    chunks.take(data)
    assert chunks.size == len(b"1\r\nx\r\n" + END)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\nx\r\n",
        b" 1\r\nx\r\n",
        b"1 \r\nx\r\n",
        b"1_0\r\n",
        b"1\nx\r\n",
        b"1\r\nx\n",
        b"1\r\nxx\r\n",
        b"1\r\nx0\r\n",
        b"2\r\nx\r\n" + END,
        b"1\r\r\nx\r\n",
        b"00000000000000001\r\nx\r\n",
        b"1;\r\nx\r\n",
        b"1;a=\r\nx\r\n",
        b"1;a b\r\nx\r\n",
        b'1;a="b\r\nx\r\n',
        b"1;a\x00\r\nx\r\n",
        b"1;a\rb\r\nx\r\n",
        "٣\r\n".encode(),
        b"0\r\n\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA: \x00\r\n\r\n",
        b"0\r\nA: b\rC: d\r\n\r\n",
    ],
)
def test_malformed_chunks_are_rejected(data: bytes) -> None:
    error = refusal(data)
    assert (error.code, error.status) == ("serve.bad_request", 400)


@pytest.mark.parametrize(
    "data",
    [
        b"29\r\n",
        b"28\r\n" + b"x" * 40 + b"\r\n1\r\n",
        b"ffffffffffffffff\r\n",
    ],
)
def test_a_body_above_the_limit_is_rejected_before_its_data(data: bytes) -> None:
    error = refusal(data)
    assert (error.code, error.status) == ("serve.body", 413)


def test_a_body_at_the_limit_is_accepted() -> None:
    assert body_of(b"28\r\n" + b"x" * 40 + b"\r\n" + END) == b"x" * 40


def line_of(length: int) -> bytes:
    return b"1;" + b"a" * (length - 4) + b"\r\n"


def test_a_line_at_the_limit_is_accepted() -> None:
    assert body_of(line_of(MAX_LINE_BYTES) + b"x\r\n" + END) == b"x"


@pytest.mark.parametrize(
    "data", [line_of(MAX_LINE_BYTES + 1), line_of(1000)[:MAX_LINE_BYTES]]
)
def test_a_longer_line_is_rejected_before_its_end(data: bytes) -> None:
    assert refusal(data).status == 413


@pytest.mark.parametrize(
    "data",
    [
        b"1\r\nx\r\n" * 3 + END,
        b"1;abc=defgh\r\nx\r\n" + END,
        b"1\r\nx\r\n0\r\nA: bcdef\r\n\r\n",
    ],
)
def test_sizes_extensions_and_trailers_have_a_limit_together(data: bytes) -> None:
    framing = len(data) - data.count(b"x")
    assert body_of(data, framing=framing)
    error = refusal(data, framing=framing - 1)
    assert (error.code, error.status) == ("serve.body", 413)


@pytest.mark.parametrize(("count", "is_taken"), [(64, True), (65, False)])
def test_trailers_are_counted(count: int, *, is_taken: bool) -> None:
    data = b"0\r\n" + b"A: b\r\n" * count + b"\r\n"
    if is_taken:
        assert body_of(data) == b""
    else:
        assert refusal(data).status == 413
