"""What systemd keeps of held keys if a notification or memory fails."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from collections.abc import Iterator

import pytest
from support.agent import BOOTTIME, FakeClock, released_key

from skragent.agent.key_records import KeyLifetimePolicy, KeyRecord
from skragent.agent.preserved_keys import PreservedKeys
from skragent.job import KeyRequest, Slice
from skragent.keyring import (
    HeldKey,
    Keyring,
    KeyState,
    PreservedRecord,
    hold_key,
    read_held_key,
)
from skragent.secretmem import adopt_arena, create_arena

REQUEST = KeyRequest(alias="disk", vault="https://v.vault.azure.net", name="disk")
OTHER_VERSION = "f" * 32
NOBODY = 65534


def has_secret_memory() -> bool:
    arena = create_arena(1)
    arena.close_fd()
    return arena.is_secret


pytestmark = pytest.mark.skipif(
    not has_secret_memory(), reason="needs memfd_secret(2): secretmem.enable=1"
)


class Systemd:
    """Keeps descriptors, unless it does not read its queue."""

    is_wanted = True

    def __init__(self) -> None:
        self.is_reading = True
        self.kept: dict[str, int] = {}
        self.count = 0

    def store_key(self, fd: int) -> str:
        if not self.is_reading:
            return ""
        self.count += 1
        name = f"key-{self.count}"
        self.kept[name] = os.dup(fd)
        return name

    def remove_fd(self, name: str) -> bool:
        if self.is_reading and name in self.kept:
            os.close(self.kept.pop(name))
        return self.is_reading

    def versions(self) -> list[str]:
        """What the next agent would read."""
        arenas = [adopt_arena(os.dup(fd)) for fd in self.kept.values()]
        for arena in arenas:
            arena.preserve(is_preserved=True)
        return [read_held_key(arena)[1].version for arena in arenas]


class World:
    def __init__(self) -> None:
        self.systemd = Systemd()
        self.keyring = Keyring(["disk"])
        self.preserved = PreservedKeys(self.systemd)  # type: ignore[arg-type]
        self.keyring.on_parting(self.preserved.forget)

    def hold(self, *, keeps_previous: bool = False, **changes: object) -> HeldKey:
        """Hold a release as the reporter does."""
        arena = create_arena(4096)
        arena.close_fd()
        arena.view(0, 5)[:] = b"hello"
        key = released_key("disk", **({"forms": {"raw": Slice(0, 5)}} | changes))
        record = PreservedRecord(
            vault=REQUEST.vault,
            name=REQUEST.name,
            key=key,
            released_at=0.0,
            began_at=BOOTTIME,
            stale_at=BOOTTIME + 3600,
        )
        held = hold_key(record, arena)
        self.preserved.preserve(held)
        self.keyring.put(held, keeps_previous=keeps_previous)
        return held

    def restore(self) -> dict[str, KeyRecord]:
        """Restore what systemd keeps, as the next agent does."""
        stored = [(name, os.dup(fd)) for name, fd in self.systemd.kept.items()]
        self.keyring = Keyring(["disk"])
        self.preserved = PreservedKeys(self.systemd)  # type: ignore[arg-type]
        return self.preserved.restore(
            stored,
            self.keyring,
            {"disk": REQUEST},
            {"disk": KeyLifetimePolicy()},
            FakeClock(),
        )


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for fd in world.systemd.kept.values():
        os.close(fd)


def test_the_old_copy_stays_until_the_new_one_is_stored(world: World) -> None:
    old = world.hold()
    world.systemd.is_reading = False
    new = world.hold(version=OTHER_VERSION)
    world.systemd.is_reading = True
    assert world.systemd.versions() == [old.version]
    world.preserved.repeat()
    assert world.systemd.versions() == [new.version]
    assert new.memory is not None
    assert new.memory.fd == -1


def test_the_old_copy_is_intact_after_its_key_is_gone(world: World) -> None:
    world.hold()
    world.systemd.is_reading = False
    world.hold()
    world.keyring.close(is_preserved=world.preserved.__contains__)
    world.systemd.is_reading = True
    assert world.restore()["disk"].is_held


def test_one_failure_after_another_leaves_the_last_release(world: World) -> None:
    world.hold()
    world.systemd.is_reading = False
    world.hold()
    world.hold(version=OTHER_VERSION)
    world.preserved.repeat()
    world.systemd.is_reading = True
    world.preserved.repeat()
    assert world.systemd.versions() == [OTHER_VERSION]


def test_a_dropped_key_is_not_stored_later_and_its_old_copy_goes(world: World) -> None:
    world.hold()
    world.systemd.is_reading = False
    world.hold()
    world.systemd.is_reading = True
    world.keyring.drop("disk", KeyState.DENIED)
    world.preserved.repeat()
    assert world.systemd.kept == {}


def test_a_removal_that_failed_is_repeated(world: World) -> None:
    world.hold()
    world.systemd.is_reading = False
    world.keyring.drop("disk", KeyState.DENIED)
    world.systemd.is_reading = True
    world.preserved.repeat()
    assert world.systemd.kept == {}


def test_the_version_before_stays_stored_beside_one_that_is_not(world: World) -> None:
    old = world.hold()
    world.systemd.is_reading = False
    new = world.hold(version=OTHER_VERSION, keeps_previous=True)
    world.systemd.is_reading = True
    world.preserved.repeat()
    assert set(world.systemd.versions()) == {old.version, new.version}
    world.keyring.end_overlap("disk")
    assert world.systemd.versions() == [new.version]


def test_an_agent_that_systemd_did_not_start_keeps_no_descriptor(world: World) -> None:
    world.systemd.is_wanted = False
    memory = world.hold().memory
    assert memory is not None
    assert memory.fd == -1


@contextlib.contextmanager
def no_locked_memory() -> Iterator[None]:
    """As with a LimitMEMLOCK= that is used up, which binds no root."""
    limits, user = resource.getrlimit(resource.RLIMIT_MEMLOCK), os.geteuid()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, limits[1]))
    os.seteuid(user or NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)


def test_a_key_that_cannot_be_mapped_now_waits_for_the_next_agent(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.hold()
    with no_locked_memory():
        assert world.restore() == {}
    assert world.preserved.has_any
    assert "LimitMEMLOCK=" in caplog.text
    assert world.restore()["disk"].is_held


def test_memory_without_a_key_is_removed_and_waits_for_no_agent(world: World) -> None:
    world.hold().wipe()
    assert world.restore() == {}
    assert world.systemd.kept == {}
    assert not world.preserved.has_any
