"""The list of all faults. Each fault is a function in the module of its service.

The first line of the function's docstring is the description in the list.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skragent.emulator.faults import grammar
from skragent.emulator.faults.grammar import FaultError, FaultSpec, Value

if TYPE_CHECKING:
    from skragent.emulator.faults.context import FaultContext

Apply = Callable[["FaultContext", FaultSpec], Awaitable[None]]

# Options of faults that change the responses of a service.
RESPONSE_OPTIONS = {"times": grammar.NUMBER}
REQUEST_OPTIONS = {"path": grammar.TEXT} | RESPONSE_OPTIONS


@dataclass(frozen=True, slots=True)
class Fault:
    """An entry of the list."""

    service: str
    effect: str  # in `token.*`, the star stands for any member
    apply: Apply
    value: Value | None
    options: Mapping[str, grammar.Kind]

    @property
    def pattern(self) -> str:
        """The fault's syntax, with its value and options."""
        text = f"{self.service}.{self.effect.replace('*', 'NAME')}"
        if self.value is not None:
            given = f"={self.value.kind.name}"
            text += given if self.value.is_required else f"[{given}]"
        return text + "".join(
            f"[,{name}={kind.name}]" for name, kind in self.options.items()
        )

    @property
    def summary(self) -> str:
        """The fault's effect, in one line."""
        return (inspect.getdoc(self.apply) or "").partition("\n")[0]

    def member_of(self, name: str) -> str | None:
        """Return the member in place of the star; None if the name does not match."""
        prefix, star, _ = f"{self.service}.{self.effect}".partition("*")
        if not star:
            return "" if name == prefix else None
        member = name.removeprefix(prefix)
        is_one = name.startswith(prefix) and all(member.split("."))
        return member if is_one else None


_FAULTS: list[Fault] = []


def fault(
    services: str,
    effect: str,
    value: Value | None = None,
    options: Mapping[str, grammar.Kind] | None = None,
) -> Callable[[Apply], Apply]:
    """Register a function as a fault of each of these services."""

    def put(apply: Apply) -> Apply:
        _FAULTS.extend(
            Fault(service, effect, apply, value, options or {})
            for service in services.split()
        )
        return apply

    return put


def all_faults() -> list[Fault]:
    """Return all faults, ordered by service."""
    # Importing the modules registers their faults.
    from skragent.emulator.faults import (  # noqa: F401, PLC0415 - they import this module
        http,
        imds,
        maa,
        vault,
        vault_release,
        vm,
    )

    order = ("imds", "maa", "entra", "vault", "hsm", "azure", "vm")
    return sorted(_FAULTS, key=lambda entry: order.index(entry.service))


def parse(text: str) -> tuple[Fault, FaultSpec]:
    """Parse a fault.

    Raises:
        FaultError: emulator.fault, with a message for the user.
    """
    words = grammar.split(text)
    for entry in all_faults():
        member = entry.member_of(words.name)
        if member is not None:
            value = _value_of(entry, words)
            options = {n: _option(entry, n, v) for n, v in words.options.items()}
            return entry, FaultSpec(text, entry.service, member, value, options)
    raise FaultError(f"the fault `{words.name}` does not exist")


def _value_of(entry: Fault, words: grammar.FaultParts) -> Any:  # noqa: ANN401 - of any kind
    if words.value is None:
        if entry.value is not None and entry.value.is_required:
            raise FaultError(f"`{words.name}` requires a value: {entry.pattern}")
        return entry.value and entry.value.default
    if entry.value is None:
        raise FaultError(f"`{words.name}` does not take a value: {entry.pattern}")
    return _read(words.name, entry.value.kind, words.value)


def _option(entry: Fault, name: str, text: str) -> Any:  # noqa: ANN401 - of any kind
    if name not in entry.options:
        raise FaultError(f"the option `{name}` does not exist: {entry.pattern}")
    return _read(name, entry.options[name], text)


def _read(name: str, kind: grammar.Kind, text: str) -> Any:  # noqa: ANN401 - of any kind
    try:
        return kind.parse(text)
    except ValueError as error:
        raise FaultError(f"`{name}` must be {error}, not `{text}`") from error
