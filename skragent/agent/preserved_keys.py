"""Preserve held keys across restarts of the agent, in systemd's descriptor store.

A crash, restart or upgrade of the agent must not end a held key while the vault is not
reachable. So systemd keeps a descriptor of each held key's secret memory
(sd_pid_notify_with_fds(3), FDSTORE=1) and passes it to the next agent. When the service
stops, systemd closes the descriptors, and the kernel zeroes the memory.

Only memory of memfd_secret(2) is preserved.
docs/adr/0001-held-keys-survive-the-agent.md has the decision, its threats and its
limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.agent import key_records
from skragent.agent.jobs import is_same_key
from skragent.errors import AgentError
from skragent.keyring import read_held_key
from skragent.observe import Event, log
from skragent.secretmem import CONTENT, adopt_arena

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.key_records import KeyLifetimePolicy, KeyRecord
    from skragent.agent.systemd_notify import Notifier
    from skragent.job import KeyRequest
    from skragent.keyring import HeldKey, Keyring, PreservedRecord
    from skragent.secretmem import Arena


class PreservedKeys:
    """The keys whose descriptors systemd keeps.

    Args:
        notifier: notifies systemd.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._names: dict[HeldKey, str] = {}
        # systemd could not be notified of these: see `repeat`.
        self._not_stored: list[HeldKey] = []
        self._to_remove: list[str] = []
        self._has_unmapped = False  # systemd keeps a key that this agent could not map
        # systemd keeps these until their successors are stored.
        self._predecessors: list[HeldKey] = []

    def __contains__(self, key: HeldKey) -> bool:
        return key in self._names

    @property
    def has_any(self) -> bool:
        """Whether systemd keeps a key. It would close it on exit status 69 or 78."""
        return self._has_unmapped or bool(self._names)

    def preserve(self, key: HeldKey) -> None:
        """Store a key's memory in systemd, and close the agent's descriptor of it.

        With an open descriptor, root could map the memory.
        """
        memory = key.memory
        if memory is None:
            return
        if not (memory.is_secret and self._notifier.is_wanted):
            memory.close_fd()
        elif not self._store(key, memory):
            self._not_stored.append(key)

    def forget(self, key: HeldKey) -> None:
        """Close systemd's descriptor of a key that is no longer held.

        systemd keeps the descriptor until the key's successor is stored, so that an
        agent that ends in between leaves one of the two.
        """
        if key in self._not_stored:
            self._not_stored.remove(key)
            if key.memory is not None:
                key.memory.close_fd()
        if key in self._names:
            self._predecessors.append(key)
        self._remove_predecessors()

    def repeat(self) -> None:
        """Repeat the notifications that systemd could not receive."""
        self._not_stored = [
            key
            for key in self._not_stored
            if key.memory is not None and not self._store(key, key.memory)
        ]
        self._remove_predecessors()
        self._to_remove = [
            name for name in self._to_remove if not self._notifier.remove_fd(name)
        ]

    def _store(self, key: HeldKey, memory: Arena) -> bool:
        """Store a key's memory in systemd; return whether systemd was notified."""
        name = self._notifier.store_key(memory.fd)
        if name:
            self._names[key] = name
            memory.preserve(is_preserved=True)
            memory.close_fd()
        return bool(name)

    def _remove_predecessors(self) -> None:
        awaited = {key.alias for key in self._not_stored}
        removed = [key for key in self._predecessors if key.alias not in awaited]
        self._predecessors = [key for key in self._predecessors if key.alias in awaited]
        for key in removed:
            if key.memory is not None:
                key.memory.preserve(is_preserved=False)
            self._remove(self._names.pop(key))

    def _remove(self, name: str) -> None:
        if not self._notifier.remove_fd(name):
            self._to_remove.append(name)

    def restore(
        self,
        stored: Iterable[tuple[str, int]],
        keyring: Keyring,
        keys: Mapping[str, KeyRequest],
        policies: Mapping[str, KeyLifetimePolicy],
        clock: Clock,
    ) -> dict[str, KeyRecord]:
        """Hold the keys of an earlier agent again, if they may still be held.

        Args:
            stored: names and descriptors from systemd.
            keyring: holds the keys.
            keys: the configured keys, by alias.
            policies: of the keys.
            clock: the agent's clock.

        Returns:
            the records of the keys that are held again, by alias.
        """
        found: dict[str, list[tuple[PreservedRecord, HeldKey]]] = {}
        for name, fd in stored:
            try:
                memory = adopt_arena(fd)
                record, key = read_held_key(memory)
            except AgentError as error:
                self._cannot_restore(name, error)
                continue
            memory.preserve(is_preserved=True)
            self._names[key] = name
            found.setdefault(key.alias, []).append((record, key))
        records = {}
        for alias, candidates in found.items():
            request = keys.get(alias)
            candidates.sort(key=lambda one: one[0].began_at)
            if request is None or not is_same_key(candidates[-1][0], request):
                self._discard(candidates, "the configuration has no such key now")
                continue
            restored = self._restore(candidates, keyring, policies[alias], clock)
            if restored is not None:
                records[alias] = restored
        return records

    def _cannot_restore(self, name: str, error: AgentError) -> None:
        """Discard invalid memory; leave memory that only cannot be mapped now.

        systemd keeps that for the next agent. Meanwhile this agent serves its other
        keys, and requests this one from the vault.
        """
        if error.code == CONTENT:
            log(Event.KEY_NOT_RESTORED, error.message, code=error.code)
            self._remove(name)
            return
        self._has_unmapped = True
        log(
            Event.KEY_NOT_RESTORED,
            f"a key of the agent before cannot be held now, and stays in systemd for"
            f" the next start: {error.message}. {error.hint} Then restart the agent.",
            code=error.code,
        )

    def _restore(
        self,
        candidates: list[tuple[PreservedRecord, HeldKey]],
        keyring: Keyring,
        policy: KeyLifetimePolicy,
        clock: Clock,
    ) -> KeyRecord | None:
        """Hold the newest version of a key, and the previous one during an overlap."""
        *older, (record, key) = candidates
        others = [one for one in older if one[1].version != key.version]
        previous = others[-1] if others and is_same_key(others[-1][0], record) else None
        restored = key_records.restore_record(
            policy, record, previous[0] if previous else None
        )
        restored = key_records.apply_time(
            restored, now=clock.now(), boottime=clock.boottime()
        )
        if not restored.is_held:
            self._discard(candidates, "it is too old, or past its own `exp`")
            return None
        if previous is not None and restored.has_previous:
            keyring.put(previous[1])
            older.remove(previous)
        keyring.put(key, keeps_previous=restored.has_previous)
        keyring.mark(key.alias, restored.state)
        self._discard(older, "a newer release is held")
        log(
            Event.KEY_RESTORED,
            f"key {key.alias}: version {key.version} is held again: the agent before"
            " held it",
            key=key.alias,
            version=key.version,
            fingerprint=key.fingerprint or None,
        )
        return restored

    def _discard(
        self, candidates: Iterable[tuple[PreservedRecord, HeldKey]], why: str
    ) -> None:
        for _, key in candidates:
            key.wipe()
            self.forget(key)
            log(
                Event.KEY_NOT_RESTORED,
                f"key {key.alias}: version {key.version} of the agent before is wiped:"
                f" {why}",
                key=key.alias,
                version=key.version,
            )
