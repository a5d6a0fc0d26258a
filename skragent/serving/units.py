"""What /proc/PID/cgroup says of a caller's systemd unit. Pure: text in, names out.

Not the reading of it, and not whether it may be believed: that is `peers`.

systemd gives every unit a control group below the groups of its slices, and makes all
groups from the root down to the unit's own (systemd: CONTROL_GROUP_INTERFACE). Below
that a unit that was delegated to (Delegate=, a user manager, a container) makes groups
of any name. So the *first* component that is no slice is the unit, and what stands
deeper is never looked at: the deepest would let a unit choose its name. Below a user
manager the same holds once more, by the word of that user.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

from skragent.config_rules import UNIT_TYPES

_MAX_NAME: Final = 255  # systemd: UNIT_NAME_MAX
_CHARACTERS: Final = r"[A-Za-z0-9:_.\\-]"  # systemd.unit(5); `@` divides
# A template itself (`app@.service`) has no processes, only its instances have.
_UNIT: Final = re.compile(
    rf"{_CHARACTERS}+(@[A-Za-z0-9:_.\\@-]+)?\.({'|'.join(UNIT_TYPES)})"
)
_SLICE: Final = re.compile(rf"{_CHARACTERS}+\.slice")
_USER_MANAGER: Final = re.compile(r"user@[0-9]+\.service")


class CallerUnit(NamedTuple):
    """The unit that a process is in. Empty: none, or none to be believed."""

    unit: str = ""  # of the system's manager
    user_unit: str = ""  # of a user's manager, inside `unit` user@UID.service


NO_UNIT: Final = CallerUnit()


def is_unit_name(name: str) -> bool:
    """Tell whether a unit that has processes can be named so."""
    return len(name) <= _MAX_NAME and _UNIT.fullmatch(name) is not None


class Hierarchy(enum.Enum):
    """The hierarchies that systemd may keep its units in; the value is its marking."""

    NAMED = "name=systemd"  # version 1, and the hybrid of both
    UNIFIED = ""  # version 2


def find_hierarchy(text: str) -> Hierarchy | None:
    """Tell from PID 1's /proc/1/cgroup which hierarchy systemd keeps.

    systemd puts itself into `init.scope` there. The other one may exist all the same,
    made by somebody else (containers of old images want it). None where PID 1 is not
    systemd.
    """
    for hierarchy in Hierarchy:
        if any(path.endswith("/init.scope") for path in _paths(text, hierarchy)):
            return hierarchy
    return None


def parse_cgroup(text: str, hierarchy: Hierarchy | None = None) -> CallerUnit:
    """Find the unit in the text of /proc/PID/cgroup; what is malformed has none.

    Args:
        text: the file.
        hierarchy: the one that systemd keeps. None: the named one, if there is one.
    """
    if hierarchy is None:
        paths = _paths(text, Hierarchy.NAMED) or _paths(text, Hierarchy.UNIFIED)
    else:
        paths = _paths(text, hierarchy)
    if len(paths) != 1:
        return NO_UNIT
    unit, rest = _first_unit(_components(paths[0]))
    if not _USER_MANAGER.fullmatch(unit):
        return CallerUnit(unit)
    return CallerUnit(unit, _first_unit(rest)[0])


def _paths(text: str, hierarchy: Hierarchy) -> list[str]:
    """Read the paths in one hierarchy: cgroups(7), /proc/[pid]/cgroup. One, or none."""
    paths = []
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        is_unified = number == "0" and not controllers
        is_it = is_unified if hierarchy is Hierarchy.UNIFIED else bool(controllers)
        if colon and is_it and controllers == hierarchy.value:
            paths.append(path)
    return paths


def _components(path: str) -> list[str]:
    """Split a path. None of one that leads out of what we see of the hierarchy.

    The kernel shows a process outside our cgroup namespace as `/../…`.
    """
    root, *components = path.split("/")
    is_clean = not root and all(c not in ("", ".", "..") for c in components)
    return components if is_clean else []


def _first_unit(components: list[str]) -> tuple[str, list[str]]:
    """Skip the slices; give the unit below them, and what is below the unit."""
    for i, component in enumerate(components):
        # systemd puts one `_` before a name that the kernel could mistake.
        name = component.removeprefix("_")
        if _SLICE.fullmatch(name):
            continue
        return (name, components[i + 1 :]) if is_unit_name(name) else ("", [])
    return "", []
