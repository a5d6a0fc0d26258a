"""Which faults there are. Each is a function beside others of its service.

The first line of its docstring is what the catalogue prints; `fault` puts it there.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skragent.emulator.faults import grammar
from skragent.emulator.faults.grammar import Asked, FaultError, Value

if TYPE_CHECKING:
    from skragent.emulator.faults.context import Site

Apply = Callable[["Site", Asked], Awaitable[None]]

# Options of every fault that changes what a service answers.
OF_ANSWERS = {"times": grammar.NUMBER}
OF_REQUESTS = {"path": grammar.TEXT} | OF_ANSWERS


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of the catalogue."""

    service: str
    effect: str  # of `token.*` the star is any member
    apply: Apply
    value: Value | None
    options: Mapping[str, grammar.Kind]

    @property
    def pattern(self) -> str:
        """How it is written, with everything that may be given."""
        text = f"{self.service}.{self.effect.replace('*', 'NAME')}"
        if self.value is not None:
            given = f"={self.value.kind.name}"
            text += given if self.value.is_required else f"[{given}]"
        return text + "".join(
            f"[,{name}={kind.name}]" for name, kind in self.options.items()
        )

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return (inspect.getdoc(self.apply) or "").partition("\n")[0]

    def member_of(self, name: str) -> str | None:
        """Give what a name has in the star's place; None where it is another fault."""
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
    """Put a function into the catalogue, once for each of these services."""

    def put(apply: Apply) -> Apply:
        _FAULTS.extend(
            Fault(service, effect, apply, value, options or {})
            for service in services.split()
        )
        return apply

    return put


def all_faults() -> list[Fault]:
    """Give the whole catalogue, service by service."""
    # They enter themselves when they are imported.
    from skragent.emulator.faults import (  # noqa: F401, PLC0415 - they import this
        http,
        imds,
        maa,
        vault,
        vault_release,
        vm,
    )

    order = ("imds", "maa", "entra", "vault", "hsm", "azure", "vm")
    return sorted(_FAULTS, key=lambda entry: order.index(entry.service))


def parse(text: str) -> tuple[Fault, Asked]:
    """Read what somebody asked for.

    Raises:
        FaultError: emulator.fault, with a sentence for a person.
    """
    words = grammar.cut(text)
    for entry in all_faults():
        member = entry.member_of(words.name)
        if member is not None:
            value = _value_of(entry, words)
            options = {n: _option(entry, n, v) for n, v in words.options.items()}
            return entry, Asked(text, entry.service, member, value, options)
    raise FaultError(f"there is no fault `{words.name}`")


def _value_of(entry: Fault, words: grammar.Words) -> Any:  # noqa: ANN401 - of any kind
    if words.value is None:
        if entry.value is not None and entry.value.is_required:
            raise FaultError(f"`{words.name}` takes a value: {entry.pattern}")
        return entry.value and entry.value.default
    if entry.value is None:
        raise FaultError(f"`{words.name}` takes no value: {entry.pattern}")
    return _read(words.name, entry.value.kind, words.value)


def _option(entry: Fault, name: str, text: str) -> Any:  # noqa: ANN401 - of any kind
    if name not in entry.options:
        raise FaultError(f"there is no option `{name}`: {entry.pattern}")
    return _read(name, entry.options[name], text)


def _read(name: str, kind: grammar.Kind, text: str) -> Any:  # noqa: ANN401 - of any kind
    try:
        return kind.parse(text)
    except ValueError as error:
        raise FaultError(f"`{name}` must be {error}, not `{text}`") from error
