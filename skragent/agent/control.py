"""What an administrator can ask and order of the agent: `serving.admin.Control`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from skragent.keyring import KeyState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skragent.agent.clock import Clock
    from skragent.agent.reload import Outcome
    from skragent.agent.scheduler import Scheduler
    from skragent.config import Config


class Control:
    """Hands orders to the scheduler, and tells what it knows.

    Args:
        scheduler: carries orders out.
        config: what is configured.
        clock: the one clock.
        reload: has the configuration read again.
        unit_rules: how rules on units hold here: `serving.UnitRules`.
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
        """Tell of another configuration from now on."""
        self._config = config
        self._unit_rules = unit_rules

    def refresh(self, aliases: Sequence[str]) -> None:
        """Have these keys released as soon as it can be."""
        self._scheduler.refresh(aliases)

    def refresh_all(self) -> None:
        """Have every key released that nobody dropped."""
        records = self._scheduler.records
        self.refresh([a for a in records if records[a].state is not KeyState.DROPPED])

    def reload(self, listener: Callable[[Outcome], None]) -> None:
        """Have the configuration read again; `listener` hears what came of it."""
        self._reload(listener)

    def drop(self, alias: str) -> None:
        """Wipe a key and keep it away."""
        self._scheduler.drop(alias)

    def describe(self) -> Mapping[str, object]:
        """Tell of the agent as a whole."""
        return {"started_at": self._started_at, "unit_rules": self._unit_rules}

    def describe_key(self, alias: str) -> Mapping[str, object]:
        """Tell of one key where it comes from and when it is asked for again."""
        key = self._config.keys[alias]
        due_at = self._scheduler.records[alias].retry.retry_at
        left = due_at - self._clock.boottime()
        return {
            "vault": key.vault,
            "vault_name": key.name or alias,
            "due_at": self._clock.now() + left if math.isfinite(due_at) else None,
        }
