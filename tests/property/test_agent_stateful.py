"""Properties of the agent, for any sequence of faults, requests and clock changes.

- A denied, expired or dropped key is never served. No other event ends a held key.
- A long poll gets its response in time.
- A vault never gets more requests than its rate limit permits.
- A fault of one key does not delay another key.
- After all faults have ended, every key becomes current.
- Retry-After of a key that is not held is the time until its next attempt.
- The heartbeats of the watchdog are on time.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.agent import failure
from support.reference_model import (
    CONFIRMED_AFTER_FIVE_MINUTES,
    CONFIRMED_BY_A_SECOND,
    TOLERANCE_SECONDS,
)
from support.simulated_agent import SimulatedAgent
from support.simulated_cloud import KeyId, Version

from skragent.agent.key_records import KeyLifetimePolicy
from skragent.job import Failure, KeyRequest
from skragent.keyring import KeyState

HOUR = 3600.0
TEN_YEARS = 10 * 365.25 * 86400.0
WEEK = 7 * 86400.0

VAULTS = ("https://a.vault.azure.net", "https://b.vault.azure.net")
ALIASES = ("disk", "signing", "backup", "mail")

# The agent compares the wall clock with deadlines this often.
CLOCK_CHECK_SECONDS = 10.0
# The longest wait of a key that is not held (docs/operations.md). The release rate
# limit and crashing jobs can delay the key by RATE_LIMIT_SECONDS more.
MAX_BACKOFF_SECONDS = 900.0
RATE_LIMIT_SECONDS = 100.0
MAX_RENEWAL_SECONDS = 3600.0 + 60.0  # the backoff, and the time to fetch it
# The time in which the agent finds the keys that crash their jobs.
CRASH_SEARCH_SECONDS = 300.0
MAX_RETRY_AFTER = 300.0  # of a key that is not held, in seconds

aliases = st.sampled_from(ALIASES)
key_ids = st.tuples(st.sampled_from(VAULTS), st.sampled_from(ALIASES))
rarely = st.sampled_from([False, False, True])
durations = st.sampled_from([0.0, 0.4, 2.0, 9.0, 11.0, 61.0, 650.0, HOUR])
retry_afters = st.sampled_from([None, None, 0.0, 5.0, 300.0, 1e6, -3.0])
seconds_from_now = st.sampled_from([None, None, -HOUR, -1.0, 1.0, 30.0, 700.0])
all_policies = st.builds(
    KeyLifetimePolicy,
    max_stale_seconds=st.sampled_from([0.0, 600.0, 24 * HOUR]),
    is_kept_when_denied=st.booleans(),
    refresh_seconds=st.sampled_from([None, 300.0]),
    overlap_seconds=st.sampled_from([0.0, 300.0, 6 * HOUR]),
    check_seconds=st.sampled_from([None, 60.0, HOUR]),
)


# Failures that are not a denial, by their disposition.
FAULTS = {
    "retry": (
        *("transport.timeout", "transport.unexpected", "identity.unavailable"),
        *("endorsements.tcb", "evidence.tpm.busy", "release.conflict"),
    ),
    "reattest": (
        *("token.signature", "token.issuer", "token.nonce", "token.wrapping_key"),
        *("token.lifetime", "token.invalid", "token.sealed", "token.signing_keys"),
        *("release.unverified", "release.malformed", "release.signature", "unwrap"),
    ),
    "retry_slowly": (
        *("evidence.malformed", "evidence.unsupported", "evidence.tpm"),
        *("identity.not_found", "identity.denied", "identity.unreadable"),
        *("token.endpoint", "release.expired", "release.not_yet_valid"),
    ),
    "fatal": ("config.invalid", "evidence.not_a_cvm"),
}
DENIALS = sorted(CONFIRMED_BY_A_SECOND | CONFIRMED_AFTER_FIVE_MINUTES)


@st.composite
def faults(draw: st.DrawFn) -> Failure:
    disposition = draw(st.sampled_from(sorted(FAULTS)))
    code = draw(st.sampled_from(FAULTS[disposition]))
    return failure(code, disposition, draw(retry_afters))  # type: ignore[arg-type]


denials = st.builds(failure, st.sampled_from(DENIALS), st.just("denied"), retry_afters)


@st.composite
def failures_or_none(draw: st.DrawFn) -> Failure | None:
    """No failure in half of the cases, a fault in a third, else a denial."""
    kind = draw(st.integers(0, 5))
    if kind < 3:
        return None
    return draw(denials if kind == 5 else faults())


class AgentStateMachine(RuleBasedStateMachine):
    """The events that can happen to an agent and its vaults, and the invariants."""

    agent: SimulatedAgent

    @initialize(
        count=st.sampled_from([1, 2, 4]),
        bulk=st.sampled_from([0, 0, 0, 25]),
        policy=all_policies,
        token_life=st.sampled_from([600.0, 1800.0]),
    )
    def begin(
        self, count: int, bulk: int, policy: KeyLifetimePolicy, token_life: float
    ) -> None:
        names = [*ALIASES[:count], *(f"bulk{number}" for number in range(bulk))]
        self.keys = {
            name: KeyRequest(alias=name, vault=VAULTS[0], name=name) for name in names
        }
        self.policies = dict.fromkeys(names, policy)
        self.agent = SimulatedAgent(self.keys, self.policies)
        self.agent.cloud.token_life = token_life

    def teardown(self) -> None:
        if hasattr(self, "agent"):
            self.agent.close()

    # Time.

    @rule(seconds=durations)
    def time_passes(self, seconds: float) -> None:
        self.agent.advance(seconds)

    @rule(seconds=st.sampled_from([30.0, HOUR, WEEK]))
    def the_machine_is_suspended(self, seconds: float) -> None:
        self.agent.suspend(seconds)

    @rule(seconds=st.sampled_from([-TEN_YEARS, -HOUR, -20.0, 20.0, HOUR, TEN_YEARS]))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        self.agent.clock.wall += seconds
        self.agent.advance(CLOCK_CHECK_SECONDS)

    # Failures and their ends.

    @rule(data=st.data(), outcome=failures_or_none())
    def a_key_fails_when_it_is_refreshed(
        self, data: st.DataObject, outcome: Failure | None
    ) -> None:
        alias = self._pick(data)
        self.agent.cloud.keys[self._key_id(alias)].failure = outcome
        self._refresh([alias])

    @rule(outcome=failures_or_none())
    def jobs_fail(self, outcome: Failure | None) -> None:
        is_fatal = outcome is not None and outcome.disposition == "fatal"
        if is_fatal and not self.agent.cloud.has_attested:
            return  # a FATAL failure at start ends the agent
        self.agent.cloud.job_failure = outcome
        self._refresh(
            [a for a, f in self.agent.model.histories.items() if not f.is_dropped]
        )

    @rule(crashes=rarely)
    def jobs_crash_after_some_keys_were_delivered(self, *, crashes: bool) -> None:
        self.agent.cloud.crashes_late = crashes

    @rule()
    def the_agent_is_killed_and_started_again(self) -> None:
        failed = self.agent.cloud.job_failure
        if failed is not None and failed.disposition == "fatal":
            return  # a FATAL failure at start ends the agent
        self.agent.restart(self.keys, self.policies)

    @rule(crashes=rarely)
    def jobs_crash(self, *, crashes: bool) -> None:
        self.agent.cloud.crashes = crashes

    @rule(data=st.data(), crashes=rarely)
    def a_key_crashes_its_jobs(self, data: st.DataObject, *, crashes: bool) -> None:
        self.agent.cloud.keys[self._pick_key_id(data)].crashes = crashes

    @rule(outcome=failures_or_none())
    def the_ak_certificate_is_due_for_renewal(self, outcome: Failure | None) -> None:
        cloud = self.agent.cloud
        cloud.is_ak_renewal_due, cloud.has_reported_ak = True, False
        cloud.renewal_failure = outcome

    @rule()
    def all_faults_end(self) -> None:
        self._end_faults()

    @rule(may=st.booleans())
    def the_permission_to_check_versions_changes(self, *, may: bool) -> None:
        self.agent.cloud.may_check_versions = may

    @rule(job_seconds=st.sampled_from([0.0, 1.0]), late=st.booleans())
    def jobs_take_time(self, job_seconds: float, *, late: bool) -> None:
        self.agent.cloud.job_seconds = job_seconds
        self.agent.cloud.releases_at_end = late

    @rule(
        data=st.data(),
        is_dropped=st.booleans(),
        is_refreshed=st.booleans(),
        is_rotated=st.booleans(),
    )
    def an_administrator_changes_a_key_during_its_job(
        self,
        data: st.DataObject,
        *,
        is_dropped: bool,
        is_refreshed: bool,
        is_rotated: bool,
    ) -> None:
        alias, cloud = self._pick(data), self.agent.cloud
        cloud.job_seconds = 25.0
        self._refresh([alias])
        cloud.job_seconds = 0.0
        if is_rotated:
            key = cloud.keys[self._key_id(alias)]
            key.versions.append(Version(key.latest.number + 1))
        if is_dropped:
            self._drop(alias)
        if is_refreshed:
            self._refresh([alias])
        self.agent.advance(30.0)

    @rule(
        data=st.data(),
        outcome=st.one_of(faults(), denials),
        seconds=st.sampled_from([61.0, 320.0]),
    )
    def a_key_fails_for_long(
        self, data: st.DataObject, outcome: Failure, seconds: float
    ) -> None:
        alias = self._pick(data)
        key = self.agent.cloud.keys[self._key_id(alias)]
        key.failure = outcome
        self._refresh([alias])
        self.agent.advance(seconds)

    # Changes in the vaults.

    @rule(
        data=st.data(),
        expires_in=seconds_from_now,
        valid_in=seconds_from_now,
        enabled=st.sampled_from([True, True, False]),
        is_new=st.booleans(),
        is_refreshed=st.booleans(),
    )
    def a_key_is_rotated_or_changed(
        self,
        data: st.DataObject,
        expires_in: float | None,
        valid_in: float | None,
        *,
        enabled: bool,
        is_new: bool,
        is_refreshed: bool,
    ) -> None:
        alias, wall = self._pick(data), self.agent.clock.wall
        key = self.agent.cloud.keys[self._key_id(alias)]
        if is_new:
            key.versions.append(Version(key.latest.number + 1))
        key.latest.enabled = enabled
        key.latest.expires = None if expires_in is None else wall + expires_in
        key.latest.not_before = None if valid_in is None else wall + valid_in
        if is_refreshed:
            self._refresh([alias])

    # Requests of administrators.

    @rule(data=st.data())
    def a_key_is_dropped(self, data: st.DataObject) -> None:
        self._drop(self._pick(data))

    @rule(data=st.data())
    def a_key_is_refreshed(self, data: st.DataObject) -> None:
        self._refresh([self._pick(data)])

    @rule(alias=aliases, key_id=key_ids, policy=all_policies)
    def a_key_is_added_or_renamed(
        self, alias: str, key_id: KeyId, policy: KeyLifetimePolicy
    ) -> None:
        vault, name = key_id
        self._configure(
            self.keys | {alias: KeyRequest(alias=alias, vault=vault, name=name)},
            self.policies | {alias: policy},
        )

    @precondition(lambda self: len(self.keys) > 1)
    @rule(data=st.data())
    def a_key_is_removed(self, data: st.DataObject) -> None:
        gone = self._pick(data)
        self._configure(
            {a: k for a, k in self.keys.items() if a != gone}, self.policies
        )

    @rule(data=st.data(), number=st.integers(0, 3))
    def a_version_is_pinned(self, data: st.DataObject, number: int) -> None:
        alias = self._pick(data)
        key = self.keys[alias]
        pinned = KeyRequest(
            alias=alias,
            vault=key.vault,
            name=key.name,
            version=Version(number).name if number else "",
        )
        self._configure(self.keys | {alias: pinned}, self.policies)

    @rule(data=st.data(), policy=all_policies)
    def the_policy_changes(
        self, data: st.DataObject, policy: KeyLifetimePolicy
    ) -> None:
        self._configure(self.keys, self.policies | {self._pick(data): policy})

    # Requests of workloads.

    @rule(
        data=st.data(),
        number=st.integers(0, 3),
        wait=st.sampled_from([0, 1, 30, 300]),
    )
    def a_workload_requests_a_key(
        self, data: st.DataObject, number: int, wait: int
    ) -> None:
        alias = self._pick(data)
        version = Version(number).name if number else None
        self.agent.request(alias, version=version, wait=wait)

    # Required results.

    @rule(data=st.data())
    def a_key_without_faults_is_released_soon(self, data: st.DataObject) -> None:
        alias = self._pick(data)
        cloud = self.agent.cloud
        key = cloud.keys[self._key_id(alias)]
        if cloud.job_failure or cloud.crashes or key.failure or key.crashes:
            return
        if cloud.crashes_late:
            return
        if self.keys[alias].version:
            return
        key.latest.enabled = True
        refreshed_at = self.agent.clock.boot
        self._refresh([alias])
        has_crashing_key = any(other.crashes for other in cloud.keys.values())
        self.agent.advance(
            CRASH_SEARCH_SECONDS if has_crashing_key else RATE_LIMIT_SECONDS
        )
        assert self.agent.model.released_at.get(alias, 0.0) >= refreshed_at

    @rule()
    def every_key_is_current_after_all_faults_ended(self) -> None:
        self._end_faults()
        cloud = self.agent.cloud
        cloud.job_seconds = 0.0
        for key in cloud.keys.values():
            for version in key.versions:
                version.enabled = True
                version.expires = version.not_before = None
        self._configure(
            {
                alias: KeyRequest(alias=alias, vault=key.vault, name=key.name)
                for alias, key in self.keys.items()
            },
            self.policies,
        )
        self.agent.advance(MAX_BACKOFF_SECONDS + RATE_LIMIT_SECONDS)
        histories = self.agent.model.histories
        for entry in self.agent.keyring:
            assert entry.key or histories[entry.alias].is_dropped, entry
        self.agent.advance(cloud.token_life)
        for entry in self.agent.keyring:
            is_dropped = histories[entry.alias].is_dropped
            wanted = KeyState.DROPPED if is_dropped else KeyState.CURRENT
            assert entry.state is wanted, entry
        if cloud.has_reported_ak:
            self.agent.advance(MAX_RENEWAL_SECONDS)
            assert not cloud.is_ak_renewal_due, "the AK certificate was not renewed"

    @invariant()
    def exactly_the_permitted_versions_are_served(self) -> None:
        if not hasattr(self, "agent"):
            return
        model = self.agent.model
        model.apply_time()
        for alias, history in model.histories.items():
            if model.is_near_deadline(alias):
                continue
            self._compare(alias, None)
            for version in (history.held, history.previous):
                if version is not None:
                    self._compare(alias, version.version)
            entry = self.agent.keyring.get(alias)
            assert entry is not None
            boot = self.agent.clock.boot
            assert (entry.state is KeyState.STALE) == history.is_stale(boot), alias
            assert (entry.state is KeyState.DROPPED) == history.is_dropped, alias
            if history.previous is None:
                assert entry.previous is None, alias

    @invariant()
    def no_long_poll_waits_for_a_served_key_or_past_its_deadline(self) -> None:
        if not hasattr(self, "agent"):
            return
        for request in self.agent.pending:
            assert request.deadline > self.agent.clock.boot
            if request.alias in self.keys:
                wanted = self.agent.model.served_bytes(request.alias, request.version)
                assert wanted is None or self.agent.model.is_near_deadline(
                    request.alias
                )

    @invariant()
    def the_heartbeats_are_on_time(self) -> None:
        if hasattr(self, "agent"):
            assert self.agent.scheduler.heartbeats.are_on_time()

    def _compare(self, alias: str, version: str | None) -> None:
        wanted = self.agent.model.served_bytes(alias, version)
        response = self.agent.request(alias, version=version, wait=0).response
        assert response is not None
        served = response.body if response.status == 200 else None
        assert served == wanted, (alias, version, response.status, response.headers)
        if version is None and response.status == 503:
            self._check_retry_after(alias, float(response.headers["Retry-After"]))

    def _check_retry_after(self, alias: str, seconds: float) -> None:
        record = self.agent.scheduler.records[alias]
        left = record.retry.retry_at - self.agent.clock.boottime()
        expected = min(max(left, 1.0), MAX_RETRY_AFTER)
        assert abs(seconds - expected) <= 1.0 + TOLERANCE_SECONDS, (alias, left)

    def _pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.keys)))

    def _pick_key_id(self, data: st.DataObject) -> KeyId:
        return self._key_id(self._pick(data))

    def _key_id(self, alias: str) -> KeyId:
        return self.keys[alias].vault, self.keys[alias].name

    def _drop(self, alias: str) -> None:
        self.agent.model.drop(alias)
        self.agent.scheduler.drop(alias)
        self.agent.advance(0)

    def _end_faults(self) -> None:
        cloud = self.agent.cloud
        cloud.job_failure, cloud.crashes, cloud.renewal_failure = None, False, None
        cloud.crashes_late = False
        for key in cloud.keys.values():
            key.failure, key.crashes = None, False

    def _refresh(self, aliases: list[str]) -> None:
        for alias in aliases:
            self.agent.model.refresh(alias)
        self.agent.scheduler.refresh(aliases)
        self.agent.advance(0)

    def _configure(
        self, keys: dict[str, KeyRequest], policies: dict[str, KeyLifetimePolicy]
    ) -> None:
        self.keys = keys
        self.policies = {alias: policies[alias] for alias in keys}
        self.agent.configure(self.keys, self.policies)


TestAgent: Any = AgentStateMachine.TestCase
TestAgent.settings = settings(max_examples=80, stateful_step_count=30)
