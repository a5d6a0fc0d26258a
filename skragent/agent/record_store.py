"""The records of all configured keys, and the reports of their changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from skragent.agent import due_times, key_records
from skragent.agent.key_records import KeyRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.interfaces import Reporter
    from skragent.agent.key_records import KeyLifetimePolicy
    from skragent.job import KeyRequest


class RecordStore:
    """Stores the record of each configured key, and reports every change.

    Args:
        keys: the configured keys, by alias.
        policies: of the keys.
        reporter: receives every change.
        clock: the agent's clock.
        restored: records of keys that an earlier agent held.
        on_change: is called after every change.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyRequest],
        policies: Mapping[str, KeyLifetimePolicy],
        reporter: Reporter,
        clock: Clock,
        *,
        restored: Mapping[str, KeyRecord],
        on_change: Callable[[], None],
    ) -> None:
        self.keys = keys
        self.by_alias = {
            alias: restored.get(alias) or KeyRecord(policy=policies[alias])
            for alias in keys
        }
        self._reporter = reporter
        self._clock = clock
        self._on_change = on_change

    def store(self, alias: str, record: KeyRecord) -> None:
        """Store a key's record, and report what has changed."""
        before, self.by_alias[alias] = self.by_alias[alias], record
        if record is before:
            return
        self._on_change()
        if before.has_previous and record.is_held and not record.has_previous:
            self._reporter.end_overlap(alias)
        if record.state is not before.state:
            self._reporter.state_changed(alias, record)

    def apply_time(self) -> float:
        """Apply all deadlines that have passed; return the seconds until the next."""
        now, boottime = self._clock.now(), self._clock.boottime()
        for alias, record in self.by_alias.items():
            self.store(
                alias, key_records.apply_time(record, now=now, boottime=boottime)
            )
        return min(
            (
                key_records.seconds_until_change(record, now=now, boottime=boottime)
                for record in self.by_alias.values()
            ),
            default=math.inf,
        )

    def record_attestation(self) -> None:
        """Record that the attestation provider accepted the VM's evidence."""
        for alias, record in self.by_alias.items():
            self.store(alias, key_records.record_attestation(record))

    def end_job_backoff(self) -> None:
        """Let the next job begin as soon as a key is due."""
        for alias, record in self.by_alias.items():
            self.store(
                alias, key_records.plan(record, due_times.end_job_backoff(record.retry))
            )

    def configure(
        self,
        keys: Mapping[str, KeyRequest],
        policies: Mapping[str, KeyLifetimePolicy],
    ) -> None:
        """Apply another configuration. Keys that are configured as before stay held."""
        before, self.keys = self.keys, keys
        records, self.by_alias = self.by_alias, {}
        for alias in keys:
            known = records.get(alias)
            self.by_alias[alias] = known or KeyRecord(policy=policies[alias])
        for alias in keys.keys() & before.keys():
            record = key_records.reconfigure(
                self.by_alias[alias],
                before[alias],
                keys[alias],
                policy=policies[alias],
                boottime=self._clock.boottime(),
            )
            self.store(alias, record)
        self._on_change()
