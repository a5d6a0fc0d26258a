"""One attestation serves all releases due; what takes one of its own."""

from __future__ import annotations

import pathlib
import weakref
from typing import Any

import pytest
from support.agent import (
    BOOTTIME,
    REFRESH_SECONDS,
    TOKEN_LIFE_SECONDS,
    Word,
    attestation,
    failure,
    make_config,
)
from support.agent_scheduler import World, run_scheduler

from skragent.agent import cached_token
from skragent.agent.cached_token import (
    CachedToken,
    add_released,
    cache_token,
    can_release,
)
from skragent.agent.denial_confirmation import RepeatedDenial
from skragent.agent.due_times import RetryState
from skragent.agent.jobs import key_requests
from skragent.agent.key_records import KeyLifetimePolicy, KeyRecord
from skragent.errors import ReleaserError, SecretMemoryError
from skragent.job import UNIQUE_BYTES, Result, arena_bytes, unique_offset
from skragent.secretmem import Arena, create_arena

LIFE = TOKEN_LIFE_SECONDS
TOKEN = CachedToken(attestation(), BOOTTIME, "the.token", memoryview(b"unique"))
RETRY = failure("transport.timeout", "retry")


def serves(
    token: CachedToken = TOKEN, *, after: float = 0, **others: KeyRecord
) -> bool:
    records = {"disk": KeyRecord(), **others}
    now = BOOTTIME + after
    return can_release(token, ["disk"], records, boottime=now)


def test_a_token_serves_until_it_is_to_be_renewed() -> None:
    assert serves(after=0.79 * LIFE)
    assert not serves(after=0.8 * LIFE)


def test_it_serves_no_key_again_that_it_brought() -> None:
    assert serves(add_released(TOKEN, ["web"]))
    assert not serves(add_released(add_released(TOKEN, ["disk"]), ["web"]))


def test_it_serves_no_key_that_was_denied() -> None:
    assert serves(disk=KeyRecord(retry=RetryState(failures=3)))
    denied = RetryState(denials={"token.refused": RepeatedDenial(0.0, 1)})
    assert not serves(disk=KeyRecord(retry=denied))


def test_what_a_token_takes_is_not_in_its_repr() -> None:
    assert "the.token" not in repr(TOKEN)
    assert "memory" not in repr(TOKEN)


def attested(arena: Arena, keys: int) -> CachedToken | None:
    arena.view(unique_offset(keys), UNIQUE_BYTES)[:] = b"u" * UNIQUE_BYTES
    result = Result(attestation=attestation(), token="t")
    return cache_token(result, arena, key_count=keys, began_at=1.0)


def test_the_unique_field_is_kept_in_memory_that_can_be_mapped_no_more() -> None:
    before = sorted(pathlib.Path("/proc/self/fd").iterdir())
    arena = create_arena(arena_bytes(2))
    arena.close_fd()
    token = attested(arena, 2)
    assert token is not None
    arena.wipe()
    assert token.unique == b"u" * UNIQUE_BYTES
    assert sorted(pathlib.Path("/proc/self/fd").iterdir()) == before


def test_a_token_keeps_no_memory_of_keys() -> None:
    """What a job brought of a key that may not be held, or was dropped meanwhile."""
    arena = create_arena(arena_bytes(1))
    token, memory = attested(arena, 1), weakref.ref(arena.view(0, 1).obj)
    del arena
    assert token is not None
    assert memory() is None


def test_where_there_is_no_memory_for_it_no_token_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(size: int) -> Arena:
        raise SecretMemoryError(f"{size} bytes", code="memory.locked_limit")

    arena = create_arena(arena_bytes(1))
    monkeypatch.setattr(cached_token, "create_arena", refuse)
    assert attested(arena, 1) is None


def test_of_a_job_that_did_not_attest_nothing_is_kept() -> None:
    arena = create_arena(4096)
    assert cache_token(Result(), arena, key_count=1, began_at=1.0) is None


async def a_minute(world: World) -> None:
    await world.clock.advance(60)


def test_keys_that_take_turns_at_their_vault_share_an_attestation() -> None:
    world = run_scheduler(a_minute, *(f"k{number}" for number in range(25)))
    assert world.times == [0, 10, 20]
    assert world.jobs.attested == [True, False, False]


def test_a_key_whose_vault_is_in_trouble_is_requested_with_the_same_token() -> None:
    world = run_scheduler(a_minute, "disk", "web", failures={"disk": RETRY})
    assert len(world.jobs.asked) > 3
    assert world.jobs.attested[0]
    assert not any(world.jobs.attested[1:])


def test_a_key_that_stands_in_line_attests_once() -> None:
    async def an_hour(world: World) -> None:
        await world.clock.advance(3600)

    throttled = failure("transport.throttled", "retry")
    world = run_scheduler(an_hour, failures={"disk": throttled})
    assert len(world.jobs.asked) > 10
    assert sum(world.jobs.attested) == 1


def test_a_refresh_of_a_key_that_is_held_attests() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(2 * REFRESH_SECONDS)

    world = run_scheduler(test)
    assert world.jobs.attested == [True, True, True]


def test_a_key_with_its_own_refresh_attests_for_each() -> None:
    async def an_hour(world: World) -> None:
        await world.clock.advance(3600)

    world = run_scheduler(an_hour, policy=KeyLifetimePolicy(refresh_seconds=600))
    assert len(world.jobs.asked) > 5
    assert all(world.jobs.attested)


@pytest.mark.parametrize(
    ("code", "disposition"),
    [("release.denied.policy", "denied"), ("release.unverified", "reattest")],
)
def test_a_refused_key_is_requested_with_a_fresh_token(
    code: str, disposition: Word
) -> None:
    answer = failure(code, disposition)
    world = run_scheduler(a_minute, "disk", "web", failures={"disk": answer})
    assert len(world.jobs.asked) > 1
    assert all(world.jobs.attested)


async def _fail_once(world: World, trouble: Any) -> None:  # noqa: ANN401 - as Jobs.whole
    world.jobs.failures["disk"] = RETRY
    world.jobs.whole = trouble
    await world.clock.advance(3)
    world.jobs.whole = None
    await world.clock.advance(60)


@pytest.mark.parametrize(
    "trouble",
    [
        failure("token.wrapping_key", "reattest"),
        failure("evidence.tpm.busy", "retry"),
        ReleaserError("x", code="releaser.crashed"),
    ],
    ids=["PCRs changed", "busy", "crash"],
)
def test_after_a_job_that_failed_with_it_a_token_is_not_used_again(
    trouble: object,
) -> None:
    async def test(world: World) -> None:
        await _fail_once(world, trouble)

    world = run_scheduler(test, failures={"disk": RETRY})
    with_token = world.jobs.attested.index(False)
    assert world.jobs.attested[with_token + 1]


def test_an_order_to_refresh_takes_a_new_attestation() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(5)
        before = len(world.jobs.asked)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)
        assert world.jobs.attested[before]

    run_scheduler(test, failures={"disk": RETRY})


def test_an_order_while_a_job_runs_takes_a_new_attestation_too() -> None:
    async def test(world: World) -> None:
        def order() -> None:
            world.jobs.while_running = lambda: None
            world.scheduler.refresh(["web"])

        world.jobs.while_running = order
        await world.clock.advance(10)
        ordered = len(world.jobs.attested)
        assert sum(world.jobs.attested[:ordered]) == 2

    run_scheduler(test, "disk", "web", failures={"disk": RETRY, "web": RETRY})


def test_a_key_that_is_new_in_the_configuration_needs_no_attestation() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(60)
        keys = key_requests(make_config("disk", "late"))
        world.scheduler.configure(keys, dict.fromkeys(keys, KeyLifetimePolicy()))
        await world.clock.advance(1)

    world = run_scheduler(test)
    assert [aliases for _, aliases in world.jobs.asked] == [("disk",), ("late",)]
    assert world.jobs.attested == [True, False]


def test_a_key_released_with_a_kept_token_is_fresh_from_its_own_release() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(100)
        del world.jobs.failures["disk"]
        await world.clock.advance(60)
        first, last = world.jobs.asked[0][0], world.jobs.asked[-1][0]
        assert last > first
        life = world.scheduler.records["disk"]
        assert life.stale_at == last + LIFE
        assert life.retry.retry_at == last + REFRESH_SECONDS

    run_scheduler(test, "disk", failures={"disk": RETRY})
