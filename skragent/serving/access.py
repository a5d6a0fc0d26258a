"""Access rules: every operation is denied unless a rule of the key allows it.

Pure, except for the look-up of user and group names. That happens once, when the agent
loads a configuration. A user that is renamed later keeps the number of the rule.

A rule with a unit applies to callers whose unit is pinned (see `peers`). It applies to
other callers only if `unit_rules_without_pidfd` is set.
"""

from __future__ import annotations

import enum
import fnmatch
import grp
import pwd
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

from skragent.config_rules import UNIT_TYPES, shown
from skragent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from skragent.config import AllowRule, KeyConfig
    from skragent.serving.peers import Peer


Operation = Literal["get", "public"]
_EVERY_OPERATION: Final[frozenset[Operation]] = frozenset(get_args(Operation))
_TEMPLATE: Final = re.compile(rf"(.*@)(\.({'|'.join(UNIT_TYPES)}))", re.DOTALL)


def compile_unit(pattern: str) -> re.Pattern[str]:
    """Compile the name, template or glob of a unit for `fullmatch`.

    A template (`app@.service`) matches all its instances, and not itself.
    """
    template = _TEMPLATE.fullmatch(pattern)
    if template is not None:
        pattern = f"{template[1]}?*{template[2]}"
    return re.compile(fnmatch.translate(pattern))


class UnitRules(enum.StrEnum):
    """How rules with units apply on this machine. `status` shows the values."""

    NONE = "none"  # no rule has a unit
    PINNED = "pinned"
    NOT_PINNED = "not pinned"  # by process id, because the configuration allows it
    IGNORED = "ignored"  # they match no caller on api.sock


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in numbers. A caller must match every attribute that is set."""

    uid: int | None = None
    gid: int | None = None
    unit: str | None = None  # name, template or glob
    operations: frozenset[Operation] = _EVERY_OPERATION
    _unit: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unit = None if self.unit is None else compile_unit(self.unit)
        object.__setattr__(self, "_unit", unit)

    def allows(self, peer: Peer, *, unpinned: bool = False) -> bool:
        """Return whether the caller matches. A rule without attributes matches none.

        Args:
            peer: the caller.
            unpinned: also accept a unit that is not pinned.
        """
        if self.uid is None and self.gid is None and self._unit is None:
            return False
        return (
            (self.uid is None or self.uid == peer.uid)
            and (self.gid is None or peer.is_member(self.gid))
            and (
                self._unit is None
                or ((peer.is_pinned or unpinned) and self.names_unit(peer.unit))
            )
        )

    def names_unit(self, unit: str) -> bool:
        """Return whether the rule names this unit; False for an empty name."""
        return bool(unit and self._unit and self._unit.fullmatch(unit))


@dataclass(frozen=True, slots=True)
class _Grants:
    """The rules of one key for one operation, by the attributes that they have."""

    uids: frozenset[int]  # from rules with a user only
    gids: frozenset[int]  # from rules with a group only
    others: tuple[Rule, ...]

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> _Grants:
        uids, gids, others = set(), set(), []
        for rule in rules:
            if rule.unit is None and rule.gid is None and rule.uid is not None:
                uids.add(rule.uid)
            elif rule.unit is None and rule.uid is None and rule.gid is not None:
                gids.add(rule.gid)
            else:
                others.append(rule)
        return cls(frozenset(uids), frozenset(gids), tuple(others))

    def allow(self, peer: Peer, *, unpinned: bool) -> bool:
        """Return whether one of the rules allows the caller."""
        if peer.uid in self.uids or peer.gid in self.gids:
            return True
        if self.gids and not self.gids.isdisjoint(peer.groups):
            return True
        return bool(self.others) and any(
            rule.allows(peer, unpinned=unpinned) for rule in self.others
        )


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of every key, by alias. Every caller is denied a key without rules."""

    rules: Mapping[str, tuple[Rule, ...]]
    unit_rules_without_pidfd: bool = False
    wants_units: bool = field(init=False)  # whether a rule has a unit
    gids: frozenset[int] = field(init=False)  # of all rules
    _grants: Mapping[Operation, Mapping[str, _Grants]] = field(
        init=False, repr=False, compare=False
    )
    _all: _Grants = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        every = [rule for rules in self.rules.values() for rule in rules]
        grants = {
            operation: {
                alias: _Grants.of(
                    rule for rule in rules if operation in rule.operations
                )
                for alias, rules in self.rules.items()
            }
            for operation in _EVERY_OPERATION
        }
        object.__setattr__(self, "wants_units", any(r.unit is not None for r in every))
        gids = frozenset(rule.gid for rule in every if rule.gid is not None)
        object.__setattr__(self, "gids", gids)
        object.__setattr__(self, "_grants", grants)
        object.__setattr__(self, "_all", _Grants.of(dict.fromkeys(every)))

    def allows(self, peer: Peer, alias: str, operation: Operation = "get") -> bool:
        """Return whether the caller may use the operation on the key."""
        grants = self._grants[operation].get(alias)
        return grants is not None and grants.allow(
            peer, unpinned=self.unit_rules_without_pidfd
        )

    def knows(self, peer: Peer) -> bool:
        """Return whether any rule of any key matches the caller."""
        return self._all.allow(peer, unpinned=self.unit_rules_without_pidfd)

    def unit_rules(self, *, has_pidfd: bool) -> UnitRules:
        """Return how rules with units apply on a kernel with or without peer pidfds."""
        if not self.wants_units:
            return UnitRules.NONE
        if has_pidfd:
            return UnitRules.PINNED
        if self.unit_rules_without_pidfd:
            return UnitRules.NOT_PINNED
        return UnitRules.IGNORED

    def allows_unit(self, unit: str, alias: str) -> bool:
        """Return whether a unit may get the key. systemd has vouched for the name.

        Only rules with a unit alone count, because the user of the unit is unknown.
        """
        return any(
            rule.uid is None and rule.gid is None and rule.names_unit(unit)
            for rule in self.rules.get(alias, ())
            if "get" in rule.operations
        )


def _uid_of(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid_of(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def resolve_access(
    keys: Mapping[str, KeyConfig],
    *,
    unit_rules_without_pidfd: bool = False,
    uid_of: Callable[[str], int] = _uid_of,
    gid_of: Callable[[str], int] = _gid_of,
) -> Access:
    """Resolve the names in all rules to numbers.

    Args:
        keys: the configured keys by alias.
        unit_rules_without_pidfd: also accept units that are not pinned.
        uid_of: returns the number of a user; raises KeyError if there is none.
        gid_of: the same for groups.

    Raises:
        ConfigError: this machine does not know a name; contains all of them.
    """
    problems: list[str] = []
    rules: dict[str, tuple[Rule, ...]] = {}
    for alias, key in keys.items():
        rules[alias] = tuple(
            _resolve(rule, f"keys.{shown(alias)}.allow[{i}]", problems, uid_of, gid_of)
            for i, rule in enumerate(key.allow)
        )
    if problems:
        raise ConfigError(problems, code="config.unknown_name")
    return Access(rules, unit_rules_without_pidfd)


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
        unit=rule.unit,
        operations=_EVERY_OPERATION & frozenset(rule.operations),
    )


def _number(
    name: str | int | None,
    look_up: Callable[[str], int],
    path: str,
    problems: list[str],
) -> int | None:
    if name is None or isinstance(name, int):
        return name
    try:
        return look_up(name)
    except (KeyError, ValueError):  # ValueError: the name has a NUL
        more = "; write an id without quotes" if name.isdigit() else ""
        problems.append(f"{path}: this machine does not know `{shown(name)}`{more}")
        return None
