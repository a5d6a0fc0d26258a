"""When the AK certificate is renewed, without delaying keys.

The result of each job says whether the certificate must be renewed. The renewal is a
job of its own. It begins when no key is due soon, and fetches the new certificate a
minute after THIM has accepted the order. After a failure it is repeated with a long
backoff: the certificate is renewed 90 days before its end, and keys are released with
the old one meanwhile.

The functions are pure; `AkRenewal` runs the jobs.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from skragent.agent import due_times
from skragent.agent.jobs import SHORT_JOB_SECONDS, failure_error
from skragent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.agent.clock import Clock
    from skragent.agent.interfaces import Jobs, Reporter
    from skragent.job import AkCertificate, Result

# QUERY_RENEWED_CERT_AFTER_SECONDS of Microsoft's TpmCertOperations.cpp.
QUERY_AFTER_SECONDS: Final = 60.0

REPEAT_SECONDS: Final = 3600.0

# Queries for an ordered certificate before the agent orders another one.
_MAX_QUERIES: Final = 4

_BACKOFF: Final = due_times.Window(60, 3600)


@dataclass(frozen=True, slots=True)
class RenewalPlan:
    """The next step: none, to order a certificate, or to fetch an ordered one."""

    due_at: float = math.inf  # boot time
    query_id: str = ""  # of the order, from THIM
    failed_queries: int = 0  # for this order
    failures: int = 0  # since the last success


def plan_renewal(
    plan: RenewalPlan, certificate: AkCertificate, boottime: float
) -> RenewalPlan:
    """Plan a renewal if the certificate needs one and none is planned."""
    if not certificate.is_renewal_due:
        return RenewalPlan()
    if plan.due_at < math.inf:
        return plan
    return RenewalPlan(due_at=boottime)


def plan_query(plan: RenewalPlan, query_id: str, boottime: float) -> RenewalPlan:
    """Plan to fetch the certificate that THIM is making."""
    due_at = boottime + QUERY_AFTER_SECONDS
    return RenewalPlan(due_at=due_at, query_id=query_id, failures=plan.failures)


def plan_after_success(
    certificate: AkCertificate | None, boottime: float
) -> RenewalPlan:
    """Plan nothing, or another renewal if the new certificate also ends soon."""
    if certificate is None or not certificate.is_renewal_due:
        return RenewalPlan()
    return RenewalPlan(due_at=boottime + REPEAT_SECONDS)


def plan_after_failure(
    plan: RenewalPlan, boottime: float, seconds: float
) -> RenewalPlan:
    """Plan to try again; after several queries in vain, with another order."""
    failed = RenewalPlan(due_at=boottime + seconds, failures=plan.failures + 1)
    queries = plan.failed_queries + 1
    if not plan.query_id or queries == _MAX_QUERIES:
        return failed
    return dataclasses.replace(failed, query_id=plan.query_id, failed_queries=queries)


def backoff_seconds(error: AgentError, *, failures: int, jitter: float) -> float:
    """Choose the wait after a failed renewal.

    In the later half of its window, because no key depends on it and THIM may be
    overloaded.

    Args:
        error: the failure.
        failures: since the last success, this one included.
        jitter: random, from 0 to 1.
    """
    seconds = due_times.window_seconds(_BACKOFF, failures) * (1 + jitter) / 2
    return max(seconds, due_times.retry_after_seconds(error, jitter))


class AkRenewal:
    """Renews the AK certificate when that is due.

    Args:
        jobs: runs the job.
        reporter: receives the result.
        clock: the agent's clock.
        random: returns a number from 0 to 1.
        is_stopping: whether the agent is stopping.
    """

    def __init__(
        self,
        jobs: Jobs,
        reporter: Reporter,
        clock: Clock,
        random: Callable[[], float],
        *,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._plan = RenewalPlan()
        self._jobs = jobs
        self._reporter = reporter
        self._clock = clock
        self._random = random
        self._is_stopping = is_stopping

    @property
    def due_at(self) -> float:
        """The boot time at which `run` is due."""
        return self._plan.due_at

    def may_run(self, until_key: float, *, has_job_failed: bool) -> bool:
        """Return whether the renewal is due and delays no key.

        After an hour the renewal does not wait for keys any more. If jobs fail as a
        whole, the renewal runs before the next one, because the verifier may refuse
        the old certificate.

        Args:
            until_key: the seconds until a key is due.
            has_job_failed: the last job failed as a whole.
        """
        late = self._clock.boottime() - self.due_at
        if late < 0:
            return False
        is_before_retry = has_job_failed and until_key <= 0
        return is_before_retry or until_key > SHORT_JOB_SECONDS or late > REPEAT_SECONDS

    def read(self, result: Result) -> None:
        """Read what a job's result says about the certificate."""
        if result.ak_restored:
            self._reporter.ak_restored()
        self._read_certificate(result)

    async def run(self) -> None:
        """Try once. Every failure is followed by another attempt, later."""
        try:
            result = await self._jobs.renew(self._plan.query_id)
            if result.ak_restored:
                self._reporter.ak_restored()
            if result.failure is not None:
                raise failure_error(result.failure)
        except AgentError as error:
            self._fail(error)
            return
        boottime = self._clock.boottime()
        if result.ak_query_id:
            self._plan = plan_query(self._plan, result.ak_query_id, boottime)
            return
        self._plan = plan_after_success(result.ak_certificate, boottime)
        self._read_certificate(result)
        self._reporter.ak_renewed()

    def _read_certificate(self, result: Result) -> None:
        if result.ak_certificate is None:
            return
        self._reporter.ak_certificate(result.ak_certificate)
        boottime = self._clock.boottime()
        self._plan = plan_renewal(self._plan, result.ak_certificate, boottime)

    def _fail(self, error: AgentError) -> None:
        if self._is_stopping():
            return  # the agent itself killed the releaser
        seconds = backoff_seconds(
            error, failures=self._plan.failures + 1, jitter=self._random()
        )
        self._plan = plan_after_failure(self._plan, self._clock.boottime(), seconds)
        self._reporter.ak_renewal_failed(error, seconds)
