"""An agent of the simulation: the product's decisions without its event loop.

When it asks is decided by skragent.agent's own schedule, allowance, backoff and
lifecycle; here is only what the supervisor does with them, for jobs that reach the
vault. Two tasks on an event loop for each of ten thousand agents, one of which looks at
the clock every ten seconds, would take hours. That this asks at the same moments as the
supervisor does is tested: tests/unit/test_fleet_agent.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from skragent.agent import cached_token, due_times, key_records
from skragent.agent.cached_token import HeldToken
from skragent.agent.due_times import Spent
from skragent.agent.key_records import KeyRecord, Terms
from skragent.errors import AgentError, Disposition
from skragent.job import Attestation, KeyRequest, ReleasedKey

TOKEN_LIFE_SECONDS = 8 * 3600.0

_ATTESTATION = Attestation(
    issuer="https://example.attest.azure.net",
    issued_at=0.0,
    expires_at=TOKEN_LIFE_SECONDS,
    token_sha256="",
    compliance_status="",
    vm_id="",
    chip_generation="",
    report_version=2,
    verified=(),
)


class Vaults(Protocol):
    """What an agent can ask for, at a moment."""

    def release(self, key: KeyRequest, moment: float) -> ReleasedKey | AgentError:
        """Release a key, or say why not."""
        ...

    def latest(self, key: KeyRequest, moment: float) -> str | None:
        """Tell a key's latest version, if it can be found out now."""
        ...


class Agent:
    """One VM's agent.

    Args:
        keys: what it wants, by alias.
        vaults: who has them.
        chance: a number from 0 to 1, another one each time.
        terms: of each key's life.
        spread: the machine's place in its fleet, from -1 to 1.
        job_seconds: from the beginning of a job until the vault is asked.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyRequest],
        *,
        vaults: Vaults,
        chance: Callable[[], float],
        terms: Terms,
        spread: float = 0.0,
        job_seconds: float = 0.0,
    ) -> None:
        self.lives = {alias: KeyRecord(terms=terms) for alias in keys}
        self.spent: tuple[Spent, ...] = ()
        self.token: HeldToken | None = None
        self.attested = 0
        self._keys = keys
        self._vaults = vaults
        self._chance = chance
        self._spread = spread
        self._job_seconds = job_seconds

    def act(self, boottime: float) -> float:
        """Do what is due now, for something is; tell when to act again."""
        is_to_check = due_times.next_check(self.lives) <= boottime
        if not is_to_check or self._next_attempt(boottime) <= boottime:
            boottime = self._attempt(boottime)
        else:
            self._check(boottime)
        following = due_times.next_check(self.lives)
        return max(boottime, min(self._next_attempt(boottime), following))

    def _next_attempt(self, boottime: float) -> float:
        opens = due_times.opening(self._keys, self.spent, boottime)
        return due_times.next_attempt(self.lives, opens)

    def _attempt(self, began_at: float) -> float:
        """Run one job for keys that are due now; tell when it ended."""
        due = due_times.due_keys(self.lives, began_at)
        may = due_times.allowed_keys(due, self._keys, self.spent, boottime=began_at)
        keys = [self._keys[alias] for alias in due_times.together(may, self.lives)]
        token, self.token = self._token_for(keys, began_at), None
        ended_at = began_at + self._job_seconds
        self.spent = due_times.spend(self.spent, keys, ended_at=ended_at)
        chance = self._chance()  # one throw for all
        released: list[str] = []
        for key in keys:
            answer = self._vaults.release(key, ended_at)
            life = key_records.aged(self.lives[key.alias], now=0, boottime=ended_at)
            if isinstance(answer, AgentError):
                self.lives[key.alias] = _after_failure(life, answer, chance, ended_at)
                if answer.disposition is not Disposition.RETRY:
                    token = None
                continue
            released.append(key.alias)
            life = self._after_release(life, answer, chance, began_at)
            self.lives[key.alias] = life
            self._plan_check(key.alias, ended_at)
        self.token = token and cached_token.note_released(token, released)
        return ended_at

    def _token_for(self, keys: Sequence[KeyRequest], boottime: float) -> HeldToken:
        token, fraction = self.token, due_times.REFRESH_FRACTION
        if token is not None and cached_token.may_serve(
            token,
            [key.alias for key in keys],
            self.lives,
            boottime=boottime,
            fraction=fraction,
        ):
            return token
        self.attested += 1
        return HeldToken(_ATTESTATION, boottime, "", memoryview(b""))

    def _after_release(
        self, life: KeyRecord, key: ReleasedKey, chance: float, began_at: float
    ) -> KeyRecord:
        seconds = due_times.token_life_seconds(0, TOKEN_LIFE_SECONDS)
        fraction = due_times.REFRESH_FRACTION
        fresh = due_times.fresh_seconds(seconds, life.terms.refresh_seconds, fraction)
        jitter = due_times.jitter(self._spread, 2 * chance - 1)
        after = due_times.refresh_after_seconds(fresh, jitter, fraction)
        life = key_records.released(life, key, began_at=began_at, fresh_seconds=fresh)
        return key_records.planned(life, began_at + after)

    def _check(self, boottime: float) -> None:
        aliases = due_times.keys_to_check(self.lives, boottime)
        for alias in aliases:
            self._plan_check(alias, boottime)
        for alias in aliases:
            version = self._vaults.latest(self._keys[alias], boottime)
            life = self.lives[alias]
            if life.failures.throttles or not life.is_held:
                continue
            if version is not None and version != life.version:
                self.token = None
                self.lives[alias] = key_records.asked_for(life, boottime)

    def _plan_check(self, alias: str, boottime: float) -> None:
        life = self.lives[alias]
        if life.terms.check_seconds is None:
            return
        chance = 2 * self._chance() - 1
        seconds = due_times.check_after_seconds(life.terms.check_seconds, chance)
        self.lives[alias] = key_records.to_be_checked(life, boottime + seconds)


def _after_failure(
    life: KeyRecord, error: AgentError, chance: float, boottime: float
) -> KeyRecord:
    life = key_records.failed(life, error, boottime)
    seconds = due_times.wait_seconds(
        error,
        life.failures,
        jitter=chance,
        confirms_in=key_records.seconds_until_confirmable(life, error, boottime),
    )
    is_held_off = due_times.is_asked_to_wait(error)
    return key_records.planned(life, boottime + seconds, is_held_off=is_held_off)
