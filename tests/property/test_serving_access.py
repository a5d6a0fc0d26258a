"""Deny by default: exactly the callers that match a rule wholly are allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skragent.serving import Access
from skragent.serving.access import Rule
from skragent.serving.peers import Peer

IDS = st.integers(min_value=0, max_value=4)
MAYBE = st.none() | IDS
PEERS = st.builds(
    Peer, uid=IDS, gid=IDS, pid=st.just(1), groups=st.frozensets(IDS, max_size=3)
)
RULES = st.lists(st.builds(Rule, uid=MAYBE, gid=MAYBE), max_size=4).map(tuple)


@given(PEERS)
def test_empty_rules_deny_everyone(peer: Peer) -> None:
    assert not Access({"db": ()}).allows(peer, "db")
    assert not Access({}).allows(peer, "db")


@given(RULES, PEERS)
def test_allowed_is_who_matches_every_member_of_a_rule(
    rules: tuple[Rule, ...], peer: Peer
) -> None:
    mine = {peer.gid, *peer.groups}
    expected = any(
        (rule.uid is not None or rule.gid is not None)
        and (rule.uid is None or rule.uid == peer.uid)
        and (rule.gid is None or rule.gid in mine)
        for rule in rules
    )
    assert Access({"db": rules}).allows(peer, "db") is expected


@given(RULES, st.builds(Rule, uid=MAYBE, gid=MAYBE), PEERS)
def test_one_more_rule_takes_nothing_away(
    rules: tuple[Rule, ...], more: Rule, peer: Peer
) -> None:
    if Access({"db": rules}).allows(peer, "db"):
        assert Access({"db": (*rules, more)}).allows(peer, "db")


@given(RULES, PEERS)
def test_rules_of_one_key_say_nothing_of_another(
    rules: tuple[Rule, ...], peer: Peer
) -> None:
    assert not Access({"db": rules, "other": ()}).allows(peer, "other")
