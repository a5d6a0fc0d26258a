"""The keys that we hold, by alias, and the state that the supervisor gave to each.

    waiting -> current -> stale -> (current | denied | expired | dropped)

A key is held in `current` and `stale` and in no other state. Nothing here knows what
time it is or decides when a state changes: that is the supervisor's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from skragent.keyring.held_keys import HeldKey


class KeyState(enum.StrEnum):
    """Where a key is in its life; the values are what workloads and metrics read."""

    WAITING = "waiting"  # not yet released since we started
    CURRENT = "current"
    STALE = "stale"  # held and served, but its refresh is overdue
    DENIED = "denied"  # somebody with the right to say no said no: wiped
    EXPIRED = "expired"  # too old to be served: wiped
    DROPPED = "dropped"  # an administrator said so: wiped


_HELD = (KeyState.CURRENT, KeyState.STALE)
# Of these nobody failed: somebody dropped the key, or means another one by its name.
_BY_ORDER = (KeyState.WAITING, KeyState.DROPPED)


@dataclass(slots=True)
class Entry:
    """What is known of one configured key."""

    alias: str
    state: KeyState = KeyState.WAITING
    key: HeldKey | None = None
    previous: HeldKey | None = None  # another version, served to who asks for it
    failure_code: str = ""  # of the last attempt; empty after a success
    failure_message: str = ""
    failure_hint: str = ""  # what to do about it
    retry_at: float | None = None  # when the next attempt is due, if that is known
    wipe_at: float | None = None  # from then on, a repeated denial wipes the key
    needs_attention: bool = False  # the last attempt failed, and a person must act
    # Attempts that have ended, and that began after the last order to refresh.
    attempts: int = 0

    def forget_failure(self) -> None:
        """Note that the last attempt did not fail."""
        self.failure_code = self.failure_message = self.failure_hint = ""
        self.retry_at = self.wipe_at = None
        self.needs_attention = False


class Keyring:
    """All configured keys. Whoever serves them listens for changes.

    A listener gets the alias before the old bytes are gone, so that it can let go of
    them: what it still sends must be cut, or its reader gets zeros.
    """

    def __init__(self, aliases: Iterable[str] = ()) -> None:
        self._entries = {alias: Entry(alias) for alias in aliases}
        self._listeners: list[Callable[[str], None]] = []
        self._observers: list[Callable[[], None]] = []
        self._parting: list[Callable[[HeldKey], None]] = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, alias: str) -> Entry | None:
        """Return what is known of a key; None where no such key is configured."""
        return self._entries.get(alias)

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call `listener(alias)` at each change of what can be served."""
        self._listeners.append(listener)

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer()` after each change of what is known, failures too."""
        self._observers.append(observer)

    def on_parting(self, listener: Callable[[HeldKey], None]) -> None:
        """Call `listener(key)` when a key is no longer held, and maybe wiped."""
        self._parting.append(listener)

    def remove(self, aliases: Iterable[str]) -> None:
        """Forget keys that are configured no more: they are wiped, and unknown."""
        for alias in aliases:
            entry = self._entries.pop(alias)
            self._tell(alias)
            self._wipe(entry.key, entry.previous)

    def add(self, aliases: Iterable[str]) -> None:
        """Know of keys that are new in the configuration: they wait."""
        for alias in aliases:
            self._entries.setdefault(alias, Entry(alias))
        self._show()

    def put(self, key: HeldKey, *, keeps_previous: bool = False) -> None:
        """Hold a fresh release instead of the one before.

        The one before is not wiped here: a slow reader gets the whole of what it
        began to read. Its arena goes with its last key and its last reader.

        Args:
            key: what was released.
            keeps_previous: where that is another version, hold the one before as
                well, until `end_overlap`.
        """
        entry = self._entries[key.alias]
        before = {entry.key, entry.previous}
        if entry.key is not None and entry.key.version != key.version:
            entry.previous = entry.key if keeps_previous else None
        entry.key, entry.state = key, KeyState.CURRENT
        entry.forget_failure()
        self._tell(key.alias)
        self._part(*before - {entry.key, entry.previous})

    def end_overlap(self, alias: str) -> None:
        """Let go of the version before the one that is held; see `put`."""
        entry = self._entries[alias]
        if entry.previous is not None:
            gone, entry.previous = entry.previous, None
            self._tell(alias)
            self._part(gone)

    def mark(self, alias: str, state: KeyState) -> None:
        """Set the state of a key; a state in which it is not held drops it."""
        if state not in _HELD:
            self.drop(alias, state)
            return
        entry = self._entries[alias]
        if entry.key is None:
            raise RuntimeError(f"{alias} cannot be {state}: it is not held")
        if entry.state is not state:
            entry.state = state
            self._tell(alias)

    def note_failure(
        self,
        alias: str,
        code: str,
        *,
        message: str = "",
        hint: str = "",
        retry_at: float | None = None,
        wipe_at: float | None = None,
        needs_attention: bool = False,
    ) -> None:
        """Remember why the last attempt failed; what is held stays held."""
        entry = self._entries[alias]
        entry.failure_code, entry.retry_at = code, retry_at
        entry.failure_message, entry.failure_hint = message, hint
        entry.wipe_at = wipe_at
        entry.needs_attention = needs_attention
        self._show()

    def note_attempt(self, alias: str) -> None:
        """Count an attempt that has ended and began after the last order."""
        self._entries[alias].attempts += 1
        self._show()

    def drop(self, alias: str, state: KeyState) -> None:
        """Let go of a key and wipe it at once."""
        entry = self._entries[alias]
        keys = entry.key, entry.previous
        entry.key, entry.previous, entry.state = None, None, state
        entry.wipe_at = None
        if state in _BY_ORDER:
            entry.forget_failure()
        self._tell(alias)
        self._wipe(*keys)

    def close(self, is_preserved: Callable[[HeldKey], bool]) -> None:
        """Wipe everything but the keys that are preserved for the next agent."""
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

    def _tell(self, alias: str) -> None:
        for listener in self._listeners:
            listener(alias)
        self._show()

    def _show(self) -> None:
        for observer in self._observers:
            observer()
