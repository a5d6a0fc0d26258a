"""When the AK certificate is renewed: beside the keys, and never in their way.

Every job for keys tells whether a renewal is due. It is then tried by a job of its
own: as soon as no key waits for it, or a minute after THIM took an order for it. One
that failed is tried again, seldom: there are 90 days, and keys come with the present
certificate too.

Pure but for `Renewing`, which the supervisor runs in its turn.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from skragent.agent import due_times
from skragent.agent.job_runner import ERRAND_SECONDS
from skragent.agent.jobs import failure_error
from skragent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.agent.clock import Clock
    from skragent.agent.interfaces import Holder, Jobs
    from skragent.job import AkCertificate, Result

# QUERY_RENEWED_CERT_AFTER_SECONDS of TpmCertOperations.cpp.
QUERY_AFTER_SECONDS: Final = 60.0

AGAIN_SECONDS: Final = 3600.0

# How often an order is asked for before another one is given.
_QUERIES: Final = 4


@dataclass(frozen=True, slots=True)
class Renewal:
    """What is planned: nothing, a renewal, or to fetch what was ordered."""

    due_at: float = math.inf  # boot time
    query_id: str = ""  # of THIM's order
    questions: int = 0  # that it was asked for in vain
    failures: int = 0  # since the last success; an order is none yet


def noticed(renewal: Renewal, certificate: AkCertificate, boottime: float) -> Renewal:
    """Plan a renewal that is due and not planned yet; forget one that is not."""
    if not certificate.is_renewal_due:
        return Renewal()
    if renewal.due_at < math.inf:
        return renewal
    return Renewal(due_at=boottime)


def ordered(renewal: Renewal, query_id: str, boottime: float) -> Renewal:
    """Plan to fetch what THIM is making."""
    due_at = boottime + QUERY_AFTER_SECONDS
    return Renewal(due_at=due_at, query_id=query_id, failures=renewal.failures)


def renewed(certificate: AkCertificate | None, boottime: float) -> Renewal:
    """Plan nothing more; or another, later on, where the new one ends soon, too."""
    if certificate is None or not certificate.is_renewal_due:
        return Renewal()
    return Renewal(due_at=boottime + AGAIN_SECONDS)


def failed(renewal: Renewal, boottime: float, seconds: float) -> Renewal:
    """Plan to try again; what was ordered and never came is ordered anew."""
    failed = Renewal(due_at=boottime + seconds, failures=renewal.failures + 1)
    questions = renewal.questions + 1
    if not renewal.query_id or questions == _QUERIES:
        return failed
    return dataclasses.replace(failed, query_id=renewal.query_id, questions=questions)


class Renewing:
    """Renews the certificate when that is due.

    Args:
        jobs: runs the job.
        holder: is told what came of it.
        clock: the one clock.
        chance: a number from 0 to 1, another one each time.
        is_stopping: whether the agent ends.
    """

    def __init__(
        self,
        jobs: Jobs,
        holder: Holder,
        clock: Clock,
        chance: Callable[[], float],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._plan = Renewal()
        self._jobs = jobs
        self._holder = holder
        self._clock = clock
        self._chance = chance
        self._is_stopping = is_stopping

    @property
    def due_at(self) -> float:
        """When `run` is due, by boot time."""
        return self._plan.due_at

    def is_in_turn(self, until_key: float, *, is_failing: bool) -> bool:
        """Tell whether it is due, and no key that soon is due would wait for it.

        For ever it waits for nobody; and where jobs fail as a whole it is first, as a
        verifier may refuse the present certificate.

        Args:
            until_key: the time until the next key is due.
            is_failing: whether the last job failed as a whole.
        """
        late = self._clock.boottime() - self.due_at
        is_in_nobodys_way = is_failing or until_key > ERRAND_SECONDS
        return late >= 0 and (is_in_nobodys_way or late > AGAIN_SECONDS)

    def hear(self, result: Result) -> None:
        """Take from a job's result what it says of the certificate."""
        if result.ak_restored:
            self._holder.ak_restored()
        self._notice(result)

    def _notice(self, result: Result) -> None:
        if result.ak_certificate is None:
            return
        self._holder.ak_certificate(result.ak_certificate)
        boottime = self._clock.boottime()
        self._plan = noticed(self._plan, result.ak_certificate, boottime)

    async def run(self) -> None:
        """Try once. No failure is more than a reason to try again."""
        try:
            result = await self._jobs.renew(self._plan.query_id)
            if result.ak_restored:
                self._holder.ak_restored()
            if result.failure is not None:
                raise failure_error(result.failure)
        except AgentError as error:
            self._fail(error)
            return
        if result.ak_query_id:
            self._plan = ordered(self._plan, result.ak_query_id, self._clock.boottime())
            return
        self._plan = renewed(result.ak_certificate, self._clock.boottime())
        self._notice(result)
        self._holder.ak_renewed()

    def _fail(self, error: AgentError) -> None:
        if self._is_stopping():
            return  # we killed it ourselves
        seconds = due_times.renewal_seconds(
            error, failures=self._plan.failures + 1, jitter=self._chance()
        )
        self._plan = failed(self._plan, self._clock.boottime(), seconds)
        self._holder.ak_renewal_failed(error, seconds)
