"""The one owner of time: runs jobs when keys are due, and lets keys age.

Two loops on the event loop. One waits until a key is due, runs a job for all that
are and whose vaults allow it (allowance), and repeats a job that failed as a whole
after tenacity's wait (backoff); a key that failed alone gets its own deadline, and the
others never wait for it. The other loop ages what is held, whatever the first one is
waiting for.

What happened means what `lifecycle` says; when, what `schedule` and `backoff` say.
Here it is only carried out: on the keyring, and in the journal.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from skragent.agent import cached_token, due_times, key_records
from skragent.agent.ak_renewal import Renewing
from skragent.agent.job_results import Settling
from skragent.agent.jobs import failure_error
from skragent.agent.key_records import Lives
from skragent.agent.version_check import Looking
from skragent.agent.watchdog import Promises
from skragent.errors import (
    AgentError,
    Disposition,
    ReleaserError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from skragent.agent.cached_token import HeldToken
    from skragent.agent.clock import Clock
    from skragent.agent.due_times import Spent
    from skragent.agent.interfaces import Holder, Jobs
    from skragent.agent.job_runner import Release
    from skragent.agent.key_records import KeyRecord, Terms
    from skragent.agent.releaser_process import Launch
    from skragent.job import Attestation, KeyRequest

# The wall clock may be set at any time: a key's `exp` is looked at this often.
_LOOK_UP_SECONDS: Final = 10.0

# A FATAL failure ends the agent only if the next job says the same.
_FATAL_JOBS_TO_END: Final = 2

NOTHING_RESTORED: Final[Mapping[str, KeyRecord]] = MappingProxyType({})

# Who promises to come around: see `watchdog`.
_FRESH: Final = "keep fresh"
_AGE: Final = "let age"


@dataclass
class _Job:
    """What is known of the job that runs."""

    attestation: Attestation | None  # that its keys are released under
    released: list[str] = field(default_factory=list)
    takes_fresh_token: bool = False  # a failure that only a fresh token can mend


class Supervisor:
    """Keeps the configured keys fresh until it is stopped.

    Args:
        keys: what is to be held, by alias.
        jobs: runs jobs.
        holder: is told of everything.
        clock: the one clock.
        chance: a number from 0 to 1, another one each time.
        terms: what is configured of each key's life.
        token_fraction: of a token's life, after which it is renewed.
        spread: this machine's place in its fleet, from -1 to 1.
        restored: lives of keys that are held already, from the agent before this one.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyRequest],
        *,
        jobs: Jobs,
        holder: Holder,
        clock: Clock,
        chance: Callable[[], float],
        terms: Mapping[str, Terms],
        token_fraction: float = due_times.REFRESH_FRACTION,
        spread: float = 0.0,
        restored: Mapping[str, KeyRecord] = NOTHING_RESTORED,
    ) -> None:
        self.promises = Promises(clock)
        self._lives = Lives(keys, terms, holder, clock, restored)
        self._jobs = jobs
        self._holder = holder
        self._clock = clock
        self._chance = chance
        self._launched: Launch | None = None
        self._asked: dict[str, KeyRequest] = {}  # what the last job was for
        self._spent: tuple[Spent, ...] = ()  # of what vaults release
        self._token: HeldToken | None = None
        self._is_token_void = False  # that of the job which runs
        self._job = _Job(attestation=None)
        self._job_failures = (
            due_times.NONE
        )  # of jobs as a whole, since the last success
        self._fatal_jobs = 0  # in a row
        # Then this is a confidential VM, and nothing is FATAL any more.
        self._has_worked = bool(restored)
        self._stopping = asyncio.Event()
        is_stopping = self._stopping.is_set
        self._renewing = Renewing(jobs, holder, clock, chance, is_stopping)
        self._hurried = asyncio.Event()  # set: no pause between two attempts
        self._looking = Looking(
            self._lives,
            jobs=jobs,
            holder=holder,
            clock=clock,
            chance=chance,
            refresh=self.refresh,
        )
        self._settling = Settling(
            self._lives,
            self._looking,
            holder=holder,
            clock=clock,
            chance=chance,
            token_fraction=token_fraction,
            spread=spread,
        )

    @property
    def lives(self) -> Mapping[str, KeyRecord]:
        """What is remembered of each key."""
        return self._lives.of

    async def run(self, launched: Launch | None = None) -> None:
        """Supervise until `stop`; a first job for all keys may be under way already.

        Raises:
            AgentError: a FATAL one at start, which ends the agent.
        """
        self._launched = launched
        loops = [
            asyncio.create_task(self._keep_fresh()),
            asyncio.create_task(self._let_age()),
        ]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                # Both end by themselves. To cancel a job is to kill its releaser, which
                # may be writing the AK certificate.
                done, _ = await asyncio.wait(loops)
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
        for task in done:
            task.result()

    def stop(self) -> None:
        """End every wait; what runs is ended by who owns it."""
        self._stopping.set()
        self._hurried.set()
        self._lives.wake()

    def refresh(self, aliases: Iterable[str]) -> None:
        """Have these keys released as soon as it can be, whatever was planned.

        A job that runs may have asked for them before there was what is wanted now, so
        they are asked for again after it. Who orders this has mended something, or
        means to see that all is well: it takes a new attestation.
        """
        self._token, self._is_token_void = None, True
        boottime = self._clock.boottime()
        for alias in aliases:
            self._lives.put(
                alias, key_records.asked_for(self._lives.of[alias], boottime)
            )
            self._settling.asked_again.add(alias)
        self._hurried.set()

    def drop(self, alias: str) -> None:
        """Let go of a key; it comes back when `refresh` names it.

        What a job that runs brings of it is void, even if it is named meanwhile.
        """
        self._asked.pop(alias, None)
        self._lives.put(alias, key_records.dropped(self._lives.of[alias]))

    def configure(
        self,
        keys: Mapping[str, KeyRequest],
        terms: Mapping[str, Terms],
        *,
        token_fraction: float = due_times.REFRESH_FRACTION,
    ) -> None:
        """Keep these keys from now on; what goes on under the same name stays held.

        A name that now means another key waits for that one, and what was held is
        let go. Another version of the same key is asked for, and the one before is
        held until it is here. What a job that runs finds out of changed ones is void.
        """
        self._settling.token_fraction = token_fraction
        self._lives.configure(keys, terms)
        self._hurried.set()

    async def _keep_fresh(self) -> None:
        retrying = due_times.retrying(
            wait=self._wait_after,
            sleep=self._pause,
            is_stopping=self._stopping.is_set,
            is_final=self._is_final,
        )
        while not self._stopping.is_set():
            try:
                await retrying(self._attempt)
            except AgentError:
                if not self._stopping.is_set():
                    raise

    async def _until_due(self) -> None:
        while not self._stopping.is_set():
            boottime = self._clock.boottime()
            left = self._seconds_until_due()
            if self._renewing.is_in_turn(left, is_failing=bool(self._job_failures)):
                self.promises.within(_FRESH, self._jobs.longest_seconds)
                await self._renewing.run()
                continue
            if left <= 0:
                return
            until_check = self._looking.due_at - boottime
            if until_check <= 0:
                self.promises.within(_FRESH, self._jobs.longest_seconds)
                await self._look()
                continue
            until_renewal = self._renewing.due_at - boottime
            left = min(left, until_check)
            if until_renewal > 0:  # else it has the next turn in which no key waits
                left = min(left, until_renewal)
            self._lives.plans_changed.clear()
            self.promises.within(_FRESH, left)
            await self._clock.wait(self._lives.plans_changed, left)

    def _seconds_until_due(self) -> float:
        boottime = self._clock.boottime()
        opens = due_times.opening(self._lives.keys, self._spent, boottime)
        return due_times.next_attempt(self._lives.of, opens) - boottime

    async def _look(self) -> None:
        """Look for new versions until a key is due: it waits for no vault that hangs.

        To cancel this is to kill its releaser, which writes nothing.
        """
        looking = asyncio.create_task(self._looking.run())
        looking.add_done_callback(lambda _task: self._lives.plans_changed.set())
        try:
            while not looking.done():
                self._lives.plans_changed.clear()
                left = self._seconds_until_due()
                if left <= 0 or self._stopping.is_set():
                    return
                await self._clock.wait(self._lives.plans_changed, left)
        finally:
            looking.cancel()
            (outcome,) = await asyncio.gather(looking, return_exceptions=True)
        if isinstance(outcome, BaseException):
            raise outcome

    async def _pause(self, seconds: float) -> None:
        if not self._stopping.is_set():
            self.promises.within(_FRESH, seconds)
            await self._clock.wait(self._hurried, seconds)

    async def _attempt(self) -> None:
        """Run one job for keys that are due, as soon as there are any."""
        await self._until_due()
        launched, self._launched = self._launched, None
        self._asked = {
            alias: self._lives.keys[alias] for alias in self._choose(launched)
        }
        if not self._asked or self._stopping.is_set():
            return
        self._settling.begin_job()
        self._is_token_void = False
        self._hurried.clear()
        self.promises.within(_FRESH, self._jobs.longest_seconds)
        keys = list(self._asked.values())
        token, self._token = self._token_for(self._asked), None
        self._job = _Job(attestation=token.attestation if token else None)
        try:
            release = await self._jobs.run(
                keys, launched=launched, token=token, deliver=self._take
            )
        except ReleaserError as error:  # whatever it did until then
            self._spend(keys)
            self._count_crash(error, company=len(keys))
            raise
        except AgentError as error:
            self._count_failure(error)
            raise
        self._renewing.hear(release.result)
        if release.result.failure is not None:  # before a vault was asked
            failure = failure_error(release.result.failure)
            self._count_failure(failure)
            raise failure
        self._job_failures, self._fatal_jobs = due_times.NONE, 0
        self._spend(keys)
        self._take(release)
        self._keep(release.token or token)

    def _token_for(self, aliases: Iterable[str]) -> HeldToken | None:
        """Choose the token that a job for these keys brings; None: it attests."""
        token, boottime = self._token, self._clock.boottime()
        fraction = self._settling.token_fraction
        if token is not None and cached_token.may_serve(
            token, aliases, self._lives.of, boottime=boottime, fraction=fraction
        ):
            return token
        return None

    def _choose(self, launched: Launch | None) -> Sequence[str]:
        if launched is not None:
            return [alias for alias in self._lives.keys if alias in launched.aliases]
        boottime = self._clock.boottime()
        due = due_times.due_keys(self._lives.of, boottime)
        may = due_times.allowed_keys(
            due, self._lives.keys, self._spent, boottime=boottime
        )
        return due_times.together(may, self._lives.of)

    def _spend(self, keys: Iterable[KeyRequest]) -> None:
        boottime = self._clock.boottime()
        self._spent = due_times.spend(self._spent, keys, ended_at=boottime)

    def _count_crash(self, error: AgentError, *, company: int) -> None:
        """Count a job that was nobody's success; whose fault it was will show."""
        if self._stopping.is_set():
            return
        boottime = self._clock.boottime()
        self._count_job(error, boottime)
        for alias in self._still_wanted():
            life = key_records.crashed(
                self._lives.of[alias], error, company=company, boottime=boottime
            )
            self._lives.put(alias, life)

    def _count_failure(self, error: AgentError) -> None:
        """Count a failed job for each of its keys; they remain due."""
        if self._stopping.is_set():
            return
        boottime = self._clock.boottime()
        self._count_job(error, boottime)
        for alias in self._still_wanted():
            life = key_records.failed(self._lives.of[alias], error, boottime)
            self._lives.put(alias, life)

    def _count_job(self, error: AgentError, boottime: float) -> None:
        self._job_failures = due_times.counted(self._job_failures, error, boottime)
        is_fatal = error.disposition is Disposition.FATAL
        self._fatal_jobs = self._fatal_jobs + 1 if is_fatal else 0

    def _is_final(self, error: AgentError) -> bool:
        """Return whether an error ends the agent: only at start, and once repeated.

        One odd answer of the TPM must not: systemd does not restart the agent then.
        """
        is_fatal = error.disposition is Disposition.FATAL
        return (
            is_fatal and not self._has_worked and self._fatal_jobs >= _FATAL_JOBS_TO_END
        )

    def _still_wanted(self) -> list[str]:
        """List the keys of this job that were not dropped or changed meanwhile."""
        return [
            alias
            for alias, key in self._asked.items()
            if self._lives.keys.get(alias) == key
        ]

    def _wait_after(self, error: AgentError) -> float:
        if self._stopping.is_set():
            return 0.0  # we killed it ourselves: nobody's failure
        wanted, boottime = self._still_wanted(), self._clock.boottime()
        confirms_in = min(
            (
                key_records.seconds_until_confirmable(
                    self._lives.of[alias], error, boottime
                )
                for alias in wanted
            ),
            default=math.inf,
        )
        seconds = due_times.wait_seconds(
            error,
            self._job_failures,
            jitter=self._chance(),
            is_vault=False,
            confirms_in=confirms_in,
        )
        wiped_in = {
            alias: key_records.seconds_until_wiped(
                self._lives.of[alias], boottime, seconds
            )
            for alias in wanted
        }
        self._holder.job_failed(wiped_in, error, seconds)
        self._settling.end_attempts(wanted)
        return seconds

    def _take(self, part: Release) -> None:
        """Take one part of a job's outcome, as soon as it is there."""
        if self._stopping.is_set():
            return
        result, job = part.result, self._job
        if result.attestation is not None:
            job.attestation = result.attestation
            self._holder.attested(result.attestation)
            self._lives.attested()
        self._has_worked = self._has_worked or job.attestation is not None
        job.released += (key.alias for key in result.released)
        job.takes_fresh_token |= any(
            failure_error(entry.failure).disposition is not Disposition.RETRY
            for entry in result.failed
        )
        self._settling.settle(part, job.attestation, self._still_wanted())
        for key in result.released:  # a job that crashes later is none of its business
            self._asked.pop(key.alias, None)

    def _keep(self, token: HeldToken | None) -> None:
        """Keep a token for keys to come, unless one of these takes a new one."""
        if token is None or self._is_token_void or self._job.takes_fresh_token:
            return
        self._token = cached_token.note_released(token, self._job.released)

    async def _let_age(self) -> None:
        while not self._stopping.is_set():
            left = min(self._lives.age(), _LOOK_UP_SECONDS)
            self._holder.repeat_notifications()
            self._lives.changed.clear()
            self.promises.within(_AGE, left)
            await self._clock.wait(self._lives.changed, left)
