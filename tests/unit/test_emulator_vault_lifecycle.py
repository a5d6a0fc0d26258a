"""The emulated vaults' deleted keys: permissions, times, and what a restart keeps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.azure import API, World

from skragent.emulator.keyvault.key_store import KeyStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from skragent.emulator.keyvault.access_control import Permission

DAY_SECONDS = 86400


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.create(world.vault, "k")
    yield world
    world.azure.clear_hooks()


def _status(world: World, method: str, path: str, body: object = None) -> int:
    return world.ask(world.vault, method, f"{path}{API}", body).status


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("DELETE", "/keys/k", "delete"),
        ("POST", "/keys/k/rotate", "rotate"),
        ("POST", "/keys/k/backup", "backup"),
        ("POST", "/keys/restore", "restore"),
        ("GET", "/deletedkeys", "list"),
        ("GET", "/deletedkeys/k", "get"),
        ("DELETE", "/deletedkeys/k", "purge"),
        ("POST", "/deletedkeys/k/recover", "recover"),
    ],
)
def test_operation_needs_its_own_permission(
    world: World, method: str, path: str, permission: Permission
) -> None:
    world.vault.access.suspended = frozenset((permission,))
    answer = world.ask(world.vault, method, f"{path}{API}", {})
    assert answer.status == 403
    message = json.loads(answer.body)["error"]["message"]
    assert f" keys {permission} permission " in message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/keys/k/0123456789abcdef0123456789abcdef", 405),
        ("POST", "/keys/k/0123456789abcdef0123456789abcdef/rotate", 405),
        ("POST", "/deletedkeys/k/recover/again", 405),
        ("PATCH", "/deletedkeys/k", 405),
        ("POST", "/deletedkeys", 405),
        ("GET", "/rng", 404),
        ("GET", "/keys/k/rotationpolicy", 405),
        ("PUT", "/keys/k/rotationpolicy", 405),
        ("GET", "/deletedkeys/k", 404),
    ],
)
def test_route_that_azure_does_not_have_is_refused(
    world: World, method: str, path: str, status: int
) -> None:
    assert _status(world, method, path) == status


def test_target_without_a_path_is_not_found(world: World) -> None:
    assert world.ask(world.vault, "OPTIONS", f"*{API}").status == 404


def test_disabled_key_can_be_deleted_but_not_rotated(world: World) -> None:
    change = {"attributes": {"enabled": False}}
    assert _status(world, "PATCH", "/keys/k", change) == 200
    assert _status(world, "POST", "/keys/k/rotate") == 403
    assert _status(world, "DELETE", "/keys/k") == 200


@pytest.mark.parametrize(("days", "status"), [(6.99, 200), (7.01, 404)])
def test_deleted_key_is_purged_when_its_time_has_come(
    world: World, days: float, status: int
) -> None:
    assert _status(world, "DELETE", "/keys/k") == 200
    world.azure.clock.skew_seconds = days * DAY_SECONDS
    assert _status(world, "GET", "/deletedkeys/k") == status


def test_restart_keeps_deleted_keys(world: World) -> None:
    assert _status(world, "DELETE", "/keys/k") == 200
    store = KeyStore(world.vault.store._directory)
    assert (store.names, store.deleted_names) == ([], ["k"])
    assert store.recover("k").deleted is None
    store = KeyStore(world.vault.store._directory)
    assert (store.names, store.deleted_names) == (["k"], [])


def test_key_that_a_fault_hides_is_backed_up_as_it_is(world: World) -> None:
    world.vault.mutate("key", lambda _: None)
    assert _status(world, "GET", "/keys/k") == 404
    assert _status(world, "POST", "/keys/k/backup") == 200
