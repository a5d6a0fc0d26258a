"""Names become numbers, and unknown ones a list of problems."""

from __future__ import annotations

import pytest

from skragent.config import AllowRule, KeyConfig
from skragent.errors import ConfigError
from skragent.serving import Access, resolve_access
from skragent.serving.access import Rule
from skragent.serving.peers import NOBODY, Peer

USERS = {"app": 1001}
GROUPS = {"web": 2001}


def key(*rules: AllowRule) -> KeyConfig:
    return KeyConfig(vault="https://v.vault.azure.net", allow=rules)


def resolve(**keys: KeyConfig) -> Access:
    return resolve_access(keys, uid_of=USERS.__getitem__, gid_of=GROUPS.__getitem__)


def test_names_and_numbers_become_numbers() -> None:
    access = resolve(db=key(AllowRule(user="app", group=7), AllowRule(group="web")))
    assert access.rules == {"db": (Rule(1001, 7), Rule(None, 2001))}


def test_every_unknown_name_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(
            a=key(AllowRule(user="nobody-here")),
            b=key(AllowRule(user="app"), AllowRule(group="nor-here")),
        )
    assert caught.value.code == "config.unknown_name"
    assert caught.value.problems == [
        "keys.a.allow[0].user: this machine does not know `nobody-here`",
        "keys.b.allow[1].group: this machine does not know `nor-here`",
    ]


def test_this_machines_names_are_looked_up() -> None:
    access = resolve_access({"db": key(AllowRule(user="root", group="root"))})
    assert access.rules == {"db": (Rule(0, 0),)}


def test_a_supplementary_group_counts() -> None:
    access = Access({"db": (Rule(gid=5),)})
    assert access.allows(Peer(uid=1, gid=1, pid=1, groups=frozenset({4, 5})), "db")


def test_who_comes_without_credentials_is_refused() -> None:
    access = Access({"db": (Rule(uid=0), Rule(gid=0), Rule(uid=0, gid=0))})
    assert not access.allows(NOBODY, "db")
