"""How a fault is written: SERVICE.EFFECT[.MEMBER][=VALUE], then ,OPTION=VALUE.

    maa.status=503,retry_after=5    vault.hang,path=/release    maa.token.exp=-60

Values and options are read here by their kind, so that a wrong one is refused before
anything is broken.
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

# A comma begins an option only before `word=`: JSON values have commas, too.
_OPTION = re.compile(r",(?=[a-z_]+=)")
_HINT = "`skragent emulator --list-faults` prints all that there are."

# The value of a member that is to be left out; null is another one.
MISSING: Final = object()


class FaultError(EmulatorError):
    """A fault that cannot be: there is none of that name, or its value is wrong."""

    code = "emulator.fault"
    _default_hint = _HINT


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value may be.

    Args:
        name: what the catalogue prints in its place.
        parse: gives the value, or raises `ValueError` with what it must be.
    """

    name: str
    parse: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a fault; without a default it must be given."""

    kind: Kind
    default: Any = None
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """A fault as somebody asked for it, with its values read."""

    text: str
    service: str
    member: str  # of `maa.token.exp`: `exp`
    value: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What two of them have in common of which the later one replaces the other."""
        path = self.options.get("path")
        return cut(self.text).name + (f",path={path}" if path else "")


@dataclass(frozen=True, slots=True)
class Words:
    """A fault's text, cut into its parts."""

    name: str
    value: str | None
    options: dict[str, str]


def cut(text: str) -> Words:
    """Cut a text at its commas and equals signs.

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
    return Words(name, value if equals else None, options)


def optional(kind: Kind, default: Any) -> Value:  # noqa: ANN401 - of any kind
    """Build a value that may be left out."""
    return Value(kind, default, is_required=False)


def choice(*words: str) -> Kind:
    """Build a kind of a few words."""

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
    """Read JSON; what is none is a string, so that quotes can be left out."""
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
TEXT_OR_NONE = Kind("TEXT", _line)  # empty where nothing follows the equals sign
KEY = Kind("KEY", _text)
JSON = Kind("JSON", _json)
