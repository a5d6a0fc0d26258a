"""However the bytes are cut, the answers are the same; no bytes break the wire."""

from __future__ import annotations

import contextlib
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import ALIAS, get, held_key, ring_with
from support.serving_in_memory import FullSocket, InMemoryServer, feed, with_server

from skragent.errors import RequestError
from skragent.serving.admission import Limits
from skragent.serving.http.chunked import ChunkedBody
from skragent.serving.http.interfaces import HttpError
from skragent.serving.http.reader import RequestReader
from skragent.serving.http.request import parse_head
from skragent.serving.negotiation import choose_form

REQUESTS = (
    get(f"/v1/keys/{ALIAS}"),
    get(f"/v1/keys/{ALIAS}", "Accept: application/x-pem-file"),
    get(f"/v1/keys/{ALIAS}", "Accept: text/html"),
    get("/v1/keys"),
    get("/v1/keys/unknown"),
    b"\r\n" + get("/healthz"),
    get("/healthz").replace(b"GET", b"POST"),
    get("/healthz", "Connection: close"),
    get("/healthz", "Content-Length: 3") + b"abc",
    get("/healthz").replace(b"1.1", b"1.0"),
    b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    get("/healthz").replace(b"GET", b"HEAD"),
    get(f"/v1/keys/{ALIAS}").replace(b"GET", b"HEAD"),
    get(f"/v1/keys/{ALIAS}", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    get("/v1/keys", "Transfer-Encoding: chunked")
    + b'3;a="b"\r\nabc\r\n2\r\nde\r\n0\r\nA: b\r\n\r\n',
    get("/v1/keys", "Transfer-Encoding: chunked") + b"3\nabc\r\n0\r\n\r\n",
    get("/v1/keys", "Transfer-Encoding: chunked") + b"4\r\nabc\r\n0\r\n\r\n",
    get("/v1/keys", "Transfer-Encoding: chunked") + b"1;" + b"a" * 300 + b"\r\n",
    get("/v1/keys", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    get("/v1/keys", "Expect: 100-continue"),
    get("/v1/keys", "Expect: 100-continue", "Content-Length: 3") + b"abc",
    get("/v1/keys", "Expect: 200-ok"),
)
CUTS = st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=30)


SIZES = st.lists(st.integers(min_value=1, max_value=200), max_size=12)
TOKENS = st.text("abcXYZ019-_.", min_size=1, max_size=8)
EXTENSIONS = st.lists(
    st.one_of(
        TOKENS,
        st.tuples(TOKENS, TOKENS).map("=".join),
        st.tuples(TOKENS, st.text("a ;\t,=", max_size=8)).map('{0[0]}="{0[1]}"'.format),
    ),
    max_size=3,
).map(lambda all_: "".join(f" ;{one}" for one in all_).encode())
TRAILERS = st.lists(
    st.tuples(TOKENS, TOKENS).map(lambda pair: f"{pair[0]}: {pair[1]}\r\n".encode()),
    max_size=4,
).map(b"".join)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a body, and one of the ways to send it in chunks."""
    body, coded = b"", b""
    for size in draw(SIZES):
        data = draw(st.binary(min_size=size, max_size=size))
        digits = draw(st.sampled_from(["{:x}", "{:X}", "{:08x}"])).format(size)
        coded += digits.encode() + draw(EXTENSIONS) + b"\r\n" + data + b"\r\n"
        body += data
    return body, coded + b"0\r\n" + draw(TRAILERS) + b"\r\n"


def talk(chunks: list[bytes]) -> FullSocket:
    """Let chunks arrive, and return what the transport saw."""
    seen = []

    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        for chunk in chunks:
            feed(transport, chunk)
        seen.append(transport)

    with_server(ring_with(held_key()), test)
    return seen[0]


def statuses(sent: bytes) -> list[int]:
    """Return the status of every answer; those to HEAD have no body."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", sent)]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of these sizes, over and over."""
    pieces: list[bytes] = []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@settings(max_examples=60)
@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6), CUTS)
def test_responses_do_not_depend_on_the_pieces_of_the_input(
    requests: list[bytes], sizes: list[int]
) -> None:
    stream = b"".join(requests)
    whole, cut_up, one_by_one = (
        talk([stream]),
        talk(cut(stream, sizes)),
        talk(requests),
    )
    assert statuses(whole.sent)
    assert cut_up.sent == whole.sent
    assert one_by_one.sent == whole.sent
    assert cut_up.closed == whole.closed == one_by_one.closed


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=300), max_size=4))
def test_arbitrary_bytes_get_no_success(chunks: list[bytes]) -> None:
    assert all(status >= 400 for status in statuses(talk(chunks).sent))


@settings(max_examples=60)
@given(st.sampled_from(REQUESTS), st.data())
def test_a_damaged_request_hides_no_second_request(
    request: bytes, data: st.DataObject
) -> None:
    bit = data.draw(st.integers(min_value=0, max_value=len(request) * 8 - 1))
    damaged = bytearray(request)
    damaged[bit // 8] ^= 1 << bit % 8
    transport = talk([bytes(damaged)])
    # What was its body may be a request of its own then, and is refused.
    _, *more = [*statuses(transport.sent), 0]
    assert all(status == 0 or status >= 400 for status in more)


@given(chunked_bodies(), st.binary(max_size=40), CUTS)
def test_a_chunked_body_does_not_depend_on_the_pieces_of_the_input(
    sent: tuple[bytes, bytes], rest: bytes, sizes: list[int]
) -> None:
    body, coded = sent
    chunks, data, is_complete = ChunkedBody(10_000, 10_000), bytearray(), False
    for piece in cut(coded + rest, sizes):
        data += piece
        is_complete = is_complete or chunks.take(data)
    assert is_complete
    assert (bytes(chunks.body), bytes(data)) == (body, rest)
    assert chunks.size == len(coded)


@given(chunked_bodies(), CUTS, st.data())
def test_the_error_of_a_chunked_body_does_not_depend_on_the_pieces(
    sent: tuple[bytes, bytes], sizes: list[int], data: st.DataObject
) -> None:
    damaged = bytearray(sent[1])
    at = data.draw(st.integers(min_value=0, max_value=len(damaged) - 1))
    damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    limits = Limits(body_bytes=600, head_bytes=200)
    ends = [
        end_of_body(pieces, limits)
        for pieces in (
            [bytes(damaged)],
            cut(bytes(damaged), sizes),
            cut(bytes(damaged), [1]),
        )
    ]
    assert ends[0] == ends[1] == ends[2]


def end_of_body(pieces: list[bytes], limits: Limits) -> tuple[object, ...]:
    """Return what becomes of a chunked body: it, its refusal, or that it goes on."""
    chunks, data = ChunkedBody(limits.body_bytes, limits.head_bytes), bytearray()
    is_complete = False
    try:
        for piece in pieces:
            data += piece
            is_complete = is_complete or chunks.take(data)
            assert len(chunks.body) <= limits.body_bytes
    except HttpError as error:
        return error.status, error.message
    return is_complete, bytes(chunks.body), bytes(data) if is_complete else b""


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_the_chunk_parser_is_total_and_bounded(pieces: list[bytes]) -> None:
    chunks, data = ChunkedBody(50, 100), bytearray()
    with contextlib.suppress(HttpError):
        for piece in pieces:
            data += piece
            if chunks.take(data):
                return
            assert len(chunks.body) <= 50
            assert len(data) < 256


@given(st.lists(chunked_bodies(), min_size=1, max_size=3), CUTS)
def test_requests_with_chunked_bodies_are_found_in_order(
    sent: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    stream = b"".join(head + coded for _, coded in sent)
    reader, found = RequestReader(Limits()), []
    for piece in cut(stream, sizes):
        reader.add(piece)
        while received := reader.next():
            found.append(received)
    assert [one.request.body for one in found] == [body for body, _ in sent]
    assert [one.size for one in found] == [len(head + coded) for _, coded in sent]
    assert not reader


@given(st.binary(max_size=400))
def test_the_parser_is_total(head: bytes) -> None:
    with contextlib.suppress(HttpError):
        assert parse_head(head).method


@given(st.text(max_size=100))
def test_the_accept_parser_is_total(accept: str) -> None:
    with contextlib.suppress(RequestError):
        assert choose_form(accept, ("jwk", "pem")).form in ("jwk", "pem")
