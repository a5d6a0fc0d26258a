"""Deny by default: exactly the callers that match a rule wholly are allowed."""

from __future__ import annotations

import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from skragent.serving import Access
from skragent.serving.access import Operation, Rule, compile_unit
from skragent.serving.peers import Peer

OPERATIONS: tuple[Operation, ...] = ("get", "public")
IDS = st.integers(min_value=0, max_value=4)
MAYBE = st.none() | IDS
UNITS = st.sampled_from(["", "a.service", "a@1.service", "a@2.service", "b.scope"])
# Each with what it means, said in another way.
PATTERNS = {
    "a.service": {"a.service"},
    "a@.service": {"a@1.service", "a@2.service"},
    "a@2.service": {"a@2.service"},
    "a*": {"a.service", "a@1.service", "a@2.service"},
    "*": {"a.service", "a@1.service", "a@2.service", "b.scope"},
    "c.service": set[str](),
}
PEERS = st.builds(
    Peer,
    uid=IDS,
    gid=IDS,
    pid=st.just(1),
    groups=st.frozensets(IDS, max_size=3),
    unit=UNITS,
    is_pinned=st.booleans(),
)
RULE = st.builds(
    Rule,
    uid=MAYBE,
    gid=MAYBE,
    unit=st.none() | st.sampled_from(sorted(PATTERNS)),
    operations=st.frozensets(st.sampled_from(OPERATIONS)),
)
RULES = st.lists(RULE, max_size=4).map(tuple)
ASKED = st.sampled_from(OPERATIONS)


@given(PEERS, ASKED)
def test_empty_rules_deny_everyone(peer: Peer, operation: Operation) -> None:
    assert not Access({"db": ()}).allows(peer, "db", operation)
    assert not Access({}).allows(peer, "db", operation)


def matches(rule: Rule, peer: Peer, *, unpinned: bool) -> bool:
    members = []
    if rule.uid is not None:
        members.append(rule.uid == peer.uid)
    if rule.gid is not None:
        members.append(rule.gid in {peer.gid, *peer.groups})
    if rule.unit is not None:
        members.append(peer.unit in PATTERNS[rule.unit])
        members.append(peer.is_pinned or unpinned)
    return bool(members) and all(members)


@given(rules=RULES, peer=PEERS, operation=ASKED, unpinned=st.booleans())
def test_a_caller_must_match_every_attribute_of_a_rule(
    rules: tuple[Rule, ...], peer: Peer, operation: Operation, *, unpinned: bool
) -> None:
    expected = any(
        operation in rule.operations and matches(rule, peer, unpinned=unpinned)
        for rule in rules
    )
    access = Access({"db": rules}, unpinned)
    assert access.allows(peer, "db", operation) is expected


@given(RULES, UNITS)
def test_a_rule_on_a_unit_allows_any_user_in_the_unit(
    rules: tuple[Rule, ...], unit: str
) -> None:
    access = Access({"db": rules})
    peer = Peer(uid=99, gid=99, pid=1, unit=unit, is_pinned=True)
    assert access.allows_unit(unit, "db") is access.allows(peer, "db", "get")


@given(RULES, RULE, PEERS, ASKED)
def test_another_rule_removes_no_access(
    rules: tuple[Rule, ...], more: Rule, peer: Peer, operation: Operation
) -> None:
    if Access({"db": rules}).allows(peer, "db", operation):
        assert Access({"db": (*rules, more)}).allows(peer, "db", operation)


@given(RULES, PEERS, ASKED)
def test_rules_of_one_key_do_not_apply_to_another_key(
    rules: tuple[Rule, ...], peer: Peer, operation: Operation
) -> None:
    assert not Access({"db": rules, "other": ()}).allows(peer, "other", operation)


@given(st.text("ab@.*?[]!-service", max_size=12), st.text("ab@.service", max_size=12))
def test_every_pattern_but_a_template_matches_as_fnmatch_does(
    pattern: str, unit: str
) -> None:
    is_named = compile_unit(pattern).fullmatch(unit) is not None
    if not pattern.endswith("@.service"):
        assert is_named == fnmatch.fnmatchcase(unit, pattern)
