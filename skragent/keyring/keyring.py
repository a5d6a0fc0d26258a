"""The configured keys by alias, each with its state and, if held, its bytes.

    waiting -> current -> stale -> (current | denied | expired | dropped)

The agent holds a key in the states `current` and `stale` only. The scheduler decides
when a state changes: this module does not use a clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from skragent.keyring.held_keys import HeldKey


class KeyState(enum.StrEnum):
    """The state of a key; workloads and metrics read the values."""

    WAITING = "waiting"  # not released since the agent's start
    CURRENT = "current"
    STALE = "stale"  # held and served, but its refresh is overdue
    DENIED = "denied"  # an authority denied the key: wiped
    EXPIRED = "expired"  # past its `exp` or max_stale_seconds: wiped
    DROPPED = "dropped"  # by an administrator: wiped


_HELD = (KeyState.CURRENT, KeyState.STALE)
# States without a failure: an administrator dropped the key or configured another one.
_WITHOUT_FAILURE = (KeyState.WAITING, KeyState.DROPPED)


@dataclass(slots=True)
class Entry:
    """One configured key."""

    alias: str
    state: KeyState = KeyState.WAITING
    key: HeldKey | None = None
    previous: HeldKey | None = None  # another version, for requests with ?version=
    failure_code: str = ""  # of the last attempt; empty after success
    failure_message: str = ""
    failure_hint: str = ""  # the remedy
    needs_attention: bool = False  # the last attempt failed, and a person has to act
    # Attempts that began after the last request to refresh and have ended.
    attempts: int = 0

    def forget_failure(self) -> None:
        """Clear the failure of the last attempt."""
        self.failure_code = self.failure_message = self.failure_hint = ""
        self.needs_attention = False


class Keyring:
    """All configured keys, with listeners for changes.

    A listener is called before the old bytes are wiped. It must stop sending them:
    otherwise its reader gets zeros.
    """

    def __init__(self, aliases: Iterable[str] = ()) -> None:
        self._entries = {alias: Entry(alias) for alias in aliases}
        self._listeners: list[Callable[[str], None]] = []
        self._observers: list[Callable[[], None]] = []
        self._parting: list[Callable[[HeldKey], None]] = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, alias: str) -> Entry | None:
        """Return the entry of a key; None if the key is not configured."""
        return self._entries.get(alias)

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call `listener(alias)` when the served bytes or the state of a key change."""
        self._listeners.append(listener)

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer()` after each change, including failures."""
        self._observers.append(observer)

    def on_parting(self, listener: Callable[[HeldKey], None]) -> None:
        """Call `listener(key)` when the agent no longer holds a key."""
        self._parting.append(listener)

    def remove(self, aliases: Iterable[str]) -> None:
        """Wipe and remove keys that are no longer configured."""
        for alias in aliases:
            entry = self._entries.pop(alias)
            self._notify(alias)
            self._wipe(entry.key, entry.previous)

    def add(self, aliases: Iterable[str]) -> None:
        """Add new keys of the configuration, in the state `waiting`."""
        for alias in aliases:
            self._entries.setdefault(alias, Entry(alias))
        self._notify_observers()

    def put(self, key: HeldKey, *, keeps_previous: bool = False) -> None:
        """Hold a newly released key instead of the previous one.

        The previous key is not wiped, so that a slow reader gets a complete response.
        Its arena is freed with the last reference.

        Args:
            key: the released key.
            keeps_previous: if the version changed, hold the previous version, too,
                until `end_overlap`.
        """
        entry = self._entries[key.alias]
        before = {entry.key, entry.previous}
        if entry.key is not None and entry.key.version != key.version:
            entry.previous = entry.key if keeps_previous else None
        entry.key, entry.state = key, KeyState.CURRENT
        entry.forget_failure()
        self._notify(key.alias)
        self._part(*before - {entry.key, entry.previous})

    def end_overlap(self, alias: str) -> None:
        """Release the previous version; see `put`."""
        entry = self._entries[alias]
        if entry.previous is not None:
            gone, entry.previous = entry.previous, None
            self._notify(alias)
            self._part(gone)

    def mark(self, alias: str, state: KeyState) -> None:
        """Set the state of a key; drop the key if the state does not hold it."""
        if state not in _HELD:
            self.drop(alias, state)
            return
        entry = self._entries[alias]
        if entry.key is None:
            raise RuntimeError(f"{alias} cannot be {state}: the key is not held")
        if entry.state is not state:
            entry.state = state
            self._notify(alias)

    def note_failure(
        self,
        alias: str,
        code: str,
        *,
        message: str = "",
        hint: str = "",
        needs_attention: bool = False,
    ) -> None:
        """Store the failure of the last attempt; a held key stays held."""
        entry = self._entries[alias]
        entry.failure_code = code
        entry.failure_message, entry.failure_hint = message, hint
        entry.needs_attention = needs_attention
        self._notify_observers()

    def note_attempt(self, alias: str) -> None:
        """Count an ended attempt that began after the last request to refresh."""
        self._entries[alias].attempts += 1
        self._notify_observers()

    def drop(self, alias: str, state: KeyState) -> None:
        """Wipe a key at once and set its state."""
        entry = self._entries[alias]
        keys = entry.key, entry.previous
        entry.key, entry.previous, entry.state = None, None, state
        if state in _WITHOUT_FAILURE:
            entry.forget_failure()
        self._notify(alias)
        self._wipe(*keys)

    def close(self, is_preserved: Callable[[HeldKey], bool]) -> None:
        """Wipe all keys except those preserved for the next agent."""
        for entry in self._entries.values():
            for key in (entry.key, entry.previous):
                if key is not None and not is_preserved(key):
                    key.wipe()

    def _wipe(self, *keys: HeldKey | None) -> None:
        for key in keys:
            if key is not None:
                key.wipe()
        self._part(*keys)

    def _part(self, *keys: HeldKey | None) -> None:
        for key in keys:
            if key is not None:
                for listener in self._parting:
                    listener(key)

    def _notify(self, alias: str) -> None:
        for listener in self._listeners:
            listener(alias)
        self._notify_observers()

    def _notify_observers(self) -> None:
        for observer in self._observers:
            observer()
