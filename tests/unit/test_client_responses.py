"""What the client makes of an answer, and of what is none."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS

from skragent.client import AsyncSkragentClient, SkragentClient, SkragentError
from skragent.client.exchange import unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator


CLIENT = Path(__file__).resolve().parents[2] / "skragent" / "client"


@contextlib.contextmanager
def answering(directory: Path, answer: bytes) -> Iterator[tuple[Path, list[bytes]]]:
    """Response one request with these bytes."""
    path = directory / "s"
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(65536))
                with contextlib.suppress(OSError):
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path, asked
        thread.join(DEADLINE_SECONDS)


def failure(directory: Path, answer: bytes, *, is_async: bool = False) -> SkragentError:
    with (
        answering(directory, answer) as (path, _),
        pytest.raises(SkragentError) as caught,
    ):
        fetch_pem(path, is_async=is_async)
    return caught.value


def ok(media_type: bytes = b"application/x-pem-file", body: bytes = b"x") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (media_type, len(body)) + body


def fetch_pem(path: Path, *, is_async: bool) -> str:
    if is_async:
        return asyncio.run(AsyncSkragentClient(path).get_pem("db"))
    return SkragentClient(path).get_pem("db")


def test_a_name_is_quoted(tmp_path: Path) -> None:
    answer = ok()
    with answering(tmp_path, answer) as (path, asked):
        SkragentClient(str(path)).get_pem("a b/\r\n?é", version="1&2")
    assert asked[0].startswith(
        b"GET /v1/keys/a%20b%2F%0D%0A%3F%C3%A9?version=1%262 HTTP/1.1\r\n"
    )


def test_a_problem_document_is_an_error_with_its_code(tmp_path: Path) -> None:
    body = b'{"code": "serve.not_ready", "detail": "wait", "status": 503}'
    head = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\n"
    error = failure(
        tmp_path, head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert (error.code, error.status, error.detail, error.retry_after) == (
        "serve.not_ready",
        503,
        "wait",
        3.0,
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\nx" % (b"9" * 5000),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 2\xb20 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 500 No\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20000,
        b"a" * 20000,
        ok(b"text/html"),
        ok(b"application/json"),
        ok(body=b""),
        ok(body=b"\xff"),
        ok().replace(b"200", b"204"),
        ok().replace(b"200", b"206"),
        ok().replace(b"200", b"302"),
        b"HTTP/1.1 304 Not Modified\r\n\r\n",  # the request had no If-None-Match
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_an_answer_that_is_none_is_an_error(
    tmp_path: Path, answer: bytes, *, is_async: bool
) -> None:
    error = failure(tmp_path, answer, is_async=is_async)
    assert (error.code, error.is_temporary) == ("client.garbage", False)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", ok(body=b"key")[:-1]])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_that_ends_within_its_answer_may_come_back(
    tmp_path: Path, answer: bytes, *, is_async: bool
) -> None:
    error = failure(tmp_path, answer, is_async=is_async)
    assert (error.code, error.is_temporary) == ("client.unreachable", True)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"keys": {}}', b'{"keys": [1]}'])
def test_a_list_that_is_none_is_an_error(tmp_path: Path, body: bytes) -> None:
    with (
        answering(tmp_path, ok(b"application/json", body)) as (path, _),
        pytest.raises(SkragentError) as caught,
    ):
        SkragentClient(path).list_keys()
    assert caught.value.code == "client.garbage"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_refusal_before_the_request_is_read_is_reported(
    tmp_path: Path, *, is_async: bool
) -> None:
    body = b'{"code": "serve.connections", "detail": "too many", "status": 503}'
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                head = b"HTTP/1.1 503 X\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.sendall(head + body)
                connection.shutdown(socket.SHUT_RD)

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(SkragentError) as caught:
            fetch_pem(path, is_async=is_async)
        thread.join(DEADLINE_SECONDS)
    assert caught.value.code == "serve.connections"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_socket_without_permission_is_not_a_temporary_error(
    tmp_path: Path, *, is_async: bool
) -> None:
    # What connect(2) says where the mode forbids it; root is never told so.
    error = unreachable(str(tmp_path), PermissionError(13, "Permission denied"))
    assert (error.code, error.is_temporary) == ("client.forbidden", False)
    (tmp_path / "file").touch()
    with pytest.raises(SkragentError, match="is not a socket"):
        fetch_pem(tmp_path / "file", is_async=is_async)


@pytest.mark.parametrize("client", [SkragentClient, AsyncSkragentClient])
@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_a_mistake(
    client: type[SkragentClient | AsyncSkragentClient], timeout: float
) -> None:
    with pytest.raises(ValueError, match="timeout is more than 0"):
        client(timeout=timeout)


@pytest.mark.parametrize("wait", [-1, 301, float("nan")])
def test_a_wait_that_the_agent_would_refuse_is_a_mistake(wait: float) -> None:
    with pytest.raises(ValueError, match="wait is from 0 to 300"):
        SkragentClient().get_key("db", wait=wait)


def test_an_agent_that_drips_is_not_waited_for_longer_than_said(
    tmp_path: Path,
) -> None:
    path, over = tmp_path / "s", threading.Event()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                while not over.wait(SHORT_SECONDS / 5):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(SkragentError) as caught:
            SkragentClient(path, timeout=4 * SHORT_SECONDS).get_key("db")
        over.set()
        thread.join(DEADLINE_SECONDS)
    assert caught.value.code == "client.timeout"


def test_an_agent_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SkragentError) as caught:
        SkragentClient(str(tmp_path / "none")).get_key("db")
    assert (caught.value.code, caught.value.status) == ("client.unreachable", 0)


def test_an_agent_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(SkragentError) as caught:
            SkragentClient(str(path), timeout=SHORT_SECONDS).get_key("db")
    assert caught.value.code == "client.timeout"


def test_a_form_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="form is one of"):
        SkragentClient().get_bytes("db", "xml")


def modules_after(code: str, path: str) -> set[str]:
    """List what a fresh interpreter has imported after some code, beyond its own."""
    code = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
        f"{code}; print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, path],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def test_the_client_works_when_it_is_copied_alone(tmp_path: Path) -> None:
    shutil.copytree(CLIENT, tmp_path / "skragent" / "client")
    found = modules_after(
        "from skragent.client import *",  # asyncio's client is one of them
        str(tmp_path),
    )
    others = {name.partition(".")[0] for name in found} - sys.stdlib_module_names
    assert others == {"skragent"}


def test_the_synchronous_client_does_not_import_asyncio() -> None:
    found = modules_after("import skragent.client", str(CLIENT.parents[1]))
    assert found.isdisjoint(
        {"asyncio", "ssl", "http", "email", "urllib", "typing_extensions"}
    )
    assert len(found) < 60  # half of them json's and socket's; asyncio alone has 150
