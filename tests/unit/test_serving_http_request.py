"""Heads that are requests, and heads that are not."""

from __future__ import annotations

import pytest

from skragent.serving.http.interfaces import HttpError
from skragent.serving.http.request import check_unfinished, parse_head

START = b"GET /v1/keys HTTP/1.1\r\nHost: localhost\r\n"


def refusal(head: bytes) -> HttpError:
    with pytest.raises(HttpError) as caught:
        parse_head(head)
    return caught.value


def test_a_request_is_parsed() -> None:
    request = parse_head(
        b"GET /v1/keys/db?version=1 HTTP/1.1\r\nHost: x\r\nACCEPT: */*\r\n\r\n"
    )
    assert (request.method, request.path, request.query) == (
        "GET",
        "/v1/keys/db",
        "version=1",
    )
    assert request.headers == {"host": "x", "accept": "*/*"}
    assert request.keep_alive


def test_a_repeated_header_is_one_list() -> None:
    request = parse_head(START + b"Accept: a/b\r\naccept: c/d\r\n\r\n")
    assert request.headers["accept"] == "a/b, c/d"


@pytest.mark.parametrize("value", [b"close", b"keep-alive, close", b"CLOSE"])
def test_connection_close_ends_the_connection(value: bytes) -> None:
    assert not parse_head(START + b"Connection: " + value + b"\r\n\r\n").keep_alive


def test_an_offer_to_upgrade_is_ignored() -> None:
    request = parse_head(START + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert request.path == "/v1/keys"


def test_an_empty_body_counts_as_no_body() -> None:
    assert parse_head(START + b"Content-Length: 0\r\n\r\n").path == "/v1/keys"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ],
)
def test_versions_other_than_1_0_and_1_1_are_rejected(head: bytes) -> None:
    error = refusal(head)
    assert (error.code, error.status) == ("serve.http_version", 505)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 4", 400),
        (b"Content-Length: 4\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 0", 400),
        (b"Transfer-Encoding:", 400),
        (b"Transfer-Encoding : chunked", 400),
        (b"Transfer-Encoding: chunked, gzip", 400),
        (b"Transfer-Encoding: identity", 501),
        (b"Transfer-Encoding: gzip", 501),
        (b"Transfer-Encoding: gzip, chunked", 501),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
        (b"Transfer-Encoding: xchunked", 501),
        (b"Transfer-Encoding: chunkedx", 501),
        (b"Transfer-Encoding: , chunked", 501),
        (b"Transfer-Encoding: \x0bchunked", 400),
        (b"Content-Length: -1", 400),
        (b"Content-Length: +1", 400),
        (b"Content-Length: 0x10", 400),
        (b"Content-Length: 1234567890", 400),
        (b"Content-Length: 99999999999999999999999", 400),
        (b"Content-Length: 1\r\nContent-Length: 1", 400),
        (b"Content-Length: 1\r\nContent-Length: 2", 400),
        (b"Content-Length: 1, 1", 400),
        (b"Content-Length:", 400),
    ],
)
def test_a_body_of_ambiguous_length_is_rejected(header: bytes, status: int) -> None:
    assert refusal(START + header + b"\r\n\r\n").status == status


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"Content-Length: 0", 0),
        (b"Content-Length: 17", 17),
        (b"Content-Length:\t17 \t", 17),
        (b"X: y", 0),
    ],
)
def test_a_body_has_its_content_length(header: bytes, size: int) -> None:
    assert parse_head(START + header + b"\r\n\r\n").body_bytes == size


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999999999",
        b"Content-Length: 0x0",
        b"Content-Length:",
        b"Content-Length: 0\r\nContent-Length: 0",
        b"Content-Length: 0\r\nContent-Length: 5",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Host: other",
        b"A : b",
        b" folded: line",
        b"A: b\nC: d",
        b"A: b\rC: d",
        b"A: \x00",
        b"no colon",
    ],
)
def test_ambiguous_heads_are_rejected(header: bytes) -> None:
    error = refusal(START + header + b"\r\n\r\n")
    assert (error.code, error.status) == ("serve.bad_request", 400)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/keys HTTP/1.1\r\n\r\n",
        b"GET /v1/keys HTTP/9.9\r\nHost: x\r\n\r\n",
        b"get /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
    ],
)
def test_malformed_requests_are_rejected(head: bytes) -> None:
    assert refusal(head).status == 400


def test_64_headers_are_accepted() -> None:
    more = b"A: b\r\n" * 63  # and Host
    assert len(parse_head(START + more + b"\r\n").headers) == 2


def test_65_headers_are_rejected() -> None:
    error = refusal(START + b"A: b\r\n" * 64 + b"\r\n")
    assert (error.code, error.status) == ("serve.head_too_large", 431)


def test_an_incomplete_request_is_accepted() -> None:
    check_unfinished(START[:-1], max_bytes=len(START))


def test_an_incomplete_empty_line_is_accepted() -> None:
    check_unfinished(b"\r", max_bytes=10)


def test_a_head_at_the_limit_without_an_end_is_rejected() -> None:
    with pytest.raises(HttpError) as caught:
        check_unfinished(START, max_bytes=len(START))
    assert caught.value.code == "serve.head_too_large"


@pytest.mark.parametrize("part", [b"GET / HTTP/1.1\nHost", b"\x16\x03\x01", b"\n"])
def test_other_bytes_are_rejected_at_once(part: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        check_unfinished(part, max_bytes=1000)
    assert caught.value.code == "serve.bad_request"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://localhost/v1/keys", "/v1/keys"),
        (b"HTTP://x:1/v1/keys", "/v1/keys"),
        (b"http://localhost", "http://localhost"),
        (b"//v1/keys", "//v1/keys"),
    ],
)
def test_the_absolute_form_is_accepted(target: bytes, path: str) -> None:
    head = b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert parse_head(head).path == path


OLD = b"GET /v1/keys HTTP/1.0\r\n"


def test_an_http_1_0_request_needs_no_host() -> None:
    request = parse_head(OLD + b"\r\n")
    assert (request.method, request.path, request.headers) == ("GET", "/v1/keys", {})


def test_an_http_1_0_request_may_have_a_host() -> None:
    assert parse_head(OLD + b"Host: x\r\n\r\n").headers == {"host": "x"}


def test_an_http_1_0_request_with_two_hosts_is_rejected() -> None:
    assert refusal(OLD + b"Host: x\r\nHost: x\r\n\r\n").status == 400


@pytest.mark.parametrize("header", [b"", b"Connection: keep-alive\r\n"])
def test_the_connection_of_an_http_1_0_request_ends(header: bytes) -> None:
    assert not parse_head(OLD + header + b"\r\n").keep_alive


def test_an_http_1_0_request_may_have_a_body() -> None:
    assert parse_head(OLD + b"Content-Length: 5\r\n\r\n").body_bytes == 5


@pytest.mark.parametrize(
    "header", [b"", b"Content-Length: 5\r\n", b"Connection: keep-alive\r\n"]
)
def test_an_http_1_0_request_with_a_transfer_coding_is_rejected(header: bytes) -> None:
    head = OLD + header + b"Transfer-Encoding: chunked\r\n\r\n"
    assert refusal(head).status == 400


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b" chunked "])
def test_a_body_may_be_chunked(value: bytes) -> None:
    request = parse_head(START + b"Transfer-Encoding:" + value + b"\r\n\r\n")
    assert (request.is_chunked, request.has_body) == (True, True)


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
def test_a_client_may_expect_100_continue(value: bytes) -> None:
    request = parse_head(START + b"Expect: " + value + b"\r\n\r\n")
    assert request.expects_continue


@pytest.mark.parametrize(
    "header",
    [
        b"Expect: 200-ok",
        b"Expect: 100-continue, 200-ok",
        b"Expect: 100-continue;q=1",
        b"Expect: 100-continue\r\nExpect: 200-ok",
        b"Expect:",
    ],
)
def test_other_expectations_are_rejected(header: bytes) -> None:
    error = refusal(START + header + b"\r\n\r\n")
    assert (error.code, error.status) == ("serve.body", 417)


def test_the_expectation_of_an_http_1_0_client_is_ignored() -> None:
    request = parse_head(OLD + b"Expect: 100-continue\r\n\r\n")
    assert not request.expects_continue


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Transfer-Encoding: chunked\r\nContent-Length: 4", 400),
        (b"Content-Length: 4\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: gzip", 501),
        (b"Expect: 200-ok", 417),
    ],
)
def test_an_offer_to_upgrade_hides_no_ambiguous_body(
    header: bytes, status: int
) -> None:
    offer = b"Connection: upgrade\r\nUpgrade: h2c\r\n"
    assert refusal(START + offer + header + b"\r\n\r\n").status == status
