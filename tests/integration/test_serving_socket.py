"""Real sockets, a real uvloop, real callers."""

from __future__ import annotations

import contextlib
import resource
import select
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_MILLISECONDS, DEADLINE_SECONDS
from support.serving import (
    ALIAS,
    FORMS,
    ME,
    NEXT_VERSION,
    VERSION,
    get,
    held_key,
    ring_with,
    split_responses,
)
from support.serving_server import (
    RunningServer,
    read_all,
    serving,
    serving_child,
)

from skragent.client import SkragentClient, SkragentError
from skragent.keyring import KeyState
from skragent.serving import Access, Limits
from skragent.serving.access import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = get(f"/v1/keys/{ALIAS}")
LAST_KEY = get(f"/v1/keys/{ALIAS}", "Connection: close")
BIG = b"k" * 8000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with serving(tmp_path, ring_with(held_key(), waiting=["later"])) as running:
        yield running


def test_the_client_fetches_every_form(server: RunningServer) -> None:
    client = SkragentClient(str(server.path))
    key = client.get_key(ALIAS)
    assert (key.version, key.jwk["kty"]) == (VERSION, "RSA")
    assert client.get_pem(ALIAS).encode() == FORMS["pem"]
    assert client.get_bytes(ALIAS, "der", version=VERSION) == FORMS["der"]
    assert [one["name"] for one in client.list_keys()] == [ALIAS, "later"]


def test_the_client_gets_the_reason_of_an_error(server: RunningServer) -> None:
    client = SkragentClient(str(server.path))
    with pytest.raises(SkragentError) as caught:
        client.get_key("later")
    assert (caught.value.code, caught.value.status) == ("serve.not_ready", 503)
    assert caught.value.retry_after == 1.0


def test_many_requests_on_one_connection(server: RunningServer) -> None:
    with server.connect() as connection:
        connection.sendall(KEY * 200 + LAST_KEY)
        responses = split_responses(read_all(connection))
    assert [response.body for response in responses] == [FORMS["jwk"]] * 201


def test_a_half_closed_caller_gets_its_response(server: RunningServer) -> None:
    assert server.ask(KEY).body == FORMS["jwk"]


def test_an_error_before_unread_bytes_ends_without_a_reset(
    server: RunningServer,
) -> None:
    with server.connect() as connection:
        with server.paused():
            connection.sendall(b"nonsense\r\n\r\n" + b"x" * 40_000)
        (response,) = split_responses(read_all(connection))
    assert response.status == 400


def test_a_rotation_reaches_open_connections(server: RunningServer) -> None:
    with server.connect() as connection:
        connection.sendall(KEY)
        first = connection.recv(65536)
        server.call(lambda: server.ring.put(held_key(version=NEXT_VERSION)))
        connection.sendall(LAST_KEY)
        responses = split_responses(first + read_all(connection))
    assert [a.headers["ETag"] for a in responses] == [
        f'"{VERSION}"',
        f'"{NEXT_VERSION}"',
    ]


def test_a_stalled_reader_gets_complete_responses(tmp_path: Path) -> None:
    ring = ring_with(held_key(forms={"jwk": BIG}))
    with serving(tmp_path, ring) as server, server.connect() as connection:
        connection.sendall(KEY * 100)  # 800 kB of answers: more than a socket holds
        server.call(lambda: ring.put(held_key(forms={"jwk": BIG[::-1] + b"."})))
        connection.sendall(LAST_KEY)
        responses = split_responses(read_all(connection))
    assert len(responses) == 101
    assert {response.body for response in responses} <= {BIG, BIG[::-1] + b"."}


def test_a_stalled_reader_never_reads_a_wiped_key(tmp_path: Path) -> None:
    ring = ring_with(held_key(forms={"jwk": BIG}))
    with serving(tmp_path, ring) as server, server.connect() as connection:
        connection.sendall(KEY * 100)
        server.ask(get("/healthz"))  # what came before was answered, up to the stall
        server.call(lambda: ring.drop(ALIAS, KeyState.DENIED))
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(1 << 20):
                received += chunk
    assert 0 < len(received) < 100 * len(BIG)
    assert b"\0" not in received


def test_a_stalled_reader_does_not_delay_others(tmp_path: Path) -> None:
    ring = ring_with(held_key(forms={"jwk": BIG}))
    with serving(tmp_path, ring) as server, server.connect() as connection:
        connection.sendall(KEY * 100)
        assert server.ask(KEY).body == BIG


def test_a_reader_that_stalls_for_too_long_is_aborted(tmp_path: Path) -> None:
    ring = ring_with(held_key(forms={"jwk": BIG}))
    limits = Limits(send_timeout_seconds=0)
    with serving(tmp_path, ring, limits=limits) as server:
        with server.connect() as connection:
            connection.sendall(KEY * 100)
            wait_for_end(connection)
        assert server.ask(KEY).status == 200


def wait_for_end(connection: socket.socket) -> None:
    """Wait, without reading, until the other end is gone."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    assert poll.poll(DEADLINE_MILLISECONDS)


def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    limits = Limits(idle_timeout_seconds=0)
    with (
        serving(tmp_path, ring_with(), limits=limits) as server,
        server.connect() as connection,
    ):
        assert connection.recv(1) == b""


def test_an_unfinished_request_is_rejected(tmp_path: Path) -> None:
    limits = Limits(head_timeout_seconds=0)
    with (
        serving(tmp_path, ring_with(), limits=limits) as server,
        server.connect() as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        (response,) = split_responses(read_all(connection))
    assert (response.status, response.code) == (408, "serve.timeout")


def test_a_connection_above_the_limit_is_rejected(tmp_path: Path) -> None:
    limits = Limits(connections_per_uid=1)
    with (
        serving(tmp_path, ring_with(), limits=limits) as server,
        server.connect() as first,
    ):
        first.sendall(get("/healthz"))
        first.recv(65536)
        with server.connect() as second:
            (response,) = split_responses(read_all(second))
    assert (response.status, response.code) == (503, "serve.connections")


def test_a_closed_socket_accepts_no_connection(tmp_path: Path) -> None:
    with serving(tmp_path, ring_with(held_key())) as server:
        path = server.path
        connection = server.connect()
    with connection:
        assert connection.recv(1) == b""
    with pytest.raises(SkragentError) as caught:
        SkragentClient(str(path)).list_keys()
    assert caught.value.code == "client.unreachable"


def test_metrics_are_served_on_loopback(server: RunningServer) -> None:
    server.ask(KEY)
    url = f"http://127.0.0.1:{server.metrics_port}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=DEADLINE_SECONDS) as response:
        page = response.read().decode()
        assert response.headers["Content-Type"].startswith("text/plain")
    assert 'skragent_key_available{key="db"} 1.0' in page
    assert 'skragent_key_available{key="later"} 0.0' in page
    assert 'skragent_socket_requests_total{code="ok",op="get",socket="api"} 1.0' in page
    with urllib.request.urlopen(f"{url}/healthz", timeout=DEADLINE_SECONDS) as response:
        assert response.status == 200


def test_keys_are_not_served_on_loopback(server: RunningServer) -> None:
    with socket.create_connection(
        ("127.0.0.1", server.metrics_port), DEADLINE_SECONDS
    ) as connection:
        connection.sendall(KEY + LAST_KEY.replace(b"GET", b"POST"))
        responses = split_responses(read_all(connection))
    assert [response.status for response in responses] == [404, 405]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users may enter, as pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def ask_as(path: Path, uid: int, gid: int, groups: str = "") -> int:
    """Ask for the key with another process's identity; the answer's status."""
    for tool in ("setpriv", "curl"):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}")
    identity = [f"--reuid={uid}", f"--regid={gid}"]
    identity.append(f"--groups={groups}" if groups else "--clear-groups")
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
    curl += ["--unix-socket", str(path), f"http://localhost/v1/keys/{ALIAS}"]
    done = subprocess.run(
        ["setpriv", *identity, *curl],
        check=True,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
    )
    return int(done.stdout)


MANY = ",".join(str(gid) for gid in range(3000, 3400))


@pytest.mark.root
@pytest.mark.parametrize(
    ("rule", "caller", "status"),
    [
        (Rule(uid=1234), (1234, 1234, ""), 200),
        (Rule(uid=1234), (1235, 1234, ""), 404),
        (Rule(uid=0), (1234, 0, ""), 404),
        (Rule(gid=2000), (1234, 2000, ""), 200),
        (Rule(gid=2000), (1234, 1234, "1,2000"), 200),
        (Rule(gid=2000), (1234, 1234, "2001"), 404),
        (Rule(gid=3399), (1234, 1234, MANY), 200),
        (Rule(uid=1234, gid=2000), (1234, 1234, "2000"), 200),
        (Rule(uid=1234, gid=2000), (1234, 1234, ""), 404),
        (Rule(uid=1234, gid=2000), (1235, 2000, ""), 404),
    ],
)
def test_the_kernel_identifies_the_caller(
    open_directory: Path, rule: Rule, caller: tuple[int, int, str], status: int
) -> None:
    with serving(open_directory, ring_with(held_key()), Access({ALIAS: (rule,)})) as s:
        assert ask_as(s.path, *caller) == status


@pytest.mark.root
def test_the_connections_of_one_user_leave_some_for_another_user(
    open_directory: Path,
) -> None:
    access = Access({ALIAS: (ME, Rule(uid=1234))})
    limits = Limits(connections_per_uid=1)
    with (
        serving(open_directory, ring_with(held_key()), access, limits) as server,
        server.connect() as mine,
    ):
        mine.sendall(KEY)
        mine.recv(65536)
        assert ask_as(server.path, 1234, 1234) == 200


WAITING = get("/v1/keys/later?wait=60")


def test_a_half_closed_long_poll_is_served(server: RunningServer) -> None:
    with server.connect() as connection:
        connection.sendall(WAITING)
        connection.shutdown(socket.SHUT_WR)
        wait_for_parked(server, 1)
        server.call(lambda: server.ring.put(held_key("later")))
        (response,) = split_responses(read_all(connection))
    assert response.body == FORMS["jwk"]


def test_a_long_poll_of_a_closed_caller_ends(server: RunningServer) -> None:
    connection = server.connect()
    connection.sendall(WAITING)
    wait_for_parked(server, 1)
    connection.close()
    wait_for_parked(server, 0)


def wait_for_parked(server: RunningServer, count: int) -> None:
    server.until(lambda: server.waiting() == count)


@pytest.mark.root
def test_an_agent_out_of_descriptors_accepts_again_later(
    tmp_path: Path,
) -> None:
    with serving_child(tmp_path, b"the key", "canary") as (pid, path):
        with connect(path) as first:
            first.sendall(PEM)
            assert first.recv(65536)
            used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, used))
            second = connect(path)
            second.sendall(PEM)
            first.sendall(PEM)  # open connections are still served
            assert first.recv(65536)
            assert not select.select([second], [], [], 0)[0]
        with second:
            assert second.recv(65536).endswith(b"the key")


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_SECONDS)
    connection.connect(str(path))
    return connection


PEM = get(f"/v1/keys/{ALIAS}", "Accept: application/x-pem-file")


@pytest.mark.parametrize("more", [b"", b"x" * 50_000])
def test_a_long_poll_ends_when_its_caller_closes(tmp_path: Path, more: bytes) -> None:
    """Also where nothing is read any more: all was sent, or too much."""
    with serving(tmp_path, ring_with(waiting=["later"])) as server:
        admission = server.api._listener.admission
        with server.connect() as connection:
            connection.sendall(get("/v1/keys/later?wait=300") + more)
            connection.shutdown(socket.SHUT_WR)
            server.until(
                lambda: any(c.is_long_polling and not c._is_reading for c in admission)
            )
        server.until(lambda: not admission)


def test_a_caller_with_all_metrics_connections_locks_out_no_scraper(
    tmp_path: Path,
) -> None:
    with (
        serving(tmp_path, ring_with(held_key())) as server,
        contextlib.ExitStack() as stack,
    ):
        address = ("127.0.0.1", server.metrics_port)
        for _ in range(60):
            stack.enter_context(socket.create_connection(address))
        for _ in range(3):
            with socket.create_connection(address) as scraper:
                scraper.sendall(get("/metrics", "Connection: close"))
                (response,) = split_responses(read_all(scraper))
                assert response.status == 200
