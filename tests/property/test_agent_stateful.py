"""Properties of the agent, for any sequence of faults, requests and clock changes.

- A denied, expired or dropped key is never served. No other event ends a held key.
- A long poll gets its response in time.
- A vault never gets more requests than its rate limit permits.
- A fault of one key does not delay another key.
- After all faults have ended, every key becomes current.
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
from support.reference_model import CONFIRMED_AFTER_FIVE_MINUTES, CONFIRMED_BY_A_SECOND
from support.simulated_agent import World
from support.simulated_cloud import Place, Version

from skragent.agent.key_records import KeyLifetimePolicy
from skragent.job import Failure, KeyRequest
from skragent.keyring import KeyState

HOUR = 3600.0
YEARS = 10 * 365.25 * 86400.0
WEEK = 7 * 86400.0

VAULTS = ("https://a.vault.azure.net", "https://b.vault.azure.net")
ALIASES = ("disk", "signing", "backup", "mail")

# The clock is looked at this often: what it was set to is noticed by then.
NOTICED = 10.0
# The agent requests a key that is not held within this time (docs/operations.md), plus
# the release rate limit of its vault and the ends of crashing jobs.
LONGEST_WAIT = 900.0
TURNS = 100.0
LONGEST_RENEWAL = 3600.0 + 60.0  # after failures; and what was ordered then is made
# The same where keys crash their jobs, and it must be found out which.
MINED = 300.0

aliases = st.sampled_from(ALIASES)
places = st.tuples(st.sampled_from(VAULTS), st.sampled_from(ALIASES))
rarely = st.sampled_from([False, False, True])
moments = st.sampled_from([0.0, 0.4, 2.0, 9.0, 11.0, 61.0, 650.0, HOUR])
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


# What vaults, provider, vTPM and machine may answer, by what the agent does about it.
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
    word = draw(st.sampled_from(sorted(FAULTS)))
    code = draw(st.sampled_from(FAULTS[word]))
    return failure(code, word, draw(retry_afters))  # type: ignore[arg-type] # a Word


denials = st.builds(failure, st.sampled_from(DENIALS), st.just("denied"), retry_afters)


@st.composite
def troubles(draw: st.DrawFn) -> Failure | None:
    """Health more often than not, then faults, then denials."""
    kind = draw(st.integers(0, 5))
    if kind < 3:
        return None
    return draw(denials if kind == 5 else faults())


class AgentLife(RuleBasedStateMachine):
    """One agent, its vaults, and everything that can happen to both."""

    world: World

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
        self.world = World(self.keys, self.policies)
        self.world.cloud.token_life = token_life

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()

    # Time.

    @rule(seconds=moments)
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(seconds=st.sampled_from([30.0, HOUR, WEEK]))
    def the_machine_is_suspended(self, seconds: float) -> None:
        self.world.suspend(seconds)

    @rule(seconds=st.sampled_from([-YEARS, -HOUR, -20.0, 20.0, HOUR, YEARS]))
    def the_wall_clock_is_set(self, seconds: float) -> None:
        self.world.clock.wall += seconds
        self.world.advance(NOTICED)

    # What goes wrong, and right again.

    @rule(data=st.data(), answer=troubles())
    def a_key_fails_when_it_is_refreshed(
        self, data: st.DataObject, answer: Failure | None
    ) -> None:
        alias = self._pick(data)
        self.world.cloud.keys[self._place(alias)].failure = answer
        self._refresh([alias])

    @rule(answer=troubles())
    def jobs_fail(self, answer: Failure | None) -> None:
        is_fatal = answer is not None and answer.disposition == "fatal"
        if is_fatal and not self.world.cloud.has_attested:
            return  # at start it ends the agent
        self.world.cloud.whole = answer
        self._refresh(
            [a for a, f in self.world.model.histories.items() if not f.is_dropped]
        )

    @rule(crashes=rarely)
    def jobs_crash_after_some_keys_were_delivered(self, *, crashes: bool) -> None:
        self.world.cloud.crashes_late = crashes

    @rule()
    def the_agent_is_killed_and_started_again(self) -> None:
        if self.world.cloud.whole and self.world.cloud.whole.disposition == "fatal":
            return  # what ends the agent at its start is shown elsewhere
        self.world.restart(self.keys, self.policies)

    @rule(crashes=rarely)
    def jobs_crash(self, *, crashes: bool) -> None:
        self.world.cloud.crashes = crashes

    @rule(data=st.data(), crashes=rarely)
    def a_key_crashes_its_jobs(self, data: st.DataObject, *, crashes: bool) -> None:
        self.world.cloud.keys[self._pick_place(data)].crashes = crashes

    @rule(answer=troubles())
    def the_ak_certificate_nears_its_end(self, answer: Failure | None) -> None:
        cloud = self.world.cloud
        cloud.ak_ends_soon, cloud.has_told_of_ak, cloud.renewal = True, False, answer

    @rule()
    def all_is_well_again(self) -> None:
        self._heal()

    @rule(may=st.booleans())
    def the_permission_to_look_changes(self, *, may: bool) -> None:
        self.world.cloud.may_look = may

    @rule(takes=st.sampled_from([0.0, 1.0]), late=st.booleans())
    def jobs_take_time(self, takes: float, *, late: bool) -> None:
        self.world.cloud.takes, self.world.cloud.asks_late = takes, late

    @rule(
        data=st.data(),
        is_dropped=st.booleans(),
        is_asked_again=st.booleans(),
        is_rotated=st.booleans(),
    )
    def a_job_is_overtaken_by_orders(
        self,
        data: st.DataObject,
        *,
        is_dropped: bool,
        is_asked_again: bool,
        is_rotated: bool,
    ) -> None:
        alias, cloud = self._pick(data), self.world.cloud
        cloud.takes = 25.0
        self._refresh([alias])
        cloud.takes = 0.0
        if is_rotated:
            key = cloud.keys[self._place(alias)]
            key.versions.append(Version(key.latest.number + 1))
        if is_dropped:
            self._drop(alias)
        if is_asked_again:
            self._refresh([alias])
        self.world.advance(30.0)

    @rule(
        data=st.data(),
        answer=st.one_of(faults(), denials),
        seconds=st.sampled_from([61.0, 320.0]),
    )
    def a_key_fails_for_long(
        self, data: st.DataObject, answer: Failure, seconds: float
    ) -> None:
        alias = self._pick(data)
        key = self.world.cloud.keys[self._place(alias)]
        key.failure = answer
        self._refresh([alias])
        self.world.advance(seconds)

    # What vaults hold.

    @rule(
        data=st.data(),
        lives=seconds_from_now,
        begins=seconds_from_now,
        enabled=st.sampled_from([True, True, False]),
        is_new=st.booleans(),
        is_told=st.booleans(),
    )
    def a_key_is_rotated_or_changed(
        self,
        data: st.DataObject,
        lives: float | None,
        begins: float | None,
        *,
        enabled: bool,
        is_new: bool,
        is_told: bool,
    ) -> None:
        alias, wall = self._pick(data), self.world.clock.wall
        key = self.world.cloud.keys[self._place(alias)]
        if is_new:
            key.versions.append(Version(key.latest.number + 1))
        key.latest.enabled = enabled
        key.latest.expires = None if lives is None else wall + lives
        key.latest.not_before = None if begins is None else wall + begins
        if is_told:
            self._refresh([alias])

    # What is ordered.

    @rule(data=st.data())
    def a_key_is_dropped(self, data: st.DataObject) -> None:
        self._drop(self._pick(data))

    @rule(data=st.data())
    def a_key_is_refreshed(self, data: st.DataObject) -> None:
        self._refresh([self._pick(data)])

    @rule(alias=aliases, place=places, policy=all_policies)
    def a_key_is_added_or_renamed(
        self, alias: str, place: Place, policy: KeyLifetimePolicy
    ) -> None:
        vault, name = place
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

    # What is asked.

    @rule(
        data=st.data(),
        number=st.integers(0, 3),
        wait=st.sampled_from([0, 1, 30, 300]),
    )
    def a_workload_asks(self, data: st.DataObject, number: int, wait: int) -> None:
        alias = self._pick(data)
        version = Version(number).name if number else None
        self.world.ask(alias, version=version, wait=wait)

    # What must come of it.

    @rule(data=st.data())
    def a_healthy_key_comes_at_once(self, data: st.DataObject) -> None:
        alias = self._pick(data)
        cloud = self.world.cloud
        key = cloud.keys[self._place(alias)]
        if cloud.whole or cloud.crashes or key.failure or key.crashes:
            return
        if cloud.crashes_late:
            return
        if self.keys[alias].version:
            return
        key.latest.enabled = True
        ordered_at = self.world.clock.boot
        self._refresh([alias])
        is_mined = any(other.crashes for other in cloud.keys.values())
        self.world.advance(MINED if is_mined else TURNS)
        assert self.world.model.released_at.get(alias, 0.0) >= ordered_at

    @rule()
    def health_and_time_end_in_current(self) -> None:
        self._heal()
        cloud = self.world.cloud
        cloud.takes = 0.0
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
        self.world.advance(LONGEST_WAIT + TURNS)
        histories = self.world.model.histories
        for entry in self.world.keyring:
            assert entry.key or histories[entry.alias].is_dropped, entry
        self.world.advance(cloud.token_life)
        for entry in self.world.keyring:
            is_dropped = histories[entry.alias].is_dropped
            wanted = KeyState.DROPPED if is_dropped else KeyState.CURRENT
            assert entry.state is wanted, entry
        if cloud.has_told_of_ak:
            self.world.advance(LONGEST_RENEWAL)
            assert not cloud.ak_ends_soon, "the AK certificate was not renewed"

    @invariant()
    def what_may_be_served_is_served_and_nothing_else(self) -> None:
        if not hasattr(self, "world"):
            return
        model = self.world.model
        model.age()
        for alias, history in model.histories.items():
            if model.is_undecided(alias):
                continue
            self._compare(alias, None)
            for one in (history.grant, history.previous):
                if one is not None:
                    self._compare(alias, one.version)
            entry = self.world.keyring.get(alias)
            assert entry is not None
            boot = self.world.clock.boot
            assert (entry.state is KeyState.STALE) == history.is_stale(boot), alias
            assert (entry.state is KeyState.DROPPED) == history.is_dropped, alias
            if history.previous is None:
                assert entry.previous is None, alias

    @invariant()
    def nobody_waits_for_what_is_there_or_past_its_time(self) -> None:
        if not hasattr(self, "world"):
            return
        for question in self.world.waiting:
            assert question.deadline > self.world.clock.boot
            if question.alias in self.keys:
                wanted = self.world.model.content(question.alias, question.version)
                assert wanted is None or self.world.model.is_undecided(question.alias)

    @invariant()
    def the_watchdog_is_content(self) -> None:
        if hasattr(self, "world"):
            assert self.world.scheduler.heartbeats.are_on_time()

    def _compare(self, alias: str, version: str | None) -> None:
        wanted = self.world.model.content(alias, version)
        answered = self.world.ask(alias, version=version, wait=0).answered
        assert answered is not None
        served = answered.body if answered.status == 200 else None
        assert served == wanted, (alias, version, answered.status, answered.headers)

    def _pick(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.keys)))

    def _pick_place(self, data: st.DataObject) -> Place:
        return self._place(self._pick(data))

    def _place(self, alias: str) -> Place:
        return self.keys[alias].vault, self.keys[alias].name

    def _drop(self, alias: str) -> None:
        self.world.model.drop(alias)
        self.world.scheduler.drop(alias)
        self.world.advance(0)

    def _heal(self) -> None:
        cloud = self.world.cloud
        cloud.whole, cloud.crashes, cloud.renewal = None, False, None
        cloud.crashes_late = False
        for key in cloud.keys.values():
            key.failure, key.crashes = None, False

    def _refresh(self, aliases: list[str]) -> None:
        for alias in aliases:
            self.world.model.refresh(alias)
        self.world.scheduler.refresh(aliases)
        self.world.advance(0)

    def _configure(
        self, keys: dict[str, KeyRequest], policies: dict[str, KeyLifetimePolicy]
    ) -> None:
        self.keys = keys
        self.policies = {alias: policies[alias] for alias in keys}
        self.world.configure(self.keys, self.policies)


TestAgentLife: Any = AgentLife.TestCase
TestAgentLife.settings = settings(max_examples=80, stateful_step_count=30)
