"""The client for workloads, both of its kinds, against the real server."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS
from support.serving import (
    ALIAS,
    FORMS,
    NEXT_VERSION,
    VERSION,
    held_key,
    key_of,
    ring_with,
)
from support.serving_server import RunningServer, serving

from skragent.client import AsyncSkragentClient, Key, SkragentClient, SkragentError
from skragent.keyring import KeyState
from skragent.serving import Limits

PUBLIC = '{"kty":"RSA","n":"AQAB"}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    held = held_key()
    key = key_of(ALIAS, VERSION, dict(held.forms), PUBLIC, "public pem")
    with serving(tmp_path, ring_with(key, waiting=["later"])) as running:
        yield running


def test_a_key_tells_its_version_age_and_staleness(server: RunningServer) -> None:
    client = SkragentClient(str(server.path))
    key = client.get_key(ALIAS)
    assert (key.version, key.age_seconds, key.is_stale) == (VERSION, 60.0, False)
    assert key.released_at == 1767225600.0
    server.call(lambda: server.ring.mark(ALIAS, KeyState.STALE))
    assert client.get_key(ALIAS).is_stale


def test_a_key_shows_none_of_its_bytes(server: RunningServer) -> None:
    key = SkragentClient(str(server.path)).get_key(ALIAS)
    assert "secret" not in f"{key!r} {key}"


def test_the_public_half_is_fetched(server: RunningServer) -> None:
    client = SkragentClient(str(server.path))
    assert client.get_public(ALIAS).jwk["n"] == "AQAB"
    assert client.get_public(ALIAS, "pem").raw == b"public pem"


def test_a_key_is_waited_for(server: RunningServer) -> None:
    client = SkragentClient(str(server.path))
    with server.as_soon_as_one_waits(lambda: server.ring.put(held_key("later"))):
        key = client.get_pem("later", wait=DEADLINE_SECONDS)
    assert key.encode() == FORMS["pem"]


def test_a_key_that_does_not_come_is_not_ready(server: RunningServer) -> None:
    with pytest.raises(SkragentError) as caught:
        SkragentClient(str(server.path)).get_pem("later", wait=0.1)
    assert caught.value.code == "serve.not_ready"
    assert caught.value.is_temporary


def test_the_status_names_the_caller(server: RunningServer) -> None:
    status = SkragentClient(str(server.path)).status()
    assert [key["name"] for key in status["keys"]] == [ALIAS, "later"]
    assert status["you"]["pid"] > 0


def test_a_watcher_gets_the_key_and_each_new_version(server: RunningServer) -> None:
    watch = SkragentClient(str(server.path)).watch(ALIAS)
    assert next(watch).version == VERSION
    rotated = held_key(version=NEXT_VERSION)
    with server.as_soon_as_one_waits(lambda: server.ring.put(rotated)):
        assert next(watch).version == NEXT_VERSION


def test_a_watcher_of_what_is_not_for_it_is_told(server: RunningServer) -> None:
    with pytest.raises(SkragentError) as caught:
        next(SkragentClient(str(server.path)).watch("unknown"))
    assert caught.value.code == "serve.denied"


def test_a_watcher_survives_a_restart_of_the_agent(tmp_path: Path) -> None:
    watch = SkragentClient(str(tmp_path / "api.sock")).watch(ALIAS)
    seen: list[Key] = []
    reader = threading.Thread(target=lambda: seen.extend(itertools.islice(watch, 2)))
    reader.start()  # there is no agent yet
    limits = Limits(requests_per_second_per_uid=100)
    with serving(tmp_path, ring_with(held_key()), limits=limits) as first:
        while not seen:
            first.call(lambda: None)
    (tmp_path / "api.sock").unlink()
    with serving(tmp_path, ring_with(held_key(version=NEXT_VERSION)), limits=limits):
        reader.join(DEADLINE_SECONDS)
    assert [key.version for key in seen] == [VERSION, NEXT_VERSION]


def test_the_asyncio_client_has_every_method(server: RunningServer) -> None:
    async def test() -> None:
        client = AsyncSkragentClient(str(server.path))
        assert (await client.get_key(ALIAS)).version == VERSION
        assert (await client.get_pem(ALIAS)).encode() == FORMS["pem"]
        assert await client.get_bytes(ALIAS, "der", VERSION) == FORMS["der"]
        assert (await client.get_public(ALIAS)).jwk["n"] == "AQAB"
        assert len(await client.list_keys()) == 2
        assert (await client.status())["state"] == "degraded"
        with pytest.raises(SkragentError) as caught:
            await client.get_key("unknown")
        assert caught.value.code == "serve.denied"

    asyncio.run(test())


def test_a_watcher_on_asyncio_gets_each_new_version(server: RunningServer) -> None:
    async def test() -> list[str]:
        seen = []
        async for key in AsyncSkragentClient(str(server.path)).watch(ALIAS):
            seen.append(key.version)
            if len(seen) == 2:
                break
            server.call(lambda: server.ring.put(held_key(version=NEXT_VERSION)))
        return seen

    assert asyncio.run(test()) == [VERSION, NEXT_VERSION]


def test_a_call_that_is_cancelled_waits_no_longer(server: RunningServer) -> None:
    async def test() -> None:
        client = AsyncSkragentClient(str(server.path))
        task = asyncio.create_task(client.get_key("later", wait=60))
        while not server.waiting():  # noqa: ASYNC110 - the server's end of it
            await asyncio.sleep(0)
        task.cancel()
        while server.waiting():  # noqa: ASYNC110 - the same
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(test(), DEADLINE_SECONDS))


def test_no_agent_is_told_on_asyncio(tmp_path: Path) -> None:
    async def test() -> str:
        with pytest.raises(SkragentError) as caught:
            await AsyncSkragentClient(str(tmp_path / "none")).list_keys()
        return caught.value.code

    assert asyncio.run(test()) == "client.unreachable"


def test_an_agent_that_does_not_answer_is_told(tmp_path: Path) -> None:
    import socket  # noqa: PLC0415 - this test's only

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        client = AsyncSkragentClient(str(tmp_path / "s"), timeout=SHORT_SECONDS)
        with pytest.raises(SkragentError) as caught:
            asyncio.run(client.list_keys())
        assert caught.value.code == "client.timeout"
        with pytest.raises(SkragentError) as caught:
            SkragentClient(str(tmp_path / "s"), timeout=SHORT_SECONDS).list_keys()
        assert caught.value.code == "client.timeout"
