"""What is held, and how it is let go."""

from __future__ import annotations

import pytest
from support.serving import ALIAS, FORMS, NEXT_VERSION, held_key, ring_with

from skragent.keyring import HeldKey, Keyring, KeyState


def test_a_configured_key_waits() -> None:
    entry = Keyring([ALIAS]).get(ALIAS)
    assert entry is not None
    assert (entry.state, entry.key) == (KeyState.WAITING, None)


def test_a_key_that_is_not_configured_is_not_there() -> None:
    assert Keyring([ALIAS]).get("other") is None


def test_a_release_ends_the_failure() -> None:
    ring = ring_with(held_key())
    ring.note_failure(ALIAS, "transport.timeout")
    ring.put(held_key())
    entry = ring.get(ALIAS)
    assert entry is not None
    assert (entry.state, entry.failure_code) == (KeyState.CURRENT, "")


def test_a_failure_leaves_the_key_held() -> None:
    key = held_key()
    ring = ring_with(key)
    ring.note_failure(ALIAS, "transport.timeout")
    entry = ring.get(ALIAS)
    assert entry is not None
    assert (entry.key, entry.failure_code) == (key, "transport.timeout")


@pytest.mark.parametrize("state", [KeyState.WAITING, KeyState.DENIED, KeyState.EXPIRED])
def test_a_state_in_which_nothing_is_held_wipes(state: KeyState) -> None:
    key = held_key()
    ring = ring_with(key)
    ring.mark(ALIAS, state)
    entry = ring.get(ALIAS)
    assert entry is not None
    assert (entry.state, entry.key) == (state, None)
    assert not any(any(view) for view in key.forms.values())


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (KeyState.DENIED, "release.denied"),
        (KeyState.EXPIRED, "release.denied"),
        (KeyState.WAITING, ""),
        (KeyState.DROPPED, ""),
    ],
)
def test_what_was_ordered_has_no_failure(state: KeyState, expected: str) -> None:
    ring = ring_with(held_key())
    ring.note_failure(ALIAS, "release.denied")
    ring.mark(ALIAS, state)
    entry = ring.get(ALIAS)
    assert entry is not None
    assert entry.failure_code == expected


def test_a_stale_key_stays_held() -> None:
    key = held_key()
    ring = ring_with(key)
    ring.mark(ALIAS, KeyState.STALE)
    assert bytes(key.forms["jwk"]) == FORMS["jwk"]


def test_a_key_that_is_not_held_cannot_be_stale() -> None:
    with pytest.raises(RuntimeError):
        Keyring([ALIAS]).mark(ALIAS, KeyState.STALE)


def test_a_replaced_key_is_left_to_its_readers() -> None:
    old = held_key()
    ring = ring_with(old)
    ring.put(held_key(version=NEXT_VERSION))
    assert bytes(old.forms["jwk"]) == FORMS["jwk"]


def test_listeners_hear_of_a_drop_before_the_bytes_are_gone() -> None:
    key = held_key()
    ring = ring_with(key)
    heard = []
    ring.subscribe(lambda alias: heard.append((alias, bytes(key.forms["jwk"]))))
    ring.drop(ALIAS, KeyState.DENIED)
    assert heard == [(ALIAS, FORMS["jwk"])]


def test_listeners_hear_of_every_change_of_what_is_served() -> None:
    heard: list[str] = []
    ring = Keyring([ALIAS])
    ring.subscribe(heard.append)
    ring.put(held_key())
    ring.mark(ALIAS, KeyState.STALE)
    ring.mark(ALIAS, KeyState.STALE)
    ring.mark(ALIAS, KeyState.EXPIRED)
    assert heard == [ALIAS] * 3


def test_a_key_that_is_removed_is_wiped_and_unknown() -> None:
    gone, kept = held_key("gone"), held_key()
    ring = ring_with(gone, kept)
    ring.remove(["gone"])
    assert [entry.alias for entry in ring] == [ALIAS]
    assert not any(gone.forms["jwk"])
    assert bytes(kept.forms["jwk"]) == FORMS["jwk"]


def test_listeners_hear_of_a_removed_key_before_the_bytes_are_gone() -> None:
    key = held_key()
    ring = ring_with(key)
    heard = []
    ring.subscribe(lambda alias: heard.append((ring.get(alias), *key.forms["jwk"])))
    ring.remove([ALIAS])
    assert heard == [(None, *FORMS["jwk"])]


def test_a_key_that_is_added_waits_and_is_shown() -> None:
    ring = ring_with(held_key())
    seen: list[list[str]] = []
    ring.observe(lambda: seen.append([entry.state for entry in ring]))
    ring.add(["new"])
    assert seen == [[KeyState.CURRENT, KeyState.WAITING]]


def test_a_version_before_is_kept_where_that_is_wanted() -> None:
    old = held_key()
    ring = ring_with(old)
    ring.put(held_key(version=NEXT_VERSION), keeps_previous=True)
    entry = ring.get(ALIAS)
    assert entry is not None
    assert entry.previous is old


def test_a_refresh_of_the_same_version_leaves_the_one_before() -> None:
    old = held_key()
    ring = ring_with(old)
    for _ in range(2):
        ring.put(held_key(version=NEXT_VERSION), keeps_previous=True)
    entry = ring.get(ALIAS)
    assert entry is not None
    assert entry.previous is old


def test_an_overlap_that_ends_leaves_the_bytes_to_their_readers() -> None:
    old = held_key()
    ring = ring_with(old)
    ring.put(held_key(version=NEXT_VERSION), keeps_previous=True)
    heard: list[str] = []
    ring.subscribe(heard.append)
    ring.end_overlap(ALIAS)
    entry = ring.get(ALIAS)
    assert entry is not None
    assert (entry.previous, heard) == (None, [ALIAS])
    assert bytes(old.forms["jwk"]) == FORMS["jwk"]


def test_a_drop_wipes_both_versions() -> None:
    old = held_key()
    ring = ring_with(old)
    ring.put(held_key(version=NEXT_VERSION), keeps_previous=True)
    ring.drop(ALIAS, KeyState.DENIED)
    assert not any(any(view) for view in old.forms.values())


def is_wiped(key: HeldKey) -> bool:
    return not any(any(view) for view in key.forms.values())


def test_closing_wipes_every_key_but_the_preserved_ones() -> None:
    kept, wiped = held_key(), held_key("other")
    ring_with(kept, wiped).close(is_preserved=lambda key: key is kept)
    assert is_wiped(wiped)
    assert not is_wiped(kept)


def test_every_key_that_is_no_longer_held_is_reported_once() -> None:
    first, second, third = held_key(), held_key(version=NEXT_VERSION), held_key()
    ring, gone = ring_with(first), list[HeldKey]()
    ring.on_parting(gone.append)
    ring.put(second, keeps_previous=True)
    assert gone == []
    ring.end_overlap(ALIAS)
    assert gone == [first]
    ring.put(third)
    assert gone == [first, second]
    ring.drop(ALIAS, KeyState.DENIED)
    assert gone == [first, second, third]


def test_a_key_that_is_removed_is_reported_when_it_is_wiped() -> None:
    key = held_key()
    ring, gone = ring_with(key), list[bool]()
    ring.on_parting(lambda key: gone.append(is_wiped(key)))
    ring.remove([ALIAS])
    assert gone == [True]
