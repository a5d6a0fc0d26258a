"""What may be asked, and what is answered."""

from __future__ import annotations

import dataclasses

import pytest
from support.serving import (
    ALIAS,
    FORMS,
    ME,
    NOW,
    VERSION,
    ReceivedResponse,
    everybody_in,
    get,
    held_key,
    received,
    ring_with,
)

from skragent.keyring import Keyring, KeyState
from skragent.observe import Counters
from skragent.serving import Access
from skragent.serving.access import Rule
from skragent.serving.api import KeyApi
from skragent.serving.http.request import parse_head
from skragent.serving.http.response import Response
from skragent.serving.peers import Peer

CALLER = Peer(uid=ME.uid or 0, gid=1, pid=1)
UNKNOWN = Peer(uid=54321, gid=54321, pid=1)
KEY = f"/v1/keys/{ALIAS}"


class Api:
    """An API of one keyring, asked without a wire."""

    def __init__(self, ring: Keyring, rule: Rule = ME) -> None:
        self.counters = Counters()
        self.due_at: float | None = None
        self.api = KeyApi(
            ring,
            everybody_in(ring, rule),
            self.counters,
            now=lambda: NOW,
            due_at=lambda _alias: self.due_at,
        )

    def ask(self, request: bytes, peer: Peer = CALLER) -> ReceivedResponse:
        response = self.api.handle(parse_head(request), peer)
        return received(response)


@pytest.fixture
def ring() -> Keyring:
    return ring_with(held_key(), waiting=["later"])


@pytest.fixture
def api(ring: Keyring) -> Api:
    return Api(ring)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("application/jwk+json", "jwk"),
        ("application/x-pem-file", "pem"),
        ("application/pkcs8", "der"),
    ],
)
def test_a_key_is_served_in_the_requested_form(
    api: Api, accept: str, form: str
) -> None:
    response = api.ask(get(KEY, f"Accept: {accept}"))
    assert response.status == 200
    assert response.body == dict(FORMS)[form]  # type: ignore[index]
    assert response.headers["Content-Type"] == accept
    assert response.headers["ETag"] == f'"{VERSION}"'
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Skragent-State"] == "current"


def test_a_missing_form_is_rejected_with_the_available_forms(api: Api) -> None:
    response = api.ask(get(KEY, "Accept: application/octet-stream"))
    assert (response.status, response.code) == (406, "serve.not_acceptable")
    assert response.json["formats"] == [
        "application/jwk+json",
        "application/x-pem-file",
        "application/pkcs8",
    ]


def test_a_stale_key_is_served_with_its_state(api: Api, ring: Keyring) -> None:
    api.ask(get(KEY))
    ring.mark(ALIAS, KeyState.STALE)
    response = api.ask(get(KEY))
    assert (response.status, response.headers["Skragent-State"]) == (200, "stale")


def test_the_held_version_can_be_requested(api: Api) -> None:
    assert api.ask(get(f"{KEY}?version={VERSION}")).status == 200


def test_another_version_is_not_found(api: Api) -> None:
    response = api.ask(get(f"{KEY}?version={'0' * 32}"))
    assert (response.status, response.code) == (404, "serve.version")


@pytest.mark.parametrize(
    "query",
    [
        "wait=x",
        "wait=5x",
        "wait=1_0",
        "wait=300.1",
        "wait=301",
        "wait=-1",
        "wait=nan",
        "hold=5",
        "version=a&version=b",
        "version",
        "&&",
    ],
)
def test_an_unknown_query_is_rejected(api: Api, query: str) -> None:
    response = api.ask(get(f"{KEY}?{query}"))
    assert (response.status, response.code) == (400, "serve.bad_request")


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/status"])
def test_an_unknown_query_is_rejected_for_other_resources(api: Api, path: str) -> None:
    response = api.ask(get(f"{path}?version={VERSION}"))
    assert (response.status, response.code) == (400, "serve.bad_request")


@pytest.mark.parametrize("seconds", ["0", "0.5", "300", "300.0"])
def test_the_longest_wait_is_accepted(api: Api, seconds: str) -> None:
    assert api.ask(get(f"{KEY}?wait={seconds}")).status == 200


@pytest.mark.parametrize(
    "tags", [f'"{VERSION}"', f'"x", W/"{VERSION}"', "*", f' "{VERSION}" ']
)
def test_a_known_version_is_not_sent_again(api: Api, tags: str) -> None:
    response = api.ask(get(KEY, f"If-None-Match: {tags}"))
    assert (response.status, response.body) == (304, b"")
    assert response.headers["ETag"] == f'"{VERSION}"'
    assert "Content-Length" not in response.headers


def test_an_unknown_version_is_sent(api: Api) -> None:
    response = api.ask(get(KEY, 'If-None-Match: "other"'))
    assert (response.status, response.body) == (200, FORMS["jwk"])


def test_a_star_matches_any_version_only_alone(api: Api) -> None:
    assert api.ask(get(KEY, 'If-None-Match: "x", *')).body == FORMS["jwk"]


def test_callers_with_and_without_the_version_get_different_responses(api: Api) -> None:
    """In any order, because responses are rendered once for all callers."""
    known = get(KEY, f'If-None-Match: "{VERSION}"')
    responses = [api.ask(request) for request in (get(KEY), known, get(KEY), known)]
    assert [response.status for response in responses] == [200, 304, 200, 304]
    assert [response.body for response in responses] == [FORMS["jwk"], b""] * 2


def test_unknown_and_denied_keys_get_the_same_response(api: Api) -> None:
    forbidden = api.ask(get(KEY), UNKNOWN)
    unknown = api.ask(get("/v1/keys/unknown"), UNKNOWN)
    assert (forbidden.status, forbidden.code) == (404, "serve.denied")
    assert (forbidden.headers, forbidden.body) == (unknown.headers, unknown.body)


@pytest.mark.parametrize(
    "request_", [f"{KEY}?wait=1", f"{KEY}?version=x", "/v1/keys/later"]
)
def test_a_denied_caller_learns_nothing_from_other_errors(
    api: Api, request_: str
) -> None:
    assert api.ask(get(request_, "Accept: text/html"), UNKNOWN).code == "serve.denied"


@pytest.mark.parametrize("query", ["?hold=5", "?wait=x", "?version=a&version=b", "?&"])
@pytest.mark.parametrize("half", ["", "/public"])
def test_a_denied_caller_with_a_bad_query_gets_the_response_of_an_unknown_key(
    api: Api, query: str, half: str
) -> None:
    forbidden = api.ask(get(f"{KEY}{half}{query}"), UNKNOWN)
    unknown = api.ask(get("/v1/keys/unknown"), UNKNOWN)
    assert forbidden.status == unknown.status == 404
    assert (forbidden.headers, forbidden.body) == (unknown.headers, unknown.body)


def test_denials_are_counted(api: Api) -> None:
    api.ask(get(KEY), UNKNOWN)
    api.ask(get("/v1/keys/unknown"))
    assert api.counters.denied["no_rule"] == 2
    assert api.counters.requests_cell("api", "get", "ok").value == 0


def test_a_key_that_is_not_held_yet_has_a_retry_after(api: Api, ring: Keyring) -> None:
    ring.note_failure("later", "transport.timeout")
    response = api.ask(get("/v1/keys/later"))
    assert (response.status, response.code) == (503, "serve.not_ready")
    assert response.headers["Retry-After"] == "1"
    assert response.json["state"] == "waiting"
    assert response.json["last_failure"] == "transport.timeout"


@pytest.mark.parametrize(
    ("due_at", "expected"),
    [
        (None, "1"),
        (NOW - 60, "1"),  # a job is running
        (NOW, "1"),
        (NOW + 9.5, "10"),  # not before the attempt
        (NOW + 298.5, "299"),
        (NOW + 3600, "300"),  # no longer than it may wait for us
    ],
)
def test_a_key_that_is_not_held_has_the_time_of_the_next_attempt(
    api: Api, due_at: float | None, expected: str
) -> None:
    api.due_at = due_at
    assert api.ask(get("/v1/keys/later")).headers["Retry-After"] == expected


@pytest.mark.parametrize(
    "request_",
    [
        get(KEY),
        get(KEY, f'If-None-Match: "{VERSION}"'),
        get(KEY, "Accept: text/html"),
        get(f"{KEY}?hold=5"),
        get(f"{KEY}/public"),
        get("/v1/keys/later"),
        get("/v1/keys/unknown"),
        get("/v1/keys"),
        get("/v1/status"),
        get("/nothing"),
        get(KEY).replace(b"GET", b"PUT", 1),
    ],
)
def test_responses_with_keys_must_not_be_stored(api: Api, request_: bytes) -> None:
    assert api.ask(request_).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("released_at", "age"), [(NOW - 60.5, "60"), (NOW, "0"), (NOW + 60, "0")]
)
def test_the_age_of_a_key_is_never_negative(released_at: float, age: str) -> None:
    key = dataclasses.replace(held_key(), released_at=released_at)
    assert Api(ring_with(key)).ask(get(KEY)).headers["Age"] == age


def test_a_denied_key_is_not_served(api: Api, ring: Keyring) -> None:
    api.ask(get(KEY))
    ring.note_failure(ALIAS, "release.denied.policy")
    ring.mark(ALIAS, KeyState.DENIED)
    response = api.ask(get(KEY))
    assert (response.status, response.json["state"]) == (503, "denied")
    assert response.json["last_failure"] == "release.denied.policy"


def test_the_list_contains_the_keys_of_the_caller(ring: Keyring) -> None:
    api = Api(ring)
    api.api.change_access(Access({ALIAS: (ME,)}))
    assert api.ask(get("/v1/keys")).json == {
        "keys": [
            {
                "name": ALIAS,
                "state": "current",
                "version": VERSION,
                "previous_version": None,
                "kty": "RSA",
                "fingerprint": "ab" * 32,
                "formats": [
                    "application/jwk+json",
                    "application/x-pem-file",
                    "application/pkcs8",
                ],
                "operations": ["get", "public"],
                "released_at": 1767225600.0,
                "not_after": None,
            }
        ]
    }


def test_a_symmetric_key_is_listed_without_a_fingerprint() -> None:
    key = dataclasses.replace(held_key(), kty="oct", fingerprint="")
    (listed,) = Api(ring_with(key)).ask(get("/v1/keys")).json["keys"]
    assert (listed["kty"], listed["fingerprint"]) == ("oct", None)


def test_a_caller_without_rules_gets_an_empty_list(api: Api) -> None:
    assert api.ask(get("/v1/keys"), UNKNOWN).json == {"keys": []}


def test_the_list_shows_a_key_that_is_not_held(api: Api) -> None:
    waiting = api.ask(get("/v1/keys")).json["keys"][1]
    assert (waiting["name"], waiting["state"]) == ("later", "waiting")
    assert waiting["version"] is None


def test_health_needs_no_rule(api: Api) -> None:
    assert api.ask(get("/healthz"), UNKNOWN).json == {"status": "ok"}


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/keys/", "/metrics", "*", "/v2/keys"])
def test_other_paths_are_not_found(api: Api, path: str) -> None:
    response = api.ask(get(path))
    assert response.status == 404
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS"])
def test_other_methods_are_rejected(api: Api, method: bytes) -> None:
    response = api.ask(get(KEY).replace(b"GET", method, 1))
    assert (response.status, response.code) == (405, "serve.method")
    assert response.headers["Allow"] == "GET, HEAD"


def test_a_percent_encoded_name_is_the_same_name(api: Api) -> None:
    assert api.ask(get("/v1/keys/%64b")).status == 200


def test_key_bytes_are_sent_from_secret_memory(api: Api, ring: Keyring) -> None:
    response = api.api.handle(parse_head(get(KEY)), CALLER)
    entry = ring.get(ALIAS)
    assert entry is not None
    assert entry.key is not None
    assert isinstance(response, Response)
    assert response.parts[1] is entry.key.forms["jwk"]


def test_an_invalidated_response_drops_the_key(api: Api, ring: Keyring) -> None:
    response = api.api.handle(parse_head(get(KEY)), CALLER)
    ring.drop(ALIAS, KeyState.EXPIRED)
    assert isinstance(response, Response)
    assert response.parts == ()


def test_a_key_may_have_the_name_public() -> None:
    api = Api(ring_with(held_key("public"), held_key(ALIAS)))
    assert api.ask(get("/v1/keys/public")).body == FORMS["jwk"]
    half = api.ask(get("/v1/keys/public/public"))
    assert half.status == 200
    assert half.body not in FORMS.values()
    assert api.ask(get("/v1/keys//public")).code == "serve.denied"


@pytest.mark.parametrize(("count", "status"), [(32, 304), (33, 400)])
def test_a_list_of_tags_has_a_limit(api: Api, count: int, status: int) -> None:
    tags = ", ".join(['"x"'] * (count - 1) + [f'"{VERSION}"'])
    assert api.ask(get(KEY, f"If-None-Match: {tags}")).status == status


def test_a_query_with_very_many_parameters_is_rejected(api: Api) -> None:
    response = api.ask(get(f"{KEY}?{'a=1&' * 2000}version={VERSION}"))
    assert (response.status, response.code) == (400, "serve.bad_request")


def test_a_caller_with_the_public_half_sees_its_operations() -> None:
    rule = Rule(uid=CALLER.uid, operations=frozenset({"public"}))
    api = Api(ring_with(held_key()), rule)
    (key,) = api.ask(get("/v1/keys")).json["keys"]
    assert (key["operations"], key["formats"]) == (["public"], [])


def test_a_dropped_key_has_the_longest_retry_after() -> None:
    ring = ring_with(held_key())
    ring.mark(ALIAS, KeyState.DROPPED)
    response = Api(ring).ask(get(KEY))
    assert (response.code, response.headers["Retry-After"]) == (
        "serve.not_ready",
        "300",
    )


def test_a_caller_without_rules_does_not_get_the_state_ready() -> None:
    api = Api(ring_with(held_key()))
    assert api.ask(get("/v1/status"), UNKNOWN).json["state"] == "none"


def test_the_status_contains_the_identity_of_the_caller(api: Api) -> None:
    caller = Peer(
        *(CALLER.uid, 2, 3, frozenset({9, 4})),
        unit="user@7.service",
        user_unit="app.service",
    )
    assert api.ask(get("/v1/status"), caller).json["you"] == {
        "uid": CALLER.uid,
        "gid": 2,
        "groups": [4, 9],
        "pid": 3,
        "unit": "user@7.service",
        "user_unit": "app.service",
    }


def test_the_status_of_a_caller_without_a_unit_has_null(api: Api) -> None:
    you = api.ask(get("/v1/status"), UNKNOWN).json["you"]
    assert (you["unit"], you["user_unit"], you["groups"]) == (None, None, [])


def test_a_symmetric_key_has_no_public_half() -> None:
    key = dataclasses.replace(held_key(), kty="oct", public_jwk="")
    response = Api(ring_with(key)).ask(get(f"{KEY}/public"))
    assert (response.status, response.code) == (404, "serve.not_found")


def test_a_key_has_the_headers_released_at_and_vary(
    api: Api,
) -> None:
    headers = api.ask(get(KEY)).headers
    assert headers["Skragent-Released-At"] == "1767225600"
    assert headers["Vary"] == "Accept"
