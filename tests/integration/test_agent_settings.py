"""What is configured holds in the daemon that runs: bounds, and rules on units."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.agent_process import Agent
from support.deadlines import DEADLINE_SECONDS
from support.serving import ReceivedResponse, split_responses
from support.serving_credentials import CredentialRequest
from support.serving_server import read_all

from skragent.agent.signals_and_limits import count_descriptors
from skragent.cli.agent_requests import TIMEOUT_SECONDS
from skragent.client.exchange import Request, exchange
from skragent.config import ServingConfig
from skragent.serving import Limits

LIMITS = Limits()
TOO_LONG = 431
NO_METRICS = 'metrics_listen = ""'
ALLOW_ME = f"allow = [{{ user = {os.getuid()} }}]\n"
ALLOW_UNIT = 'allow = [{ unit = "web.service" }]\n'

# The daemon on a kernel that does not know SO_PEERPIDFD: before Linux 6.5.
WITHOUT_PIDFD = """
import runpy, sys
from skragent.serving import peers
peers._SO_PEERPIDFD = 32767
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    with contextlib.ExitStack() as ended:

        def begin(text: str, *before: str, setting: str = NO_METRICS) -> Agent:
            before = before or (sys.executable,)
            agent = Agent(tmp_path, "hang", agent=setting, text=text, before=before)
            ended.callback(agent.notified.close)
            ended.callback(agent.process.communicate)
            ended.callback(agent.process.kill)
            return agent

        yield begin


def ready(agent: Agent) -> Agent:
    agent.until_notified(b"READY=1")
    return agent


def said_until(agent: Agent, what: str) -> str:
    """Read what it logs, up to the first line with this in it."""
    assert agent.process.stderr is not None
    said = ""
    for line in agent.process.stderr:
        said += line.decode()
        if what in said:
            break
    return said


def serving_with(name: str, value: int) -> str:
    return f"{ALLOW_ME}[serving]\n{name} = {value}\n"


def head_of(size: int) -> bytes:
    start, end = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


def all_answers(connection: socket.socket, requests: bytes) -> list[ReceivedResponse]:
    with connection:
        connection.settimeout(DEADLINE_SECONDS)
        connection.sendall(requests)
        connection.shutdown(socket.SHUT_WR)
        return split_responses(read_all(connection))


def ask(connection: socket.socket, request: bytes) -> int:
    """Ask, and give the status of the answer."""
    (answer,) = all_answers(connection, request)
    return answer.status


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


@pytest.mark.parametrize("name", ["api", "admin"])
def test_each_socket_limits_the_head_of_a_request(
    start: Callable[..., Agent], name: str
) -> None:
    agent = ready(start(ALLOW_ME))
    path = agent.socket.with_name(f"{name}.sock")
    assert ask(connected(path), head_of(LIMITS.head_bytes)) == 200
    assert ask(connected(path), head_of(LIMITS.head_bytes + 1)) == TOO_LONG


def test_the_metrics_port_limits_the_head_of_a_request(
    start: Callable[..., Agent],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ready(start(ALLOW_ME, setting=f'metrics_listen = "127.0.0.1:{port}"'))
    address = ("127.0.0.1", port)
    head = head_of(LIMITS.head_bytes)
    assert ask(socket.create_connection(address), head) == 200
    head = head_of(LIMITS.head_bytes + 1)
    assert ask(socket.create_connection(address), head) == TOO_LONG


def test_admin_sock_limits_the_body_of_a_request(
    start: Callable[..., Agent],
) -> None:
    agent = ready(start(ALLOW_ME))
    path = agent.socket.with_name("admin.sock")
    head = b"POST /v1/refresh HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    body = b'{"keys": ["disk"]}'.ljust(LIMITS.body_bytes)
    assert ask(connected(path), head % len(body) + body) == 202
    assert ask(connected(path), head % (len(body) + 1) + body + b" ") == 413


def test_a_user_may_have_half_of_the_configured_connections(
    start: Callable[..., Agent],
) -> None:
    agent = ready(start(serving_with("connections", 4)))
    request = b"GET /v1/keys HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(agent.socket) as first:
        first.sendall(request)
        assert first.recv(65536).startswith(b"HTTP/1.1 200")
        with connected(agent.socket) as second:
            second.sendall(request)
            assert second.recv(65536).startswith(b"HTTP/1.1 200")
            with connected(agent.socket) as refused:
                refused.settimeout(DEADLINE_SECONDS)
                (answer,) = split_responses(read_all(refused))
    assert (answer.status, answer.code) == (503, "serve.connections")


@pytest.mark.root
def test_a_unit_waits_for_its_credential_as_long_as_configured(
    start: Callable[..., Agent],
) -> None:
    text = f"{ALLOW_UNIT}[serving]\ncredential_wait_seconds = 0\n"
    agent = ready(start(text))
    assert CredentialRequest(
        agent.socket.with_name("credentials.sock"), "disk"
    ).is_rejected()


def unit_rules_of(agent: Agent) -> str:
    path = str(agent.socket.with_name("admin.sock"))
    status = exchange(path, Request("/v1/status"), TIMEOUT_SECONDS).document()
    return str(status["unit_rules"])


def test_rules_on_units_hold_where_the_kernel_has_peer_pidfds(
    start: Callable[..., Agent],
) -> None:
    agent = ready(start(ALLOW_UNIT))
    assert unit_rules_of(agent) == "pinned"
    agent.process.terminate()
    assert "pidfd" not in said_until(agent, "SIGTERM")


@pytest.mark.parametrize(
    ("setting", "how", "told"),
    [("false", "ignored", "match no caller"), ("true", "not pinned", "by process ids")],
)
def test_rules_on_units_without_peer_pidfds_hold_as_configured(
    start: Callable[..., Agent], setting: str, how: str, told: str
) -> None:
    setting = f"{NO_METRICS}\nunit_rules_without_pidfd = {setting}"
    before = (sys.executable, "-c", WITHOUT_PIDFD)
    agent = ready(start(ALLOW_UNIT, *before, setting=setting))
    assert unit_rules_of(agent) == how
    assert told in said_until(agent, told)


def test_the_daemon_may_open_as_many_descriptors_as_it_admits(
    start: Callable[..., Agent],
) -> None:
    limited = ("sh", "-c", 'ulimit -Sn 200; exec "$@"', "-", sys.executable)
    agent = ready(start(serving_with("connections", 30), *limited))
    soft, _ = resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE)
    assert soft == count_descriptors(ServingConfig(connections=30))


def test_a_machine_that_allows_too_few_descriptors_is_told_of(
    start: Callable[..., Agent],
) -> None:
    limited = ("sh", "-c", 'ulimit -n 200; exec "$@"', "-", sys.executable)
    agent = ready(start(ALLOW_ME, *limited))
    assert "200 descriptors are allowed" in said_until(agent, "LimitNOFILE")
