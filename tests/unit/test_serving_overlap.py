"""Responses while the agent holds two versions of a key."""

from __future__ import annotations

import json

import pytest
from support.serving import (
    ALIAS,
    FORMS,
    ME,
    NEXT_VERSION,
    NOW,
    VERSION,
    ReceivedResponse,
    everybody_in,
    get,
    held_key,
    no_attempt,
    received,
    ring_with,
)

from skragent.keyring import Keyring, KeyState
from skragent.observe import Counters
from skragent.serving.api import KeyApi
from skragent.serving.http.request import parse_head
from skragent.serving.peers import Peer

CALLER = Peer(uid=ME.uid or 0, gid=1, pid=1)
KEY = f"/v1/keys/{ALIAS}"
NEW_JWK = b'{"kty":"RSA","new":1}'


class Rotated:
    """An API of a key that was rotated."""

    def __init__(self) -> None:
        self.ring: Keyring = ring_with(held_key())
        self.api = KeyApi(
            self.ring,
            everybody_in(self.ring, ME),
            Counters(),
            now=lambda: NOW,
            due_at=no_attempt,
        )
        self.ask(KEY)  # so that the answer before is remembered
        successor = held_key(version=NEXT_VERSION, forms={"jwk": NEW_JWK})
        self.ring.put(successor, keeps_previous=True)

    def ask(self, path: str, *headers: str) -> ReceivedResponse:
        response = self.api.handle(parse_head(get(path, *headers)), CALLER)
        return received(response)


@pytest.fixture
def rotated() -> Rotated:
    return Rotated()


def test_the_key_is_served_in_its_new_version(rotated: Rotated) -> None:
    response = rotated.ask(KEY)
    assert (response.headers["ETag"], response.body) == (f'"{NEXT_VERSION}"', NEW_JWK)


def test_the_version_before_is_served_on_request(rotated: Rotated) -> None:
    response = rotated.ask(f"{KEY}?version={VERSION}")
    assert (response.headers["ETag"], response.body) == (f'"{VERSION}"', FORMS["jwk"])
    assert rotated.ask(KEY).body == NEW_JWK


def test_the_public_half_of_the_version_before_is_served(rotated: Rotated) -> None:
    response = rotated.ask(f"{KEY}/public?version={VERSION}")
    assert response.headers["ETag"] == f'"{VERSION}"'


def test_both_versions_are_listed(rotated: Rotated) -> None:
    (key,) = json.loads(rotated.ask("/v1/keys").body)["keys"]
    assert (key["version"], key["previous_version"]) == (NEXT_VERSION, VERSION)


def test_after_the_overlap_only_the_new_version_is_served(rotated: Rotated) -> None:
    rotated.ring.end_overlap(ALIAS)
    assert rotated.ask(f"{KEY}?version={VERSION}").code == "serve.version"
    assert rotated.ask(KEY).body == NEW_JWK


def test_a_dropped_key_is_served_in_no_version(rotated: Rotated) -> None:
    rotated.ring.drop(ALIAS, KeyState.DROPPED)
    assert rotated.ask(f"{KEY}?version={VERSION}").code == "serve.not_ready"
