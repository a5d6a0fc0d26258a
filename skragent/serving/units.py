"""The systemd unit in the text of /proc/PID/cgroup. Pure.

The module `peers` reads the file and decides whether the result is proved.

systemd gives every unit a control group below the groups of its slices, and creates all
groups from the root down to that of the unit (systemd: CONTROL_GROUP_INTERFACE). Below
its own group, a unit with delegation (Delegate=, a user manager, a container) creates
groups with any name. So the unit is the *first* component that is not a slice. Deeper
components are ignored, because a unit could choose them. Below a user manager the same
applies once more; that user controls the result.
"""

from __future__ import annotations

import enum
import re
from typing import Final, NamedTuple

from skragent.config_rules import UNIT_TYPES

_MAX_NAME: Final = 255  # systemd: UNIT_NAME_MAX
_CHARACTERS: Final = r"[A-Za-z0-9:_.\\-]"  # systemd.unit(5); `@` separates
# Only instances have processes, and a template (`app@.service`) has none.
_UNIT: Final = re.compile(
    rf"{_CHARACTERS}+(@[A-Za-z0-9:_.\\@-]+)?\.({'|'.join(UNIT_TYPES)})"
)
_SLICE: Final = re.compile(rf"{_CHARACTERS}+\.slice")
_USER_MANAGER: Final = re.compile(r"user@[0-9]+\.service")


class CallerUnit(NamedTuple):
    """The unit of a process. Empty: no unit, or a malformed path."""

    unit: str = ""  # of the system manager
    user_unit: str = ""  # of a user manager, inside `unit` user@UID.service


NO_UNIT: Final = CallerUnit()


def is_unit_name(name: str) -> bool:
    """Return whether a unit with processes can have this name."""
    return len(name) <= _MAX_NAME and _UNIT.fullmatch(name) is not None


class Hierarchy(enum.Enum):
    """The hierarchies that systemd may use; the value is the name of its controller."""

    NAMED = "name=systemd"  # version 1, and the hybrid of both
    UNIFIED = ""  # version 2


def find_hierarchy(text: str) -> Hierarchy | None:
    """Return the hierarchy of systemd, from /proc/1/cgroup; None without systemd.

    systemd puts itself into `init.scope` there. Another hierarchy may exist as well,
    for example for containers with old images.
    """
    for hierarchy in Hierarchy:
        if any(path.endswith("/init.scope") for path in _paths(text, hierarchy)):
            return hierarchy
    return None


def parse_cgroup(text: str, hierarchy: Hierarchy | None = None) -> CallerUnit:
    """Return the unit in the text of /proc/PID/cgroup; no unit if it is malformed.

    Args:
        text: the file.
        hierarchy: that of systemd. None: the named hierarchy if it exists.
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
    """Return the paths in one hierarchy: cgroups(7), /proc/[pid]/cgroup."""
    paths = []
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        is_unified = number == "0" and not controllers
        is_match = is_unified if hierarchy is Hierarchy.UNIFIED else bool(controllers)
        if colon and is_match and controllers == hierarchy.value:
            paths.append(path)
    return paths


def _components(path: str) -> list[str]:
    """Split a path. Return nothing for a path outside of our cgroup namespace.

    The kernel shows such a path as `/../…`.
    """
    root, *components = path.split("/")
    is_clean = not root and all(c not in ("", ".", "..") for c in components)
    return components if is_clean else []


def _first_unit(components: list[str]) -> tuple[str, list[str]]:
    """Return the unit below the slices, and the components below the unit."""
    for i, component in enumerate(components):
        # systemd escapes names that the kernel reserves with one `_`.
        name = component.removeprefix("_")
        if _SLICE.fullmatch(name):
            continue
        return (name, components[i + 1 :]) if is_unit_name(name) else ("", [])
    return "", []
