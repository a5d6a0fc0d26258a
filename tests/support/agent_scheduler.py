"""A scheduler with a clock that the test moves and jobs that the test decides."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from support.agent import (
    MID_JITTER,
    NOW,
    TOKEN_LIFE_SECONDS,
    FakeClock,
    attestation,
    in_parts,
    make_config,
    released_key,
    run,
    settle,
    token_of,
)

from skragent.agent.job_runner import Release
from skragent.agent.jobs import key_requests
from skragent.agent.key_records import KeyLifetimePolicy
from skragent.agent.scheduler import Scheduler
from skragent.errors import AgentError, ReleaserError
from skragent.job import AkCertificate, FailedKey, Failure, Result
from skragent.secretmem import create_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from skragent.agent.cached_token import CachedToken
    from skragent.agent.key_records import KeyRecord, NextAttempt, Validity
    from skragent.agent.releaser_process import Launch
    from skragent.job import Attestation, KeyRequest, ReleasedKey
    from skragent.keyring import KeyState
    from skragent.secretmem import Arena


@dataclass
class Jobs:
    """Releases each key, or returns the failure that the test set for it."""

    clock: FakeClock
    arena: Arena
    failures: dict[str, Failure] = field(default_factory=dict)
    keys: dict[str, ReleasedKey] = field(default_factory=dict)
    whole: Failure | AgentError | None = None
    asked: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    attested: list[bool] = field(default_factory=list)  # False: the job had a token
    checked: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    latest: dict[str, str] = field(
        default_factory=dict
    )  # the results of version checks
    check_hangs: bool = False
    ak_certificate: AkCertificate | None = None
    is_ak_restored: bool = False
    renewed: list[tuple[float, str]] = field(default_factory=list)  # time, query id
    renewals: list[Result] = field(default_factory=list)  # the next results
    expires_at: float = NOW + TOKEN_LIFE_SECONDS
    while_running: Callable[[], None] = lambda: None
    poison: str = ""  # the key crashes each of its jobs
    # The key crashes each of its jobs after the other keys are delivered.
    crashes_after: str = ""
    longest_seconds: float = 120.0

    async def run(
        self,
        keys: Sequence[KeyRequest],
        *,
        launched: Launch | None = None,
        token: CachedToken | None = None,
        deliver: Callable[[Release], None] = lambda _part: None,
    ) -> Release:
        del launched
        self.attested.append(token is None)
        self.asked.append((self.clock.boot, tuple(key.alias for key in keys)))
        self.while_running()
        if isinstance(self.whole, AgentError):
            raise self.whole
        if self.poison in [key.alias for key in keys]:
            raise ReleaserError("x", code="releaser.crashed")
        result, boot = self._result(keys), self.clock.boot
        if token is not None:
            result = msgspec.structs.replace(result, attestation=None)
        kept = token_of(result, boot)
        first, last = in_parts(result)
        deliver(Release(first, self.arena, boot))
        if self.crashes_after in [key.alias for key in keys]:
            raise ReleaserError("x", code="releaser.crashed")
        return Release(last, self.arena, boot, kept)

    async def check(self, keys: Sequence[KeyRequest]) -> Result:
        self.checked.append((self.clock.boot, tuple(key.alias for key in keys)))
        if self.check_hangs:
            await asyncio.Event().wait()
        if isinstance(self.whole, AgentError):
            raise self.whole
        return Result(
            versions={
                key.alias: self.latest[key.alias]
                for key in keys
                if key.alias in self.latest
            }
        )

    async def renew(self, query_id: str) -> Result:
        self.renewed.append((self.clock.boot, query_id))
        result = self.renewals.pop(0)
        if result.ak_certificate is not None:
            self.ak_certificate = result.ak_certificate
        return result

    def _result(self, keys: Sequence[KeyRequest]) -> Result:
        if isinstance(self.whole, Failure):
            return Result(failure=self.whole, ak_certificate=self.ak_certificate)
        return Result(
            ak_certificate=self.ak_certificate,
            ak_restored=self.is_ak_restored,
            attestation=attestation(expires_at=self.expires_at),
            released=tuple(
                self.keys.get(key.alias, released_key(key.alias))
                for key in keys
                if key.alias not in self.failures
            ),
            failed=tuple(
                FailedKey(alias=key.alias, failure=self.failures[key.alias])
                for key in keys
                if key.alias in self.failures
            ),
        )


@dataclass
class Reporter:
    """Stores all reports, among them the keys that the agent would serve."""

    held: dict[str, ReleasedKey] = field(default_factory=dict)
    previous: dict[str, ReleasedKey] = field(default_factory=dict)
    states: dict[str, KeyState] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    attestations: list[Attestation] = field(default_factory=list)
    certificates: list[AkCertificate] = field(default_factory=list)
    renewals: list[str] = field(default_factory=list)  # error codes; empty: a success
    attempts: list[str] = field(default_factory=list)
    wiped_in: dict[str, float] = field(default_factory=dict)
    restored: int = 0  # AK certificates
    repetitions: int = 0  # of notifications to systemd

    def ak_certificate(self, certificate: AkCertificate) -> None:
        self.certificates.append(certificate)

    def ak_restored(self) -> None:
        self.restored += 1

    def ak_renewed(self) -> None:
        self.renewals.append("")

    def ak_renewal_failed(self, error: AgentError, seconds: float) -> None:
        assert seconds > 0
        self.renewals.append(error.code)

    def attested(self, attestation: Attestation) -> None:
        self.attestations.append(attestation)

    def hold(
        self,
        key: ReleasedKey,
        arena: Arena,
        *,
        request: KeyRequest,
        record: KeyRecord,
        began_at: float,
    ) -> None:
        del arena, request, began_at
        before = self.held.get(key.alias)
        if record.has_previous and before is not None and before.version != key.version:
            self.previous[key.alias] = before
        self.held[key.alias] = key

    def end_overlap(self, alias: str) -> None:
        del self.previous[alias]

    def repeat_notifications(self) -> None:
        self.repetitions += 1

    def not_valid(self, key: ReleasedKey, admission: Validity) -> None:
        del key
        self.codes.append(admission.value)

    def cannot_check(self, alias: str) -> None:
        self.unchecked.append(alias)

    def state_changed(self, alias: str, record: KeyRecord) -> None:
        self.states[alias] = record.state
        if not record.is_held:
            self.held.pop(alias, None)
            self.previous.pop(alias, None)

    def attempt_ended(self, alias: str) -> None:
        self.attempts.append(alias)

    def key_failed(self, alias: str, error: AgentError, following: NextAttempt) -> None:
        self.wiped_in[alias] = following.wiped_in
        self.codes.append(error.code)
        self.waits.append(following.seconds)

    def job_failed(
        self, following: Mapping[str, NextAttempt], error: AgentError
    ) -> None:
        self.wiped_in.update((a, one.wiped_in) for a, one in following.items())
        self.codes.append(error.code)
        self.waits.append(min((one.seconds for one in following.values()), default=0.0))

    def job_ended(self, result: Result) -> None:
        del result


@dataclass
class World:
    clock: FakeClock
    jobs: Jobs
    reporter: Reporter
    scheduler: Scheduler
    task: asyncio.Task[None]

    @property
    def times(self) -> list[float]:
        """The beginnings of the jobs, in seconds after the first one."""
        return [moment - self.jobs.asked[0][0] for moment, _ in self.jobs.asked]


def run_scheduler(
    test: Callable[[World], Coroutine[Any, Any, None]],
    *aliases: str,
    random: float | Callable[[], float] = MID_JITTER,
    policy: KeyLifetimePolicy = KeyLifetimePolicy(),  # noqa: B008 - frozen
    **jobs: Any,  # noqa: ANN401 - the fields of Jobs
) -> World:
    """Run `test` beside a scheduler of these keys."""

    async def both() -> World:
        clock, reporter = FakeClock(), Reporter()
        world = Jobs(clock, create_arena(4096), **jobs)
        scheduler = Scheduler(
            key_requests(make_config(*aliases or ("disk",))),
            jobs=world,
            reporter=reporter,
            clock=clock,
            random=random if callable(random) else lambda: random,
            policies=defaultdict(lambda: policy),
        )
        task = asyncio.create_task(scheduler.run())
        await settle()
        together = World(clock, world, reporter, scheduler, task)
        try:
            await test(together)
        finally:
            scheduler.stop()
            await settle()
            task.cancel()  # ends a hanging job, as the daemon does
            await asyncio.gather(task, return_exceptions=True)
        return together

    return run(both())


async def nothing(world: World) -> None:
    del world


def passing(seconds: float) -> Callable[[World], Coroutine[Any, Any, None]]:
    async def test(world: World) -> None:
        await world.clock.advance(seconds)

    return test
