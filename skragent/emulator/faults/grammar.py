"""The syntax of faults: SERVICE.EFFECT[.MEMBER][=VALUE], then ,OPTION=VALUE.

    maa.status=503,retry_after=5    vault.hang,path=/release    maa.token.exp=-60

Each value and option has a kind, which parses it. So an invalid value is refused
before the fault changes anything.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from skragent.emulator.hostile_responses import DRIPS
from skragent.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Commas in JSON values do not begin an option; only a comma before `word=` does.
_OPTION = re.compile(r",(?=[a-z_]+=)")
_HINT = "`skragent emulator --list-faults` lists all faults."

# Stands for a member that is removed; null would be a value.
MISSING: Final = object()


class FaultError(EmulatorError):
    """A fault that does not exist, or whose value is invalid."""

    code = "emulator.fault"
    _default_hint = _HINT


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of a value.

    Args:
        name: its placeholder in the list of faults.
        parse: returns the value, or raises `ValueError` with the expected values.
    """

    name: str
    parse: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a fault; required unless it has a default."""

    kind: Kind
    default: Any = None
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """A requested fault with its parsed values."""

    text: str
    service: str
    member: str  # `exp` in `maa.token.exp`
    value: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The identity of a fault: a later fault with this name replaces it."""
        path = self.options.get("path")
        return split(self.text).name + (f",path={path}" if path else "")


@dataclass(frozen=True, slots=True)
class FaultParts:
    """The parts of a fault's text."""

    name: str
    value: str | None
    options: dict[str, str]


def split(text: str) -> FaultParts:
    """Split a text at its commas and equals signs.

    Raises:
        FaultError: emulator.fault: an option is given twice.
    """
    first, *rest = _OPTION.split(text)
    name, equals, value = first.partition("=")
    options: dict[str, str] = {}
    for option in rest:
        key, _, given = option.partition("=")
        if key in options:
            raise FaultError(f"the option `{key}` is given twice")
        options[key] = given
    return FaultParts(name, value if equals else None, options)


def optional(kind: Kind, default: Any) -> Value:  # noqa: ANN401 - of any kind
    """Return a value with a default."""
    return Value(kind, default, is_required=False)


def choice(*words: str) -> Kind:
    """Return a kind that accepts only certain words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return Kind("|".join(words), parse)


def _whole(name: str, low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        try:
            number = int(text, 0)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return Kind(name, parse)


def _seconds(low: float, high: float) -> Kind:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise ValueError(f"seconds from {low:g} to {high:g}")
        return number

    return Kind("SECONDS", parse)


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a text of one line")
    return text


def _text(text: str) -> str:
    if not text:
        raise ValueError("a text of one line")
    return _line(text)


def _json(text: str) -> Any:  # noqa: ANN401 - any JSON
    """Parse JSON; other text is a string, so that quotes are optional."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


_DAY = 86400.0
STATUS = _whole("STATUS", 200, 599)
NUMBER = _whole("N", 1, 1_000_000)
BYTES = _whole("BYTES", 1, 1 << 28)
SIZE = _whole("BYTES", 1, 1 << 34)
DRIP = choice(*DRIPS)
PCR = _whole("PCR", 0, 23)
DAYS = _whole("DAYS", -3660, 3660)
RESPONSE_CODE = _whole("RC", 1, 0xFFFF_FFFF)
COMMAND_CODE = _whole("CC", 0x11F, 0xFFFF)
DURATION = _seconds(0, _DAY)
SKEW = _seconds(-3660 * _DAY, 3660 * _DAY)
TEXT = Kind("TEXT", _text)
TEXT_OR_NONE = Kind("TEXT", _line)  # may be empty
KEY = Kind("KEY", _text)
JSON = Kind("JSON", _json)
