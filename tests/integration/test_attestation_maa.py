"""The client of MAA: every response gives a value or an AgentError."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS
from support.release_server import Answer, Asked, Server, json_answer, make_tls, serve

from skragent.attestation.maa import MaaClient
from skragent.errors import AgentError, AttestationRefusedError, Disposition
from skragent.transport import HttpClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    tls, _ = make_tls(tmp_path)
    with serve(lambda _asked: Answer(), tls) as server:
        yield server


@pytest.fixture
def maa(server: Server, tmp_path: Path) -> Iterator[MaaClient]:
    with http_client(tmp_path / "ca.pem", DEADLINE_SECONDS) as http:
        yield MaaClient(f"{server.origin}/", http)


def http_client(ca_file: str | Path, timeout_seconds: float) -> HttpClient:
    return HttpClient(
        timeout_seconds=timeout_seconds, ca_file=str(ca_file), use_proxies=False
    )


def test_evidence_is_posted_as_the_reference_clients_do(
    server: Server, maa: MaaClient
) -> None:
    server.answer = lambda _asked: Answer(200, b"sealed")
    assert maa.attest_guest(b"{}") == b"sealed"
    (asked,) = server.asked
    assert asked.path == "/attest/AzureGuest?api-version=2020-10-01"
    assert (asked.method, asked.body) == ("POST", b"{}")
    assert asked.headers["Content-Type"] == "application/json"
    assert "Authorization" not in asked.headers


def test_signing_keys_are_asked_without_a_version(
    server: Server, maa: MaaClient
) -> None:
    server.answer = lambda _asked: Answer(200, b"keys")
    assert maa.signing_keys() == b"keys"
    assert server.paths() == ["GET /certs"]


def test_connection_opened_early_is_used(server: Server, maa: MaaClient) -> None:
    maa.connect()
    maa.attest_guest(b"{}")
    assert server.connections == 1


REFUSAL = {"error": {"code": "PolicyEvaluationError", "message": "A Deny claim"}}
PAGE = b"<html>blocked</html>"
# What middleboxes answer with.
NO_DENIALS = (400, 401, 403, 404, 405, 413, 418, 421, 425)
# JSON, and not in the provider's format.
OTHERS_JSON: tuple[object, ...] = (
    *({}, [], "no", 7, {"error": "blocked"}, {"error": {}}, {"error": None}),
    *({"error": {"code": "x"}}, {"error": {"message": "x"}}, {"code": "x"}),
    *({"error": {"code": 7, "message": "x"}}, {"error": {"code": "", "message": "x"}}),
    {"error": [{"code": "x", "message": "y"}]},
)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (json_answer(REFUSAL, 400), "token.refused"),
        (json_answer(REFUSAL, 401), "transport.unexpected"),
        (json_answer(REFUSAL, 403), "transport.unexpected"),
        *((Answer(status), "transport.unexpected") for status in NO_DENIALS),
        *((Answer(status, PAGE), "transport.unexpected") for status in NO_DENIALS),
        *((json_answer(body, 400), "transport.unexpected") for body in OTHERS_JSON),
        (Answer(204), "transport.unexpected"),
        (Answer(302, headers={"Location": "/"}), "transport.unexpected"),
        (Answer(429), "transport.throttled"),
        (Answer(500), "transport.server"),
        (Answer(503), "transport.server"),
        (Answer(then="reset"), "transport.reset"),
        (Answer(200, b"half", then="cut"), "transport.reset"),
        (Answer(200, bytes(300 * 1024)), "transport.oversized"),
    ],
)
def test_every_answer_that_is_none_is_an_error_of_ours(
    server: Server, maa: MaaClient, answer: Answer, code: str
) -> None:
    server.answer = lambda _asked: answer
    with pytest.raises(AgentError) as caught:
        maa.attest_guest(b"{}")
    assert caught.value.code == code
    assert len(server.asked) == 1  # tried once


def test_a_provider_that_hangs_is_a_timeout_and_is_asked_once(
    server: Server, tmp_path: Path
) -> None:
    server.answer = lambda _asked: Answer(then="hang")
    with (
        http_client(tmp_path / "ca.pem", SHORT_SECONDS) as http,
        pytest.raises(AgentError) as caught,
    ):
        MaaClient(server.origin, http).attest_guest(b"{}")
    assert caught.value.code == "transport.timeout"
    assert len(server.asked) <= 1  # on a busy machine the time ends before that


def test_retry_after_is_returned(server: Server, maa: MaaClient) -> None:
    server.answer = lambda _asked: Answer(429, headers={"Retry-After": "7"})
    with pytest.raises(AgentError) as caught:
        maa.attest_guest(b"{}")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            {"error": {"code": "PolicyEvaluationError", "message": "A Deny claim"}},
            "PolicyEvaluationError: A Deny claim",
        ),
        ({"Error": {"Code": "Bad", "Message": "Upper"}}, "Bad: Upper"),
        ({"error": {"code": "c", "message": "a\nb\x1b[0m"}}, "c: a b?[0m"),
        ({"error": {"code": "c", "message": "x" * 9000}}, "c: " + "x" * 296 + "…"),
    ],
)
def test_refusal_carries_the_providers_reason(
    server: Server, maa: MaaClient, body: object, reason: str
) -> None:
    def answer(_asked: Asked) -> Answer:
        return json_answer(body, 400)

    server.answer = answer
    with pytest.raises(AttestationRefusedError) as caught:
        maa.attest_guest(b"{}")
    assert caught.value.message.endswith(f"refused the evidence: {reason}")
    assert caught.value.disposition is Disposition.DENIED


def test_certificate_of_an_untrusted_issuer_is_refused(
    server: Server, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    _, ca_file = make_tls(stranger)
    http = http_client(ca_file, DEADLINE_SECONDS)
    with http, pytest.raises(AgentError) as caught:
        MaaClient(server.origin, http).attest_guest(b"{}")
    assert caught.value.code == "transport.tls"
    assert server.asked == []
