"""Requests of administrators: implements `serving.admin.Control`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from skragent.agent.key_records import next_attempt
from skragent.keyring import KeyState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skragent.agent.clock import Clock
    from skragent.agent.key_records import NextAttempt
    from skragent.agent.reload import Outcome
    from skragent.agent.scheduler import Scheduler
    from skragent.config import Config


class Control:
    """Passes requests to the scheduler, and describes the agent and its keys.

    Args:
        scheduler: drops and refreshes keys.
        config: the configuration in force.
        clock: the agent's clock.
        reload: requests a reload; calls back with the result.
        unit_rules: how the agent enforces rules on units: `serving.UnitRules`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        config: Config,
        clock: Clock,
        *,
        reload: Callable[[Callable[[Outcome], None]], None],
        unit_rules: str,
    ) -> None:
        self._scheduler = scheduler
        self._config = config
        self._clock = clock
        self._reload = reload
        self._unit_rules = unit_rules
        self._started_at = clock.now()

    def configure(self, config: Config, *, unit_rules: str) -> None:
        """Describe another configuration from now on."""
        self._config = config
        self._unit_rules = unit_rules

    def refresh(self, aliases: Sequence[str]) -> None:
        """Release these keys as soon as possible."""
        self._scheduler.refresh(aliases)

    def refresh_all(self) -> None:
        """Release all keys that are not dropped, as soon as possible."""
        records = self._scheduler.records
        self.refresh([a for a in records if records[a].state is not KeyState.DROPPED])

    def reload(self, listener: Callable[[Outcome], None]) -> None:
        """Reload the configuration; `listener` receives the result."""
        self._reload(listener)

    def drop(self, alias: str) -> None:
        """Wipe a key until it is refreshed."""
        self._scheduler.drop(alias)

    def describe(self) -> Mapping[str, object]:
        """Describe the agent as a whole."""
        return {"started_at": self._started_at, "unit_rules": self._unit_rules}

    def describe_key(self, alias: str) -> Mapping[str, object]:
        """Describe where a key comes from, and when it is requested next."""
        key = self._config.keys[alias]
        wiped_in = self._next_attempt(alias).wiped_in
        return {
            "vault": key.vault,
            "vault_name": key.name or alias,
            "due_at": self.due_at(alias),
            # From this time on, a repeated denial wipes the held key.
            "wipe_at": self._wall_time(wiped_in),
        }

    def due_at(self, alias: str) -> float | None:
        """Return the wall time of a key's next attempt; None if none is planned."""
        return self._wall_time(self._next_attempt(alias).seconds)

    def _next_attempt(self, alias: str) -> NextAttempt:
        record = self._scheduler.records[alias]
        return next_attempt(record, self._clock.boottime())

    def _wall_time(self, seconds: float) -> float | None:
        return self._clock.now() + seconds if seconds < math.inf else None
