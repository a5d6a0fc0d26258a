"""Managed identities: one request, and every failure is an IdentityError."""

from __future__ import annotations

import urllib.parse
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS, wait_until
from support.release_server import (
    ACCESS_TOKEN,
    Answer,
    Server,
    access_tokens,
    json_answer,
    serve,
)

from skragent.errors import IdentityError
from skragent.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

SCOPE = "https://vault.azure.net/.default"
SYSTEM = Identity()
UUID = "11111111-2222-3333-4444-555555555555"
RESOURCE = (
    f"/subscriptions/{UUID}/resourcegroups/keys/providers"
    "/Microsoft.ManagedIdentity/userAssignedIdentities/backup"
)


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve(lambda _asked: json_answer(ACCESS_TOKEN)) as server:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.origin)
        yield server


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (
            json_answer(
                {
                    "error": "invalid_request",
                    "error_description": "Identity not found",
                },
                400,
            ),
            "identity.not_found",
        ),
        (
            json_answer({"error": "invalid_resource"}, 400),
            "identity.not_found",
        ),
        (Answer(404), "identity.unavailable"),
        (Answer(410), "identity.unavailable"),
        (Answer(429, headers={"Retry-After": "1"}), "identity.unavailable"),
        (Answer(500, b"<html>"), "identity.unavailable"),
        (json_answer({}), "identity.unavailable"),
        (json_answer([]), "identity.unavailable"),
        (Answer(200, b"no json"), "identity.unavailable"),
        (Answer(then="reset"), "identity.unavailable"),
    ],
)
def test_every_failure_of_the_library_is_ours_and_asked_once(
    imds: Server, answer: Answer, code: str
) -> None:
    imds.answer = lambda _asked: answer
    with access_tokens(SYSTEM, DEADLINE_SECONDS) as tokens:
        tokens.prefetch(SCOPE)  # get_token_info raises a failure
        for _ in range(2):
            with pytest.raises(IdentityError) as caught:
                tokens.get_token_info(SCOPE)
            assert caught.value.code == code
    assert len(imds.asked) == 1


def test_an_imds_that_hangs_is_unavailable_and_is_asked_once(imds: Server) -> None:
    imds.answer = lambda _asked: Answer(then="hang")
    with access_tokens(SYSTEM, SHORT_SECONDS) as tokens:
        for _ in range(2):
            with pytest.raises(IdentityError) as caught:
                tokens.get_token_info(SCOPE)
            assert caught.value.code == "identity.unavailable"
        wait_until(lambda: bool(imds.asked))
    assert len(imds.asked) == 1


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Answer(410), 70),  # it is being updated
        (json_answer({"error": "gone"}, 410), 70),
        (Answer(410, headers={"Retry-After": "3"}), 3),
        (Answer(429, headers={"Retry-After": "3"}), 3),
        (Answer(503, headers={"Retry-After": "3"}), 3),
        (Answer(429), None),
        (Answer(404), None),
    ],
)
def test_retry_after_of_imds_is_returned(
    imds: Server, answer: Answer, seconds: float | None
) -> None:
    imds.answer = lambda _asked: answer
    with (
        access_tokens(SYSTEM, DEADLINE_SECONDS) as tokens,
        pytest.raises(IdentityError) as caught,
    ):
        tokens.get_token_info(SCOPE)
    assert caught.value.retry_after == seconds


def test_a_refusal_of_imds_is_not_called_a_missing_response(imds: Server) -> None:
    refusal = {"error": "invalid_request", "error_description": "Identity not found"}
    imds.answer = lambda _asked: json_answer(refusal, 400)
    with (
        access_tokens(SYSTEM, DEADLINE_SECONDS) as tokens,
        pytest.raises(IdentityError, match="Identity not found") as caught,
    ):
        tokens.get_token_info(SCOPE)
    assert "no response" not in caught.value.message


@pytest.mark.parametrize("status", [404, 410, 429, 500, 503])
def test_trouble_of_imds_that_passes_by_itself_says_so(
    imds: Server, status: int
) -> None:
    imds.answer = lambda _asked: Answer(status)
    with (
        access_tokens(SYSTEM, DEADLINE_SECONDS) as tokens,
        pytest.raises(IdentityError) as caught,
    ):
        tokens.get_token_info(SCOPE)
    assert caught.value.hint.startswith("Passes by itself: IMDS")
    assert ("70 s" in caught.value.hint) == (status == 410)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            json_answer({"error": "gone", "error_description": "Gone"}, 410),
            "IMDS answered HTTP 410: Gone",
        ),
        (json_answer({"error": "too_many_requests"}, 429), "IMDS answered HTTP 429"),
        (Answer(500, b"<html>"), "IMDS answered HTTP 500"),
        (Answer(404), "IMDS answered HTTP 404"),
        (Answer(200, b"no json"), "IMDS answered HTTP 200 without a usable access"),
        (
            json_answer(
                {
                    "error": "invalid_request",
                    "error_description": "Identity not found",
                },
                400,
            ),
            "IMDS answered HTTP 400: invalid_request: Identity not found",
        ),
        (Answer(then="reset"), "http://127.0.0.1:"),
    ],
)
def test_the_message_says_what_imds_answered(
    imds: Server, answer: Answer, said: str
) -> None:
    imds.answer = lambda _asked: answer
    with (
        access_tokens(SYSTEM, DEADLINE_SECONDS) as tokens,
        pytest.raises(IdentityError) as caught,
    ):
        tokens.get_token_info(SCOPE)
    assert caught.value.message.startswith(f"no access token for the vault: {said}")
    assert "no response" not in caught.value.message
    assert "ManagedIdentityCredential" not in caught.value.message


def test_a_retry_after_is_not_reported_with_a_later_failure(imds: Server) -> None:
    answers = [Answer(503, headers={"Retry-After": "3"}), Answer(then="reset")]
    imds.answer = lambda _asked: answers.pop(0)
    with access_tokens(SYSTEM, DEADLINE_SECONDS) as tokens:
        for scope, seconds in ((SCOPE, 3), ("https://managedhsm.azure.net", None)):
            with pytest.raises(IdentityError) as caught:
                tokens.get_token_info(scope)
            assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (Identity(client_id=UUID), f"client_id={UUID}"),
        (Identity(object_id=UUID), f"object_id={UUID}"),
        (Identity(resource_id=RESOURCE), f"msi_res_id={RESOURCE}"),
    ],
)
def test_user_assigned_identity_is_requested_by_its_name(
    imds: Server, who: Identity, expected: str
) -> None:
    with access_tokens(who, DEADLINE_SECONDS) as tokens:
        tokens.prefetch(SCOPE)
    (asked,) = imds.asked
    assert expected in urllib.parse.unquote(asked.path)
    assert "resource=https://vault.azure.net" in asked.path
    assert asked.headers["Metadata"] == "true"


def test_prefetched_token_is_not_fetched_again(imds: Server) -> None:
    with access_tokens(SYSTEM, DEADLINE_SECONDS) as tokens:
        tokens.prefetch(SCOPE)
        token = tokens.get_token_info(SCOPE)
        assert token.token == "the-access-token"
        assert tokens.get_token(SCOPE).token == token.token
    assert len(imds.asked) == 1


def test_newer_token_is_fetched_where_the_vault_demands_one(imds: Server) -> None:
    with access_tokens(SYSTEM, DEADLINE_SECONDS) as tokens:
        tokens.prefetch(SCOPE)
        tokens.get_token_info(SCOPE, options={"claims": "newer"})
    assert len(imds.asked) == 2
