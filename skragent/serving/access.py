"""Who may have what: deny by default, and a rule allows or it does not exist.

Pure but for the look-up of names, which is done once, when a configuration is loaded:
who is renamed later keeps the number that the rule was resolved to.
"""

from __future__ import annotations

import grp
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from skragent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skragent.config import AllowRule, KeyConfig
    from skragent.serving.peers import Peer


Operation = Literal["get", "public"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in numbers. A caller must match every member that is given."""

    uid: int | None = None
    gid: int | None = None

    def allows(self, peer: Peer) -> bool:
        """Tell whether the caller matches wholly. A rule of no members does not."""
        if self.uid is None and self.gid is None:
            return False
        return (self.uid is None or self.uid == peer.uid) and (
            self.gid is None or peer.is_member(self.gid)
        )


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of every key, by alias. A key without rules is nobody's."""

    rules: Mapping[str, tuple[Rule, ...]]

    @property
    def wants_units(self) -> bool:
        """Tell whether a rule names a unit."""
        return False

    def allows(self, peer: Peer, alias: str, operation: Operation = "get") -> bool:  # noqa: ARG002
        """Tell whether the caller may have the key."""
        return any(rule.allows(peer) for rule in self.rules.get(alias, ()))


def _uid_of(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid_of(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def resolve_access(
    keys: Mapping[str, KeyConfig],
    *,
    uid_of: Callable[[str], int] = _uid_of,
    gid_of: Callable[[str], int] = _gid_of,
) -> Access:
    """Turn the names in all rules into numbers.

    Args:
        keys: the configured keys by alias.
        uid_of: looks a user up; raises KeyError where there is none.
        gid_of: the same for groups.

    Raises:
        ConfigError: with every name that this machine does not know.
    """
    problems: list[str] = []
    rules: dict[str, tuple[Rule, ...]] = {}
    for alias, key in keys.items():
        rules[alias] = tuple(
            _resolve(rule, f"keys.{alias}.allow[{i}]", problems, uid_of, gid_of)
            for i, rule in enumerate(key.allow)
        )
    if problems:
        raise ConfigError(problems, code="config.unknown_name")
    return Access(rules)


def _resolve(
    rule: AllowRule,
    path: str,
    problems: list[str],
    uid_of: Callable[[str], int],
    gid_of: Callable[[str], int],
) -> Rule:
    return Rule(
        uid=_number(rule.user, uid_of, f"{path}.user", problems),
        gid=_number(rule.group, gid_of, f"{path}.group", problems),
    )


def _number(
    who: str | int | None,
    look_up: Callable[[str], int],
    path: str,
    problems: list[str],
) -> int | None:
    if who is None or isinstance(who, int):
        return who
    try:
        return look_up(who)
    except KeyError:
        problems.append(f"{path}: this machine does not know `{who}`")
        return None
