"""A vault of the simulation: how many releases it gives, and what it counts.

10 releases in 10 s for HSM keys, by vault and region, then 429 without Retry-After
(Azure Key Vault service limits: release shares the limit of create). In what windows
it counts nobody tells: a sliding one is the stricter. Whether a refused request counts
as well, one page of its documentation says both ways, so both are here. The page of
about 2021 said twice that it does ("failed requests that return a 429 count", "all
requests accrue"); the one of 2025 says "do not count" in the first sentence and has the
second one unchanged. In between lies pull request 71552 of azure-docs (March 2021, "to
reflect change in behavior for throttling"; what it changed was not seen). So the second
one seems to be a remnant; nobody has measured it.

Managed HSM publishes no figure for releases, and says that it does not throttle
cryptographic operations. What is assumed: the 160 RSA-4096 unwraps a second of one
partition, and 429 beyond.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from skragent.errors import AgentError, Disposition

THROTTLED = AgentError("429", code="transport.throttled", disposition=Disposition.RETRY)
DOWN = AgentError("503", code="transport.server", disposition=Disposition.RETRY)


class Limit(NamedTuple):
    """So many releases in a sliding window."""

    releases: int = 10
    seconds: float = 10.0
    counts_refused: bool = False

    @property
    def rate(self) -> float:
        """Releases a second."""
        return self.releases / self.seconds


KEY_VAULT = Limit()
KEY_VAULT_COUNTING_ALL = Limit(counts_refused=True)
MANAGED_HSM = Limit(160, 1.0)


class Outage(NamedTuple):
    """The vault answers 503 from one moment until another."""

    begins: float
    ends: float


NO_OUTAGE = Outage(float("inf"), float("inf"))


@dataclass
class Vault:
    """Answers, and keeps count of what it was asked."""

    limit: Limit
    outage: Outage = NO_OUTAGE
    released: int = 0
    refused: int = 0
    failed: int = 0
    by_minute: Counter[int] = field(default_factory=Counter)
    _counted: deque[float] = field(default_factory=deque)

    def ask(self, moment: float) -> AgentError | None:
        """Release a key, or refuse. Moments never go back."""
        self.by_minute[int(moment // 60)] += 1
        if self.is_down(moment):
            self.failed += 1
            return DOWN
        while self._counted and self._counted[0] <= moment - self.limit.seconds:
            self._counted.popleft()
        is_full = len(self._counted) >= self.limit.releases
        if not is_full or self.limit.counts_refused:
            self._counted.append(moment)
        if len(self._counted) > self.limit.releases:  # no more are looked at
            self._counted.popleft()
        if is_full:
            self.refused += 1
            return THROTTLED
        self.released += 1
        return None

    def is_down(self, moment: float) -> bool:
        """Tell whether it answers nobody."""
        return self.outage.begins <= moment < self.outage.ends

    @property
    def asked(self) -> int:
        """Requests of any outcome."""
        return self.released + self.refused + self.failed

    @property
    def worst_minute(self) -> int:
        """The most requests of one minute."""
        return max(self.by_minute.values(), default=0)
