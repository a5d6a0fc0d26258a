"""What the clients send, how long they wait, and when they ask again; both alike."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.scripted_agent import agent, key, ok, problem

from skragent.client import AsyncSkragentClient, Key, SkragentClient, SkragentError
from skragent.client.exchange import pause_after

OCTETS = b"application/octet-stream"
PEM = ok(b"application/x-pem-file", b"pem")
UNCHANGED = b"HTTP/1.1 304 Not Modified\r\n\r\n"

both = pytest.mark.parametrize("is_async", [False, True])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace sleeping; return the durations."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("asyncio.sleep", sleep)
    return slept


def call(path: Path, method: str, *arguments: Any, is_async: bool, **more: Any) -> Any:  # noqa: ANN401 - any method's
    """Call a method of either client."""
    if not is_async:
        return getattr(SkragentClient(path), method)(*arguments, **more)

    async def test() -> object:
        awaitable: Awaitable[object] = getattr(AsyncSkragentClient(path), method)(
            *arguments, **more
        )
        return await awaitable

    return asyncio.run(test())


def watched(path: Path, count: int, *, is_async: bool) -> list[Key]:
    """Watch until there were so many keys."""
    if not is_async:
        return list(itertools.islice(SkragentClient(path).watch("db"), count))

    async def test() -> list[Key]:
        seen: list[Key] = []
        watch: AsyncIterator[Key] = AsyncSkragentClient(path).watch("db")
        while len(seen) < count:
            seen.append(await anext(watch))
        return seen

    return asyncio.run(test())


@both
@pytest.mark.parametrize(
    ("method", "arguments", "answer"),
    [
        pytest.param("get_key", ("db",), key(), id="jwk"),
        pytest.param("get_pem", ("db",), PEM, id="pem"),
        pytest.param("get_bytes", ("db", "raw"), key(OCTETS), id="raw"),
    ],
)
def test_version_and_wait_are_sent(
    path: Path,
    method: str,
    arguments: tuple[str, ...],
    answer: bytes,
    *,
    is_async: bool,
) -> None:
    with agent(path, answer) as requests:
        call(path, method, *arguments, "v", wait=0.5, is_async=is_async)
    assert requests[0].startswith(b"GET /v1/keys/db?version=v&wait=0.500 ")


@both
def test_a_public_half_is_waited_for_as_asked(path: Path, *, is_async: bool) -> None:
    with agent(path, key()) as requests:
        call(path, "get_public", "db", wait=7, is_async=is_async)
    assert requests[0].startswith(b"GET /v1/keys/db/public?wait=7.000 ")


@both
def test_a_request_without_wait_has_no_wait_parameter(
    path: Path, *, is_async: bool
) -> None:
    with agent(path, key()) as requests:
        call(path, "get_key", "db", is_async=is_async)
    assert requests[0].startswith(b"GET /v1/keys/db HTTP/1.1\r\n")


def test_the_agent_may_hold_a_request_for_longer_than_the_timeout(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []
    real = socket.socket.settimeout

    def settimeout(sock: socket.socket, seconds: float | None) -> None:
        allowed.append(seconds or 0.0)
        real(sock, seconds)

    with agent(path, key()):
        monkeypatch.setattr(socket.socket, "settimeout", settimeout)
        SkragentClient(path, timeout=DEADLINE_SECONDS).get_key("db", wait=100)
    # The agent looks at its watch each second.
    assert 100 < allowed[-1] <= 100 + DEADLINE_SECONDS + 2


def test_the_agent_may_hold_a_request_for_longer_than_the_timeout_on_asyncio(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[float] = []
    real = asyncio.timeout

    def timeout(seconds: float) -> asyncio.Timeout:
        allowed.append(seconds)
        return real(seconds)

    monkeypatch.setattr("asyncio.timeout", timeout)
    client = AsyncSkragentClient(path, timeout=DEADLINE_SECONDS)
    with agent(path, key()):
        asyncio.run(client.get_key("db", wait=100))
    assert allowed == [100 + DEADLINE_SECONDS + 2]


@both
def test_a_watcher_asks_for_what_is_newer_than_it_has(
    path: Path, *, is_async: bool
) -> None:
    with agent(path, key(version="1"), key(version="2")) as requests:
        keys = watched(path, 2, is_async=is_async)
    assert [one.version for one in keys] == ["1", "2"]
    assert b"If-None-Match" not in requests[0]
    assert b'\r\nIf-None-Match: "1"\r\n' in requests[1]
    assert all(b"?wait=60.000 " in request for request in requests)


@both
@pytest.mark.parametrize(
    "nothing_new", [UNCHANGED, key(version="1")], ids=["unchanged", "the same"]
)
def test_a_watcher_is_given_no_version_twice(
    path: Path, nothing_new: bytes, *, is_async: bool
) -> None:
    with agent(path, key(version="1"), nothing_new, key(version="2")):
        keys = watched(path, 2, is_async=is_async)
    assert [one.version for one in keys] == ["1", "2"]


@both
def test_a_watcher_pauses_as_long_as_the_agent_asks(
    path: Path, pauses: list[float], *, is_async: bool
) -> None:
    busy = problem(503, "serve.busy", more=b"Retry-After: 3\r\n")
    with agent(path, busy, key(version="1")):
        assert watched(path, 1, is_async=is_async)[0].version == "1"
    assert pauses == [3.0]


@both
def test_a_watcher_does_not_go_on_where_time_cannot_mend_it(
    path: Path, pauses: list[float], *, is_async: bool
) -> None:
    with (
        agent(path, problem(404, "serve.denied")),
        pytest.raises(SkragentError) as caught,
    ):
        watched(path, 1, is_async=is_async)
    assert caught.value.code == "serve.denied"
    assert pauses == []


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [(None, 1.0), (0.4, 0.5), (0.5, 0.5), (7.0, 7.0), (60.0, 60.0), (61.0, 60.0)],
)
def test_a_pause_is_as_the_agent_says_within_reason(
    retry_after: float | None, seconds: float
) -> None:
    error = SkragentError("serve.busy", 503, "busy", retry_after)
    assert pause_after(error) == seconds


@pytest.mark.parametrize(
    ("status", "is_temporary"),
    [(408, True), (429, True), (503, True), (404, False), (406, False), (500, False)],
)
def test_what_may_pass_with_time_is_told_from_what_will_not(
    path: Path, status: int, *, is_temporary: bool
) -> None:
    with (
        agent(path, problem(status, "serve.x")),
        pytest.raises(SkragentError) as caught,
    ):
        SkragentClient(path).get_key("db")
    assert caught.value.is_temporary is is_temporary


@both
def test_the_error_for_an_unavailable_form_lists_the_available_ones(
    path: Path, *, is_async: bool
) -> None:
    formats = ["application/jwk+json", "application/x-pem-file"]
    refusal = problem(406, "serve.not_acceptable", formats=formats)
    with agent(path, refusal), pytest.raises(SkragentError) as caught:
        call(path, "get_bytes", "db", "raw", is_async=is_async)
    assert caught.value.formats == formats


@pytest.mark.parametrize(
    ("headers", "is_stale"),
    [
        ({"skragent-state": "stale"}, True),
        ({"skragent-state": "current"}, False),
        ({}, False),
    ],
)
def test_only_a_key_that_is_said_to_be_stale_is(
    headers: dict[str, str], *, is_stale: bool
) -> None:
    assert Key("db", headers, b"").is_stale is is_stale


@pytest.mark.parametrize(("age", "seconds"), [("7", 7.0), ("0", 0.0), ("", 0.0)])
def test_a_keys_age_is_as_the_agent_says(age: str, seconds: float) -> None:
    assert Key("db", {"age": age}, b"").age_seconds == seconds


@pytest.fixture
def refusing(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse a connection before the client sends: send(2) gives EPIPE."""
    refused = threading.Event()
    send = socket.socket.sendall
    loop_class = asyncio.SelectorEventLoop
    loop_send: Callable[..., Any] = loop_class.sock_sendall

    def sendall(sock: socket.socket, data: bytes) -> None:
        assert refused.wait(DEADLINE_SECONDS)
        send(sock, data)

    async def sock_sendall(loop: object, sock: socket.socket, data: bytes) -> None:
        assert refused.wait(DEADLINE_SECONDS)
        await loop_send(loop, sock, data)

    monkeypatch.setattr(socket.socket, "sendall", sendall)
    monkeypatch.setattr(loop_class, "sock_sendall", sock_sendall)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(DEADLINE_SECONDS)

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.send(problem(503, "serve.connections"))
            refused.set()

        thread = threading.Thread(target=refuse)
        thread.start()
        yield
        thread.join(DEADLINE_SECONDS)


@both
@pytest.mark.usefixtures("refusing")
def test_a_refusal_before_the_request_is_sent_is_reported(
    path: Path, *, is_async: bool
) -> None:
    with pytest.raises(SkragentError) as caught:
        call(path, "get_key", "db", is_async=is_async)
    assert caught.value.code == "serve.connections"
