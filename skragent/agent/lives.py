"""The lives of all keys, in one place: whoever changes one, the others hear of it.

What a change means `lifecycle` says. Here it is kept, told to the holder, and said to
the two loops that wait for what is planned and for what ages.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from skragent.agent import lifecycle
from skragent.agent.lifecycle import KeyRecord, Terms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.ports import Holder
    from skragent.job import KeyRequest


class Lives:
    """What is wanted, and what is remembered of each.

    Args:
        keys: what is to be held, by alias.
        terms: what is configured of each key's life.
        holder: is told of every change.
        clock: the one clock.
        restored: of keys that are held already, from the agent before this one.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyRequest],
        terms: Mapping[str, Terms],
        holder: Holder,
        clock: Clock,
        restored: Mapping[str, KeyRecord],
    ) -> None:
        self.keys = keys
        self.of = {
            alias: restored.get(alias) or KeyRecord(terms=terms[alias])
            for alias in keys
        }
        self.plans_changed = asyncio.Event()
        self.changed = asyncio.Event()
        self._holder = holder
        self._clock = clock

    def put(self, alias: str, life: KeyRecord) -> None:
        """Let a life go on."""
        before, self.of[alias] = self.of[alias], life
        if life is before:
            return
        self.wake()
        if before.has_previous and life.is_held and not life.has_previous:
            self._holder.end_overlap(alias)
        if life.state is not before.state:
            self._holder.changed(alias, life)

    def wake(self) -> None:
        """Have both loops look again."""
        self.plans_changed.set()
        self.changed.set()

    def age(self) -> float:
        """Let time do its work up to now; tell how long it will change nothing."""
        now, boottime = self._clock.now(), self._clock.boottime()
        for alias, life in self.of.items():
            self.put(alias, lifecycle.aged(life, now=now, boottime=boottime))
        return min(
            (
                lifecycle.seconds_until_change(life, now=now, boottime=boottime)
                for life in self.of.values()
            ),
            default=float("inf"),
        )

    def attested(self) -> None:
        """Hear that the provider accepted this VM's evidence."""
        for alias, life in self.of.items():
            self.put(alias, lifecycle.attested(life))

    def configure(
        self, keys: Mapping[str, KeyRequest], terms: Mapping[str, Terms]
    ) -> None:
        """Keep these keys from now on; what goes on under the same name stays held."""
        before, self.keys = self.keys, keys
        of, self.of = self.of, {}
        for alias in keys:
            self.of[alias] = of.get(alias) or KeyRecord(terms=terms[alias])
        for alias in keys.keys() & before.keys():
            life = lifecycle.reconfigured(
                self.of[alias],
                before[alias],
                keys[alias],
                terms=terms[alias],
                boottime=self._clock.boottime(),
            )
            self.put(alias, life)
        self.wake()
