"""Facts about each setting: its text and bounds, and the settings of older versions.

`skragent.config` puts a `Setting` into the annotation of each field. The parser takes
the bounds from there. `packaging/generate_docs.py` writes the lists of settings in
skragent.toml(5), docs/configuration.md and config.example.toml from there.
"""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Setting(NamedTuple):
    """The text of a setting in Markdown, and the inclusive bounds of a number."""

    text: str
    least: float | None = None
    most: float | None = None
    zero: str = ""  # the meaning of 0 if 0 is allowed outside of the bounds

    @property
    def bounds(self) -> str:
        """The bounds in words; empty if there are none."""
        if self.least is None or self.most is None:
            return ""
        zero = f", or 0 for {self.zero}" if self.zero else ""
        return f"from {self.least:g} to {self.most:.15g}{zero}"

    def allows(self, value: float) -> bool:
        """Return whether a number is within the bounds."""
        if self.least is None or self.most is None or (self.zero and value == 0):
            return True
        return self.least <= value <= self.most


# Settings and tables that versions before 0.2 had, with the way to replace them.
REMOVED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "refresh": "the agent refreshes keys after four fifths of the token's lifetime;"
        " keys.NAME.refresh_seconds sets a shorter interval",
        "limits.job_timeout_seconds": "a job may take twelve times"
        " limits.request_timeout_seconds",
        "serving.connections_per_uid": "one user may have half of serving.connections",
        "serving.requests_in_flight": "five sixths of serving.connections may have a"
        " request under way",
        "serving.long_polls": "two thirds of serving.connections may wait",
        "serving.answers_per_second_per_uid": "one user may get 10000 responses per"
        " second",
        "serving.head_bytes": "the head of a request may have 8192 bytes",
        "serving.body_bytes": "the body of a request may have 16384 bytes",
        "serving.head_timeout_seconds": "a request must be complete within 5 s",
        "serving.idle_timeout_seconds": "a connection may be idle for 75 s",
        "serving.send_timeout_seconds": "a caller must read a response within 10 s",
    }
)


@functools.cache
def types_of(table: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Return the type of each setting of a table, without its Setting."""
    return {
        field.name: field.type.__origin__ if _setting_of(field) else field.type
        for field in msgspec.structs.fields(table)
    }


@functools.cache
def settings_of(table: type[msgspec.Struct]) -> Mapping[str, Setting]:
    """Return the Setting of each field of a table that has one."""
    return {
        field.name: setting
        for field in msgspec.structs.fields(table)
        if (setting := _setting_of(field))
    }


def _setting_of(field: msgspec.structs.FieldInfo) -> Setting | None:
    for entry in getattr(field.type, "__metadata__", ()):
        if isinstance(entry, Setting):
            return entry
    return None


def judge_bounds(table: msgspec.Struct, path: str) -> Iterator[str]:
    """Yield a problem for each number of a table that is out of bounds."""
    for name, setting in settings_of(type(table)).items():
        if setting.bounds and not setting.allows(getattr(table, name)):
            yield f"{path}.{name}: must be {setting.bounds}"
