"""The client on any answer: a value, or a SkragentError."""

from __future__ import annotations

import contextlib
import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from skragent.client import SkragentError
from skragent.client.exchange import (
    JSON,
    Key,
    Request,
    Response,
    keys_of,
    pause_after,
    text_of,
    watch_request,
)

SETTINGS = settings(max_examples=200)
MEMBERS = ["code", "detail", "formats", "keys", "name", "state", "refreshing", "status"]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a\n\x1b[31m", "\ud800", "ä…"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(MEMBERS) | st.text(max_size=3), inner, max_size=6
        )
    ),
    max_leaves=10,
)
PROBLEMS = st.fixed_dictionaries(
    {"code": VALUES, "detail": VALUES}, optional={"formats": VALUES}
)
HEADER_TEXT = st.text(
    st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12
)
HEADERS = st.dictionaries(
    st.sampled_from(["ETag", "Retry-After", "Age", "Skragent-Released-At", "Allow"])
    | HEADER_TEXT,
    HEADER_TEXT
    | st.sampled_from(["9" * 500, "\u00b2", "-1", "nan", '"\xe9"', '"a"b"']),
    max_size=5,
)


def answer(status: int, headers: dict[str, str], body: bytes) -> bytes:
    kind = "application/json" if status == 200 else "application/problem+json"
    said = {"Content-Type": kind} | headers | {"Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {status} X", *(f"{n}: {v}" for n, v in said.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def read(raw: bytes, request: Request) -> Response:
    found = Response()
    if not found.feed(raw):
        found.feed(b"")
    return found.judged(request)


def judge(error: SkragentError) -> None:
    """Require what callers rely on: programs by the code, people by the text."""
    assert isinstance(error.code, str)
    assert error.code.isprintable()
    assert isinstance(error.detail, str)
    assert error.detail.isprintable()
    assert all(isinstance(form, str) for form in error.formats)
    assert isinstance(error.is_temporary, bool)
    with contextlib.suppress(SkragentError):
        assert 0 <= pause_after(error) <= 60


@SETTINGS
@given(
    document=PROBLEMS | VALUES,
    status=st.sampled_from([400, 403, 404, 406, 429, 500, 503, 599]),
    headers=HEADERS,
)
@example(document={"code": "c", "detail": "d", "formats": 5}, status=406, headers={})
@example(document={"code": "c", "detail": "d", "formats": {}}, status=406, headers={})
@example(document={"code": 5, "detail": None}, status=404, headers={})
def test_any_problem_document_is_an_error_of_ours(
    document: object, status: int, headers: dict[str, str]
) -> None:
    raw = answer(status, headers, json.dumps(document).encode())
    try:
        read(raw, Request("/v1/keys/k"))
    except SkragentError as error:
        judge(error)
    else:
        raise AssertionError("a refusal was taken for an answer")


@SETTINGS
@given(document=VALUES, headers=HEADERS)
def test_any_document_is_a_value_or_an_error_of_ours(
    document: object, headers: dict[str, str]
) -> None:
    raw = answer(200, headers, json.dumps(document).encode())
    try:
        found = read(raw, Request("/v1/status"))
        key = Key("k", found.headers, found.body)
        watch_request("k", "jwk", key.version)
        assert isinstance(key.released_at + key.age_seconds, float)
        with contextlib.suppress(SkragentError):
            found.names("refreshing")
        with contextlib.suppress(SkragentError):
            keys_of(found.document())
        with contextlib.suppress(ValueError):
            assert isinstance(key.jwk, dict)
        text_of(found)
    except SkragentError as error:
        judge(error)


@SETTINGS
@given(body=st.binary(max_size=50) | st.sampled_from(["array", "object"]))
def test_any_body_is_a_value_or_an_error_of_ours(body: bytes | str) -> None:
    if isinstance(body, str):  # nested too deeply
        body = {"array": b"[" * 200_000, "object": b'{"a":' * 99_999}[body]
    for status in (200, 404):
        try:
            found = read(answer(status, {}, body), Request("/v1/status"))
            with contextlib.suppress(ValueError):
                assert isinstance(Key("k", found.headers, found.body).jwk, dict)
            found.document()
        except SkragentError as error:
            judge(error)


@SETTINGS
@given(raw=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_response_or_a_skragent_error(raw: bytes) -> None:
    with contextlib.suppress(SkragentError):
        read(raw, Request("/v1/status", JSON))
    with contextlib.suppress(SkragentError):
        read(b"HTTP/1.1 " + raw + b"\r\n\r\n", Request("/v1/status", JSON))
