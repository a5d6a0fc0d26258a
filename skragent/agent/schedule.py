"""When: pure functions of the token's life and of boot time.

Times are seconds on CLOCK_BOOTTIME unless they say otherwise; chance comes in as an
argument. How long to wait after a failure is `backoff`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.agent.lifecycle import KeyLife

# Renewed early enough that two hours of MAA's eight are left to ride out an outage;
# spread so that a fleet that booted together does not come back together.
REFRESH_FRACTION: Final = 0.8
REFRESH_JITTER: Final = 0.1

# MAA's tokens live 8 hours. What a verifier says beyond these is not believed: the
# agent would turn in circles, or never come back.
MIN_TOKEN_LIFE_SECONDS: Final = 5.0
MAX_TOKEN_LIFE_SECONDS: Final = 7 * 86400.0


def token_life_seconds(issued_at: float, expires_at: float) -> float:
    """Measure a token's life by the clock of who issued it: ours may be wrong."""
    life = expires_at - issued_at
    return min(max(life, MIN_TOKEN_LIFE_SECONDS), MAX_TOKEN_LIFE_SECONDS)


def refresh_after_seconds(life_seconds: float, jitter: float) -> float:
    """Choose when to renew, counted from the token's beginning.

    Args:
        life_seconds: the token's life.
        jitter: chance, from -1 to 1.
    """
    return life_seconds * REFRESH_FRACTION * (1 + REFRESH_JITTER * jitter)


def next_attempt(lives: Mapping[str, KeyLife]) -> float:
    """Tell when the next job is due: as soon as the first key is."""
    return min((life.due_at for life in lives.values()), default=float("inf"))


def due_keys(lives: Mapping[str, KeyLife], boottime: float) -> tuple[str, ...]:
    """List the keys that a job now is for: one attestation serves them all."""
    return tuple(alias for alias, life in lives.items() if life.due_at <= boottime)
