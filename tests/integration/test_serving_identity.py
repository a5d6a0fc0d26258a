"""Real callers, as other users and in real control groups, and what the kernel says."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.callers import PASS_ON, Groups, Who, calling, listening, own_groups
from support.deadlines import DEADLINE_SECONDS
from support.serving import ALIAS, get, held_key, ring_with
from support.serving_server import RunningServer, serving

from skragent.serving import Access
from skragent.serving.access import Rule
from skragent.serving.peers import MAX_GROUPS, Peer, identify, probe_pidfd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

HAS_PIDFDS = probe_pidfd()
_SO_PEERPIDFD = 77


class OldSocket(socket.socket):
    """A socket of Linux before 6.5."""

    def getsockopt(self, level: int, option: int, *length: int) -> object:  # type: ignore[override]
        if option == _SO_PEERPIDFD:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        return super().getsockopt(level, option, *length)


@pytest.fixture
def groups() -> Iterator[Groups]:
    with own_groups() as made:
        yield made


def accept_and_identify(sock: socket.socket) -> Peer:
    connection, _ = sock.accept()
    with connection:
        return identify(connection, wants_unit=True)


def identify_from(groups: Groups, path: str) -> Peer:
    """Let a process of a control group connect, and identify it."""
    with listening() as (sock, name), calling(name) as caller:
        groups.put(caller.pid, path)
        caller.connect()
        peer = accept_and_identify(sock)
        assert peer.pid == caller.pid
    return peer


@pytest.mark.parametrize(
    "who", [(1234, 2345, []), (1234, 2345, [7, 70000]), (0, 0, []), (0, 5, [5, 6])]
)
def test_another_user_is_identified_by_numbers(who: Who) -> None:
    with listening() as (sock, name), calling(name, who=who) as caller:
        caller.connect()
        peer = accept_and_identify(sock)
    assert (peer.uid, peer.gid, peer.groups) == (who[0], who[1], frozenset(who[2]))


@pytest.mark.parametrize(
    ("count", "kept"),
    [(256, 256), (257, 2), (MAX_GROUPS, 2), (MAX_GROUPS + 1, 0)],
)
def test_a_caller_in_many_groups_keeps_those_of_rules(count: int, kept: int) -> None:
    who = (1234, 2345, list(range(100, 100 + count)))
    with listening() as (sock, name), calling(name, who=who) as caller:
        caller.connect()
        connection, _ = sock.accept()
        with connection:
            peer = identify(connection, gids=frozenset({101, 300, 99}))
    assert len(peer.groups) == kept
    assert not kept or {101, 300} <= peer.groups
    assert peer.is_member(2345)


def test_a_caller_in_very_many_groups_keeps_only_those_of_rules() -> None:
    """Least of all in group 0, which the unused part of a buffer is full of."""
    who = (1234, 2345, list(range(100, 400)))
    with listening() as (sock, name), calling(name, who=who) as caller:
        caller.connect()
        connection, _ = sock.accept()
        with connection:
            peer = identify(connection, gids=frozenset({0, 99, 101}))
    assert peer.groups == {101}


def test_a_passed_socket_keeps_the_identity_of_its_connector() -> None:
    with listening() as (sock, name), calling(name, script=PASS_ON) as caller:
        caller.connect()
        connection, _ = sock.accept()
        with connection:
            peer = identify(connection, wants_unit=True)
            taker = int(connection.recv(100))
    assert (peer.uid, peer.pid) == (1234, caller.pid)
    assert taker != caller.pid


def test_a_process_is_in_the_unit_of_its_control_group(groups: Groups) -> None:
    peer = identify_from(groups, "system.slice/app.service")
    assert (peer.unit, peer.user_unit) == ("app.service", "")
    assert peer.is_pinned is HAS_PIDFDS


@pytest.mark.parametrize(
    ("path", "unit", "user_unit"),
    [
        ("app.service/evil.service", "app.service", ""),
        ("a.slice/app@1.service/b.slice/evil.service", "app@1.service", ""),
        ("docker-01ab.scope/evil.service", "docker-01ab.scope", ""),
        (
            "user-7.slice/user@7.service/x.slice/w.service",
            "user@7.service",
            "w.service",
        ),
        ("docker/evil.service", "", ""),
    ],
)
def test_a_group_below_a_unit_is_not_a_unit(
    groups: Groups, path: str, unit: str, user_unit: str
) -> None:
    peer = identify_from(groups, path)
    assert (peer.unit, peer.user_unit) == (unit, user_unit)
    assert peer.is_pinned is (HAS_PIDFDS and unit != "")


def test_another_user_in_a_unit_is_identified_by_both(groups: Groups) -> None:
    who: Who = (1234, 1234, [])
    with listening() as (sock, name), calling(name, who=who) as caller:
        groups.put(caller.pid, "app.service")
        caller.connect()
        peer = accept_and_identify(sock)
    assert (peer.uid, peer.unit) == (1234, "app.service")


def test_a_caller_that_ended_before_accept_has_no_unit(groups: Groups) -> None:
    with listening() as (sock, name), calling(name) as caller:
        groups.put(caller.pid, "app.service")
        caller.connect()
        caller.end()
        peer = accept_and_identify(sock)
    assert peer.pid == caller.pid
    assert (peer.unit, peer.is_pinned) == ("", False)


def test_a_zombie_caller_has_no_unit(groups: Groups) -> None:
    with listening() as (sock, name), calling(name) as caller:
        groups.put(caller.pid, "app.service")
        caller.connect()
        caller.process.kill()
        os.waitid(os.P_PID, caller.pid, os.WEXITED | os.WNOWAIT)
        peer = accept_and_identify(sock)
    assert (peer.unit, peer.is_pinned) == ("", False)


def test_a_passed_socket_does_not_keep_the_unit_of_an_ended_process(
    groups: Groups,
) -> None:
    with listening() as (sock, name), calling(name, script=PASS_ON) as caller:
        groups.put(caller.pid, "app.service")
        caller.connect()
        caller.end()
        connection, _ = sock.accept()
        with connection:
            assert int(connection.recv(100)) != caller.pid  # the taker still has it
            peer = identify(connection, wants_unit=True)
    assert (peer.uid, peer.unit, peer.is_pinned) == (1234, "", False)


def test_without_peer_pidfds_a_unit_is_found_and_not_pinned(groups: Groups) -> None:
    with listening() as (sock, name), calling(name) as caller:
        groups.put(caller.pid, "app.service")
        caller.connect()
        accepted, _ = sock.accept()
        with OldSocket(fileno=accepted.detach()) as connection:
            peer = identify(connection, wants_unit=True)
    assert (peer.unit, peer.is_pinned) == ("app.service", False)


_IN_NAMESPACE = """
import os, socket, sys
sys.stdin.readline()
os.execvp("unshare", ["unshare", "--cgroup", sys.executable, "-c", *sys.argv[1:]])
"""
_SERVE_ONE = """
import socket, sys
from skragent.serving.peers import identify
sock = socket.socket(fileno=int(sys.argv[1]))
sock.setblocking(True)
connection, _ = sock.accept()
peer = identify(connection, wants_unit=True)
print(peer.pid, repr(peer.unit), flush=True)
"""


def test_a_caller_outside_our_cgroup_namespace_has_no_unit(groups: Groups) -> None:
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    with listening() as (sock, name), calling(name) as caller:
        groups.put(caller.pid, "app.service")
        with subprocess.Popen(
            [sys.executable, "-c", _IN_NAMESPACE, _SERVE_ONE, str(sock.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[sock.fileno()],
        ) as server:
            groups.put(server.pid, "agent.service")
            caller.connect()
            said, _ = server.communicate("\n", timeout=DEADLINE_SECONDS)
    assert said == f"{caller.pid} ''\n"


_ASK = """
import socket, sys
sys.stdin.readline()
caller = socket.socket(socket.AF_UNIX)
caller.connect(sys.argv[1])
caller.sendall(sys.argv[2].encode())
print(caller.recv(65536).split()[1].decode(), flush=True)
"""


def ask_from(groups: Groups, path: str, server: RunningServer) -> int:
    """Ask for the key from within a control group; the answer's status."""
    request = get(f"/v1/keys/{ALIAS}").decode()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _ASK, str(server.path), request],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as caller:
        groups.put(caller.pid, path)
        said, _ = caller.communicate("\n", timeout=DEADLINE_SECONDS)
    return int(said)


@pytest.mark.skipif(not HAS_PIDFDS, reason="needs peer pidfds (Linux 6.5)")
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("app.service", 200),
        ("a.slice/app.service/below", 200),
        ("b.service", 404),
        ("b.service/app.service", 404),
        ("docker/app.service", 404),
    ],
)
def test_a_rule_on_a_unit_allows_the_processes_of_the_unit(
    groups: Groups, tmp_path: Path, path: str, status: int
) -> None:
    access = Access({ALIAS: (Rule(unit="app.service"),)})
    with serving(tmp_path, ring_with(held_key()), access) as server:
        assert ask_from(groups, path, server) == status


@pytest.mark.skipif(not HAS_PIDFDS, reason="needs peer pidfds (Linux 6.5)")
def test_a_later_rule_on_a_unit_applies_to_later_connections(
    groups: Groups, tmp_path: Path
) -> None:
    access = Access({ALIAS: (Rule(uid=1234),)})
    with serving(tmp_path, ring_with(held_key()), access) as server:
        assert ask_from(groups, "app.service", server) == 404
        changed = Access({ALIAS: (Rule(unit="app.service"),)})
        server.call(lambda: server.api.change_access(changed))
        assert ask_from(groups, "app.service", server) == 200
