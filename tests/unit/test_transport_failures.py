"""Statuses, Retry-After and library errors as AgentErrors."""

from __future__ import annotations

import ssl

import pytest
import requests
import urllib3.exceptions

from skragent.errors import Disposition, TransportError
from skragent.transport import HttpResponse, parse_retry_after, raise_for_status
from skragent.transport.failures import translate


def answer(status: int, **headers: str) -> HttpResponse:
    return HttpResponse(status, headers, b"")


@pytest.mark.parametrize("status", [200, 201, 400, 401, 403, 404, 499])
def test_other_statuses_are_the_callers_to_judge(status: int) -> None:
    raise_for_status(answer(status), "MAA")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "transport.throttled"),
        (500, "transport.server"),
        (503, "transport.server"),
        (599, "transport.server"),
    ],
)
def test_a_temporary_failure_of_a_service_is_retried(status: int, code: str) -> None:
    with pytest.raises(TransportError) as caught:
        raise_for_status(answer(status), "MAA")
    assert caught.value.code == code
    assert caught.value.disposition == Disposition.RETRY
    assert caught.value.retry_after is None


def test_retry_after_travels_with_the_error() -> None:
    with pytest.raises(TransportError) as caught:
        raise_for_status(answer(429, **{"Retry-After": "7"}), "MAA")
    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("nan", None),
        ("٣", None),
        ("9999999999", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_whole_seconds_only(
    text: str, seconds: float | None
) -> None:
    assert parse_retry_after(text) == seconds


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (requests.exceptions.InvalidURL("x"), "transport.unexpected"),
        (requests.exceptions.ContentDecodingError("x"), "transport.unexpected"),
        (requests.exceptions.ReadTimeout("x"), "transport.timeout"),
        (requests.exceptions.SSLError("x"), "transport.tls"),
        (requests.exceptions.ChunkedEncodingError("x"), "transport.reset"),
        (urllib3.exceptions.IncompleteRead(1, 2), "transport.reset"),
        (ConnectionResetError(), "transport.reset"),
        (BrokenPipeError(), "transport.reset"),
        (ConnectionRefusedError(), "transport.refused"),
        (OSError(101, "Network is unreachable"), "transport.refused"),
        (UnicodeError("label too long"), "transport.dns"),
        (urllib3.exceptions.HTTPError("x"), "transport.unexpected"),
    ],
)
def test_each_failure_has_its_code(error: Exception, code: str) -> None:
    assert translate(error, "https://host").code == code


@pytest.mark.parametrize(
    "reason", ["certificate is not yet valid", "certificate has expired"]
)
def test_a_certificate_out_of_its_time_names_the_clock(reason: str) -> None:
    text = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason}"
    hint = translate(ssl.SSLError(1, text), "https://host").hint
    assert "this VM's clock" in hint
