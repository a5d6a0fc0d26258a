"""Names become numbers, and unknown ones a list of problems."""

from __future__ import annotations

import dataclasses

import pytest

from skragent.config import AllowRule, KeyConfig
from skragent.errors import ConfigError
from skragent.serving import Access, resolve_access
from skragent.serving.access import Operation, Rule
from skragent.serving.peers import UNIDENTIFIED, Peer

OPERATIONS: tuple[Operation, ...] = ("get", "public")
USERS = {"app": 1001}
GROUPS = {"web": 2001}


def key(*rules: AllowRule) -> KeyConfig:
    return KeyConfig(vault="https://v.vault.azure.net", allow=rules)


def resolve(**keys: KeyConfig) -> Access:
    return resolve_access(keys, uid_of=USERS.__getitem__, gid_of=GROUPS.__getitem__)


def test_names_and_numbers_become_numbers() -> None:
    access = resolve(db=key(AllowRule(user="app", group=7), AllowRule(group="web")))
    assert access.rules == {"db": (Rule(1001, 7), Rule(None, 2001))}


def test_every_unknown_name_is_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            a=key(AllowRule(user="no-such-user")),
            b=key(AllowRule(user="app"), AllowRule(group="nor-here")),
        )
    assert caught.value.code == "config.unknown_name"
    assert caught.value.problems == [
        "keys.a.allow[0].user: this machine does not know `no-such-user`",
        "keys.b.allow[1].group: this machine does not know `nor-here`",
    ]


def test_names_of_this_machine_are_resolved() -> None:
    access = resolve_access({"db": key(AllowRule(user="root", group="root"))})
    assert access.rules == {"db": (Rule(0, 0),)}


def bob(**changes: object) -> Peer:
    """Return a caller with its own user and the given attributes."""
    peer = Peer(uid=1, gid=1, pid=1)
    return dataclasses.replace(peer, **changes)  # type: ignore[arg-type]


def in_unit(unit: str, *, is_pinned: bool = True) -> Peer:
    return Peer(uid=1, gid=1, pid=1, unit=unit, is_pinned=is_pinned)


def test_units_and_operations_are_kept() -> None:
    access = resolve(db=key(AllowRule(unit="app@.service", operations=("public",))))
    rule = Rule(unit="app@.service", operations=frozenset({"public"}))
    assert access.rules == {"db": (rule,)}


def test_an_invalid_name_is_unknown() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_access({"a\nb": key(AllowRule(user="a\0b"))})
    (problem,) = caught.value.problems
    assert problem.startswith("keys.a\\nb.allow[0].user: ")


@pytest.mark.parametrize(
    ("pattern", "unit", "is_named"),
    [
        ("app.service", "app.service", True),
        ("app.service", "app.services", False),
        ("app.service", "my-app.service", False),
        ("app.service", "appxservice", False),
        ("app.service", "App.service", False),
        ("app@.service", "app@1.service", True),
        ("app@.service", "app@a@b.c.service", True),
        ("app@.service", "app@.service", False),
        ("app@.service", "app.service", False),
        ("app@.service", "app@1.socket", False),
        ("app@.service", "my-app@1.service", False),
        ("app@1.service", "app@1.service", True),
        ("app@1.service", "app@2.service", False),
        ("app@*.service", "app@2.service", True),
        ("web-*@.service", "web-a@1.service", True),
        ("web-*@.service", "web-a.service", False),
        ("web-*.service", "web-a.service", True),
        ("web-?.service", "web-ab.service", False),
        ("web-[ab].service", "web-b.service", True),
        ("web-[!ab].service", "web-b.service", False),
        ("*", "session-2.scope", True),
        ("*", "", False),
        (r"dev-disk\x2dby.swap", r"dev-disk\x2dby.swap", True),
    ],
)
def test_a_rule_names_a_unit_by_name_template_or_glob(
    pattern: str, unit: str, *, is_named: bool
) -> None:
    access = Access({"db": (Rule(unit=pattern),)})
    assert access.allows(in_unit(unit), "db") is is_named
    assert access.allows_unit(unit, "db") is is_named


def test_a_unit_that_is_not_pinned_counts_only_if_configured() -> None:
    keys = {"db": key(AllowRule(unit="app.service"))}
    guessed = in_unit("app.service", is_pinned=False)
    assert not resolve_access(keys).allows(guessed, "db")
    assert resolve_access(keys, unit_rules_without_pidfd=True).allows(guessed, "db")


def test_users_and_groups_count_for_a_caller_that_is_not_pinned() -> None:
    access = Access({"db": (Rule(unit="app.service"), Rule(uid=1))})
    assert access.allows(in_unit("", is_pinned=False), "db")


def test_a_user_unit_is_not_a_system_unit() -> None:
    peer = Peer(1, 1, 1, unit="user@1.service", is_pinned=True, user_unit="app.service")
    assert not Access({"db": (Rule(unit="app.service"),)}).allows(peer, "db")
    assert Access({"db": (Rule(unit="user@1.service"),)}).allows(peer, "db")


@pytest.mark.parametrize(
    ("rule", "is_allowed"),
    [
        (Rule(unit="app.service"), True),
        (Rule(unit="app.service", uid=0), False),
        (Rule(unit="app.service", gid=0), False),
        (Rule(uid=0), False),
        (Rule(unit="app.service", operations=frozenset({"public"})), False),
        (Rule(unit="app.service", operations=frozenset({"get"})), True),
    ],
)
def test_credentials_use_rules_with_a_unit_alone(
    rule: Rule, *, is_allowed: bool
) -> None:
    assert Access({"db": (rule,)}).allows_unit("app.service", "db") is is_allowed
    assert not Access({"db": (rule,)}).allows_unit("app.service", "other")


@pytest.mark.parametrize("operation", ["get", "public"])
@pytest.mark.parametrize("who", [Rule(uid=1), Rule(gid=1), Rule(unit="a.service")])
def test_a_rule_allows_its_operations_only(operation: Operation, who: Rule) -> None:
    rule = Rule(who.uid, who.gid, who.unit, frozenset({operation}))
    access = Access({"db": (rule,)})
    allowed = {
        one for one in OPERATIONS if access.allows(in_unit("a.service"), "db", one)
    }
    assert allowed == {operation}


def test_units_are_read_if_a_rule_has_a_unit() -> None:
    assert not Access({"db": (Rule(uid=1),), "other": ()}).wants_units
    assert Access({"db": (Rule(uid=1),), "b": (Rule(unit="*", uid=1),)}).wants_units


def test_a_rule_with_operations_alone_matches_no_caller() -> None:
    access = Access({"db": (Rule(operations=frozenset({"get"})),)})
    assert not access.allows(in_unit("app.service"), "db")
    assert not access.allows_unit("app.service", "db")


def test_a_supplementary_group_counts() -> None:
    access = Access({"db": (Rule(gid=5),)})
    assert access.allows(Peer(uid=1, gid=1, pid=1, groups=frozenset({4, 5})), "db")


def test_a_caller_without_credentials_is_denied() -> None:
    access = Access({"db": (Rule(uid=0), Rule(gid=0), Rule(uid=0, gid=0))})
    assert not access.allows(UNIDENTIFIED, "db")


@pytest.mark.parametrize(
    ("rule", "has_pidfd", "is_configured", "expected"),
    [
        (Rule(uid=1), False, False, "none"),
        (Rule(unit="a.service"), True, False, "pinned"),
        (Rule(unit="a.service"), True, True, "pinned"),
        (Rule(unit="a.service"), False, True, "not pinned"),
        (Rule(unit="a.service"), False, False, "ignored"),
    ],
)
def test_the_effect_of_rules_on_units_is_reported(
    rule: Rule, expected: str, *, has_pidfd: bool, is_configured: bool
) -> None:
    access = Access({"db": (rule,)}, is_configured)
    assert access.unit_rules(has_pidfd=has_pidfd) == expected


@pytest.mark.parametrize("peer", [bob(gid=6), bob(groups=frozenset({4, 6}))])
@pytest.mark.parametrize("others", [(5, 6), (6, 5), (6,), (5, 6, 7)])
def test_a_caller_in_one_of_several_groups_is_admitted(
    peer: Peer, others: tuple[int, ...]
) -> None:
    access = Access({"db": tuple(Rule(gid=gid) for gid in others)})
    assert access.allows(peer, "db")


@pytest.mark.parametrize("rule", [Rule(gid=5, unit="app.service"), Rule(uid=2, gid=5)])
def test_a_rule_with_a_group_and_a_user_does_not_allow_the_group(rule: Rule) -> None:
    access = Access({"db": (rule, Rule(gid=9))})  # with another that is
    assert not access.allows(bob(gid=5, groups=frozenset({5})), "db")


def test_a_caller_in_group_and_unit_of_a_rule_is_allowed() -> None:
    access = Access({"db": (Rule(gid=5, unit="app.service"),)})
    peer = bob(groups=frozenset({5}), unit="app.service", is_pinned=True)
    assert access.allows(peer, "db")


@pytest.mark.parametrize(
    ("rule", "peer", "is_known"),
    [
        (Rule(uid=1), bob(), True),
        (Rule(uid=2), bob(), False),
        (Rule(gid=5), bob(groups=frozenset({5})), True),
        (Rule(gid=5), bob(groups=frozenset({6})), False),
        (Rule(unit="app.service"), in_unit("app.service"), True),
        (Rule(unit="app.service"), in_unit("other.service"), False),
        (Rule(unit="app.service"), in_unit("app.service", is_pinned=False), False),
        (Rule(uid=1, operations=frozenset({"public"})), bob(), True),
    ],
)
def test_a_caller_is_known_if_a_rule_of_any_key_matches(
    rule: Rule, peer: Peer, *, is_known: bool
) -> None:
    """The others share one account: none of them takes what is there for the known."""
    assert Access({"db": (), "other": (rule,)}).knows(peer) is is_known


def test_a_unit_that_is_not_pinned_is_known_if_configured() -> None:
    access = Access({"db": (Rule(unit="app.service"),)}, unit_rules_without_pidfd=True)
    assert access.knows(in_unit("app.service", is_pinned=False))


def test_no_caller_is_known_without_rules() -> None:
    assert not Access({"db": ()}).knows(bob())


def test_the_groups_of_all_rules_are_collected() -> None:
    """Of a caller in very many groups no others are kept."""
    rules = (Rule(gid=5), Rule(uid=1, gid=6), Rule(gid=7, unit="app.service"))
    assert Access({"db": rules, "other": (Rule(gid=8),)}).gids == {5, 6, 7, 8}
