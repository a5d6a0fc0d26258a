"""A vault of the simulation: its release limit and its counters.

The limit is 10 releases in 10 s for HSM keys, per vault and region, then 429 without
Retry-After (Azure Key Vault service limits: release shares the limit of create). The
kind of window is not documented; the simulation uses a sliding window, which is
stricter.

The documentation contradicts itself about refused requests, so both cases are here.
The page of about 2021 said twice that they count ("failed requests that return a 429
count", "all requests accrue"). The page of 2025 says "do not count" in the first
sentence and has the second unchanged. Pull request 71552 of azure-docs (March 2021, "to
reflect change in behavior for throttling") is between the two. So the second sentence
is probably a remnant. It was not measured.

Managed HSM has no published limit for releases, and its documentation says that it does
not throttle cryptographic operations. The simulation assumes the 160 RSA-4096 unwraps
per second of one partition, and 429 above.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from skragent.errors import AgentError, Disposition

THROTTLED = AgentError("429", code="transport.throttled", disposition=Disposition.RETRY)
DOWN = AgentError("503", code="transport.server", disposition=Disposition.RETRY)


class Limit(NamedTuple):
    """A number of releases in a sliding window."""

    releases: int = 10
    seconds: float = 10.0
    counts_refused: bool = False

    @property
    def rate(self) -> float:
        """Releases per second."""
        return self.releases / self.seconds


KEY_VAULT = Limit()
KEY_VAULT_COUNTING_ALL = Limit(counts_refused=True)
MANAGED_HSM = Limit(160, 1.0)


class Outage(NamedTuple):
    """The period in which the vault responds with 503."""

    begins: float
    ends: float


NO_OUTAGE = Outage(float("inf"), float("inf"))


@dataclass
class Vault:
    """A vault that counts its requests."""

    limit: Limit
    outage: Outage = NO_OUTAGE
    released: int = 0
    refused: int = 0
    failed: int = 0
    by_minute: Counter[int] = field(default_factory=Counter)
    _counted: deque[float] = field(default_factory=deque)

    def ask(self, moment: float) -> AgentError | None:
        """Release a key or refuse. Times never decrease."""
        self.by_minute[int(moment // 60)] += 1
        if self.is_down(moment):
            self.failed += 1
            return DOWN
        while self._counted and self._counted[0] <= moment - self.limit.seconds:
            self._counted.popleft()
        is_full = len(self._counted) >= self.limit.releases
        if not is_full or self.limit.counts_refused:
            self._counted.append(moment)
        if len(self._counted) > self.limit.releases:  # older releases are not needed
            self._counted.popleft()
        if is_full:
            self.refused += 1
            return THROTTLED
        self.released += 1
        return None

    def is_down(self, moment: float) -> bool:
        """Return whether the vault is in an outage."""
        return self.outage.begins <= moment < self.outage.ends

    @property
    def asked(self) -> int:
        """All requests, with any result."""
        return self.released + self.refused + self.failed

    @property
    def worst_minute(self) -> int:
        """The largest number of requests in one minute."""
        return max(self.by_minute.values(), default=0)
