"""Who may have what: deny by default, and a rule allows or it does not exist.

Pure but for the look-up of names, which is done once, when a configuration is loaded:
who is renamed later keeps the number that the rule was resolved to.

A rule on a unit holds for a caller whose unit is pinned (`peers` says what that is);
for the others only where the configuration says so (`unit_rules_without_pidfd`).
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
    """Turn a unit's name, template or glob into an expression for `fullmatch`.

    A template (`app@.service`) stands for all its instances, and for nothing else.
    """
    template = _TEMPLATE.fullmatch(pattern)
    if template is not None:
        pattern = f"{template[1]}?*{template[2]}"
    return re.compile(fnmatch.translate(pattern))


class UnitRules(enum.StrEnum):
    """How rules on units hold on this machine; the values are what `status` shows."""

    NONE = "none"  # no rule names a unit
    PINNED = "pinned"
    NOT_PINNED = "not pinned"  # by process ids, as the configuration says
    IGNORED = "ignored"  # they match nobody on api.sock


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in numbers. A caller must match every member that is given."""

    uid: int | None = None
    gid: int | None = None
    unit: str | None = None  # name, template or glob
    operations: frozenset[Operation] = _EVERY_OPERATION
    _unit: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unit = None if self.unit is None else compile_unit(self.unit)
        object.__setattr__(self, "_unit", unit)

    def allows(self, peer: Peer, *, unpinned: bool = False) -> bool:
        """Tell whether the caller matches wholly. A rule on nobody does not.

        Args:
            peer: the caller.
            unpinned: believe its unit even where that is not pinned.
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
        """Tell whether the rule's unit is this one. A caller without one has none."""
        return bool(unit and self._unit and self._unit.fullmatch(unit))


@dataclass(frozen=True, slots=True)
class _Grants:
    """The rules of one key for one operation, sorted by what it takes to match them."""

    uids: frozenset[int]  # allowed whatever else they are
    gids: frozenset[int]
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
        """Tell whether one of the rules allows the caller."""
        if peer.uid in self.uids or peer.gid in self.gids:
            return True
        if self.gids and not self.gids.isdisjoint(peer.groups):
            return True
        return bool(self.others) and any(
            rule.allows(peer, unpinned=unpinned) for rule in self.others
        )


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of every key, by alias. A key without rules is nobody's."""

    rules: Mapping[str, tuple[Rule, ...]]
    unit_rules_without_pidfd: bool = False
    wants_units: bool = field(init=False)  # whether a rule names a unit
    gids: frozenset[int] = field(init=False)  # all that rules name
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
        """Tell whether the caller may have the key, or its public half."""
        grants = self._grants[operation].get(alias)
        return grants is not None and grants.allow(
            peer, unpinned=self.unit_rules_without_pidfd
        )

    def knows(self, peer: Peer) -> bool:
        """Tell whether any rule of any key is for the caller."""
        return self._all.allow(peer, unpinned=self.unit_rules_without_pidfd)

    def unit_rules(self, *, has_pidfd: bool) -> UnitRules:
        """Tell how rules on units hold on a kernel with or without peer pidfds."""
        if not self.wants_units:
            return UnitRules.NONE
        if has_pidfd:
            return UnitRules.PINNED
        if self.unit_rules_without_pidfd:
            return UnitRules.NOT_PINNED
        return UnitRules.IGNORED

    def allows_unit(self, unit: str, alias: str) -> bool:
        """Tell whether a unit may have the key, by systemd's own word for its name.

        Only rules on units alone: whom the unit will run as, nobody has said.
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
    """Turn the names in all rules into numbers.

    Args:
        keys: the configured keys by alias.
        unit_rules_without_pidfd: believe units that are not pinned.
        uid_of: looks a user up; raises KeyError where there is none.
        gid_of: the same for groups.

    Raises:
        ConfigError: with every name that this machine does not know.
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
    who: str | int | None,
    look_up: Callable[[str], int],
    path: str,
    problems: list[str],
) -> int | None:
    if who is None or isinstance(who, int):
        return who
    try:
        return look_up(who)
    except (KeyError, ValueError):  # no such name; nor can there be one
        more = "; an id is written without quotes" if who.isdigit() else ""
        problems.append(f"{path}: this machine does not know `{shown(who)}`{more}")
        return None
