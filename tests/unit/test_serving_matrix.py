"""Each kind of rule at each endpoint: allowed and denied callers, and unknown keys.

The tables have the expected results. The rules come from the text of a configuration.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from support.serving import (
    NOW,
    VERSION,
    ReceivedResponse,
    get,
    held_key,
    key_of,
    no_attempt,
    ring_with,
    split_responses,
)

from skragent.config import parse_config
from skragent.keyring import KeyState
from skragent.observe import Counters
from skragent.serving import Access, resolve_access
from skragent.serving.api import KeyApi
from skragent.serving.http.long_poll import LongPoll
from skragent.serving.http.request import parse_head
from skragent.serving.peers import Peer

USERS = {"alice": 1001, "bob": 1002}
GROUPS = {"wheel": 2001, "audio": 2002}
BOB = Peer(uid=1002, gid=2002, pid=7, unit="other.service", is_pinned=True)
BOTH = frozenset({"get", "public"})


def bob(**changes: object) -> Peer:
    return dataclasses.replace(BOB, **changes)  # type: ignore[arg-type]


# rule, a caller that it allows (BOB with one change), operations, denied callers
KINDS: dict[str, tuple[str, Peer, frozenset[str], list[Peer]]] = {
    "user": ('user = "alice"', bob(uid=1001), BOTH, [BOB]),
    "user by number": ("user = 1001", bob(uid=1001), BOTH, [BOB, bob(gid=1001)]),
    "group": ('group = "wheel"', bob(gid=2001), BOTH, [BOB, bob(uid=2001)]),
    "supplementary group": (
        'group = "wheel"',
        bob(groups=frozenset({5, 2001})),
        BOTH,
        [bob(groups=frozenset({5}))],
    ),
    "unit": (
        'unit = "web.service"',
        bob(unit="web.service"),
        BOTH,
        [
            BOB,
            bob(unit=""),
            bob(unit="web.service.service"),
            bob(unit="xweb.service"),
            bob(unit="web.scope"),
            bob(unit="WEB.service"),
            bob(unit="web.service", is_pinned=False),
            bob(unit="user@1002.service", user_unit="web.service"),
        ],
    ),
    "unit glob": (
        'unit = "batch-*.service"',
        bob(unit="batch-7.service"),
        BOTH,
        [bob(unit="batch.service"), bob(unit="batch-7.scope"), BOB],
    ),
    "unit template": (
        'unit = "web@.service"',
        bob(unit="web@eu.service"),
        BOTH,
        [bob(unit="web.service"), bob(unit="webx@eu.service"), BOB],
    ),
    "private half only": (
        'user = "alice", operations = ["get"]',
        bob(uid=1001),
        frozenset({"get"}),
        [BOB],
    ),
    "public half only": (
        'user = "alice", operations = ["public"]',
        bob(uid=1001),
        frozenset({"public"}),
        [BOB],
    ),
    "user and group": (
        'user = "alice", group = "wheel"',
        bob(uid=1001, groups=frozenset({2001})),
        BOTH,
        [bob(uid=1001), bob(gid=2001), BOB],
    ),
    "user and unit": (
        'user = "alice", unit = "web.service"',
        bob(uid=1001, unit="web.service"),
        BOTH,
        [bob(uid=1001), bob(unit="web.service"), BOB],
    ),
}


def api_for(rule: str) -> tuple[KeyApi, Access]:
    config = parse_config(
        '[keys.db]\nvault = "https://v.vault.azure.net"\n'
        f"allow = [{{ {rule} }}]\n"
        '[keys.nobodys]\nvault = "https://v.vault.azure.net"\n'
        '[keys.later]\nvault = "https://v.vault.azure.net"\n'
        f"allow = [{{ {rule} }}]\n"
    )
    access = resolve_access(
        config.keys, uid_of=USERS.__getitem__, gid_of=GROUPS.__getitem__
    )
    held = held_key("db")
    ring = ring_with(
        key_of("db", VERSION, dict(held.forms), '{"kty":"RSA"}', "pem"),
        held_key("nobodys"),
        waiting=["later"],
    )
    ring.mark("db", KeyState.STALE)
    api = KeyApi(ring, access, Counters(), now=lambda: NOW, due_at=no_attempt)
    return api, access


def ask(api: KeyApi, path: str, peer: Peer) -> ReceivedResponse | None:
    response = api.handle(parse_head(get(path)), peer)
    if isinstance(response, LongPoll):
        return None
    return split_responses(b"".join(response.parts))[0]


def status_of(api: KeyApi, path: str, peer: Peer) -> int:
    response = ask(api, path, peer)
    return 0 if response is None else response.status  # 0: held, as ?wait= asks


# endpoint, the operation that it needs, the status for allowed callers
ENDPOINTS = [
    ("/v1/keys/{}", "get", {"db": 200, "later": 503}),
    ("/v1/keys/{}?wait=9", "get", {"db": 200, "later": 0}),
    (f"/v1/keys/{{}}?version={VERSION}", "get", {"db": 200, "later": 503}),
    ("/v1/keys/{}/public", "public", {"db": 200, "later": 503}),
    ("/v1/keys/{}/public?wait=9", "public", {"db": 200, "later": 0}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("path", "operation", "responses"), ENDPOINTS)
def test_a_key_is_served_to_callers_of_its_rule_only(
    kind: str, path: str, operation: str, responses: dict[str, int]
) -> None:
    rule, friend, operations, strangers = KINDS[kind]
    api, _ = api_for(rule)
    for alias, status in responses.items():
        expected = status if operation in operations else 404
        assert status_of(api, path.format(alias), friend) == expected
    for peer, alias in itertools.product(strangers, responses):
        assert status_of(api, path.format(alias), peer) == 404
    unknown = ask(api, path.format("unknown"), friend)
    forbidden = ask(api, path.format("nobodys"), friend)
    assert unknown is not None
    assert forbidden is not None
    assert (unknown.status, unknown.code) == (404, "serve.denied")
    assert (unknown.headers, unknown.body) == (forbidden.headers, forbidden.body)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/v1/keys", "/v1/status"])
def test_keys_are_listed_for_callers_of_their_rules(kind: str, path: str) -> None:
    rule, friend, _, strangers = KINDS[kind]
    api, _ = api_for(rule)
    seen = [
        [key["name"] for key in response.json["keys"]]
        for peer in (friend, *strangers)
        if (response := ask(api, path, peer)) is not None
    ]
    assert seen == [["db", "later"], *([[]] * len(strangers))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/healthz", "/v1/openapi.json"])
def test_resources_without_keys_need_no_rule(kind: str, path: str) -> None:
    rule, friend, _, strangers = KINDS[kind]
    api, _ = api_for(rule)
    assert {status_of(api, path, peer) for peer in (friend, *strangers)} == {200}


@pytest.mark.parametrize("kind", KINDS)
def test_systemd_gets_credentials_for_rules_with_a_unit_alone(kind: str) -> None:
    rule, friend, _, strangers = KINDS[kind]
    _, access = api_for(rule)
    is_on_units_alone = kind in ("unit", "unit glob", "unit template")
    assert access.allows_unit(friend.unit, "db") is is_on_units_alone
    for peer in strangers:
        if peer.unit != friend.unit:
            assert not access.allows_unit(peer.unit, "db")
    assert not access.allows_unit(friend.unit, "nobodys")
    assert not access.allows_unit(friend.unit, "unknown")
