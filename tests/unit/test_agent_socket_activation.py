from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS

from skragent.agent.socket_activation import (
    ADMIN,
    API,
    Inherited,
    UnixSocket,
    bind_metrics,
    inherited_sockets,
)
from skragent.agent.systemd_notify import Notifier
from skragent.errors import ListenError

if TYPE_CHECKING:
    from pathlib import Path


def code_of(path: Path) -> str:
    with pytest.raises(ListenError) as caught:
        UnixSocket(API, str(path))
    return caught.value.code


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_the_socket_listens_at_once(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        assert connects(tmp_path / "s")


def test_the_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660


def test_the_umask_is_as_it_was(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with UnixSocket(API, str(tmp_path / "s")):
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_the_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_agents_socket_is_not_removed_at_the_end(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        (tmp_path / "s").rename(tmp_path / "ours")
        (tmp_path / "s").touch()
    assert (tmp_path / "s").exists()


def test_a_socket_with_a_listener_is_not_replaced(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        assert code_of(tmp_path / "s") == "listen.in_use"
        assert connects(tmp_path / "s")


def test_a_socket_without_a_listener_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with UnixSocket(API, str(tmp_path / "s")):
        assert connects(tmp_path / "s")


def test_a_file_in_its_place_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    assert code_of(tmp_path / "s") == "listen.not_a_socket"
    assert (tmp_path / "s").read_text() == "precious"


def test_a_link_to_a_socket_is_refused(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "real")):
        (tmp_path / "s").symlink_to(tmp_path / "real")
        assert code_of(tmp_path / "s") == "listen.not_a_socket"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nowhere" / "s") == "listen.failed"


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    assert code_of(tmp_path / ("s" * 120)) == "listen.failed"


def test_an_inherited_socket_is_used_and_its_file_left(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(tmp_path / "s"))
        inherited.listen()
        with UnixSocket(API, "/nowhere", inherited) as api:
            assert api.sock is inherited
        assert (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),  # and not listening
    ],
)
def test_another_inherited_socket_is_refused(
    family: socket.AddressFamily, kind: socket.SocketKind
) -> None:
    with socket.socket(family, kind) as inherited:
        with pytest.raises(ListenError) as caught:
            UnixSocket(API, "/nowhere", inherited)
        assert caught.value.code == "listen.inherited"


def test_nothing_is_inherited_where_systemd_did_not_start_us() -> None:
    assert inherited_sockets({}) == Inherited({})


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("[::1]", socket.AF_INET6)]
)
def test_the_metrics_listen_on_the_configured_address(
    host: str, family: socket.AddressFamily
) -> None:
    bound = bind_metrics(f"{host}:0")
    with bound:
        assert bound.family == family
        assert bound.getsockname()[0] == host.strip("[]")


def test_a_metrics_port_in_use_is_named_with_its_address() -> None:
    first = bind_metrics("127.0.0.1:0")
    with first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(ListenError) as caught:
            bind_metrics(address)
        assert caught.value.code == "listen.in_use"
        assert address in caught.value.message


def test_a_metrics_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(ListenError) as caught:
        bind_metrics("192.0.2.1:9469")
    assert caught.value.code == "listen.failed"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """systemd's end of NOTIFY_SOCKET; libsystemd reads the real environment."""
    pytest.importorskip("systemd.daemon", reason="needs systemd-python")
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(tmp_path / "notify"))
    notified.settimeout(DEADLINE_SECONDS)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return notified


def test_systemd_is_notified_of_start_status_and_end(
    systemd: socket.socket,
) -> None:
    with systemd:
        notifier = Notifier(os.environ)
        notifier.ready("0 of 1 keys held")
        notifier.status("1 of 1 keys held")
        notifier.stopping()
        said = [systemd.recv(4096) for _ in range(3)]
    assert said == [
        b"READY=1\nSTATUS=0 of 1 keys held",
        b"STATUS=1 of 1 keys held",
        b"STOPPING=1",
    ]


def test_a_status_is_sent_once(systemd: socket.socket) -> None:
    with systemd:
        notifier = Notifier(os.environ)
        for status in ("one", "one", "two"):
            notifier.status(status)
        assert [systemd.recv(4096) for _ in range(2)] == [b"STATUS=one", b"STATUS=two"]


def test_without_notify_socket_nothing_is_sent(systemd: socket.socket) -> None:
    with systemd:
        Notifier({}).ready("x")
        systemd.settimeout(0)
        with pytest.raises(BlockingIOError):
            systemd.recv(4096)


def test_only_its_owner_may_connect_to_the_admin_socket(tmp_path: Path) -> None:
    with UnixSocket(ADMIN, str(tmp_path / "s")):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


def test_systemd_keeps_a_descriptor_and_lets_go_of_it(systemd: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    with systemd, ours, theirs:
        notifier = Notifier(os.environ)
        name = notifier.store_connection(ours.fileno())
        said, fds, _, _ = socket.recv_fds(systemd, 4096, 2)
        assert said == f"FDSTORE=1\nFDNAME={name}".encode()
        with socket.socket(fileno=fds[0]) as kept:
            kept.send(b"x")
            assert theirs.recv(1) == b"x"
        notifier.remove_fd(name)
        assert systemd.recv(4096) == f"FDSTOREREMOVE=1\nFDNAME={name}".encode()


def test_no_two_descriptors_are_kept_under_one_name(systemd: socket.socket) -> None:
    with systemd:
        notifier = Notifier(os.environ)
        names = {notifier.store_connection(systemd.fileno()) for _ in range(10)}
    assert len(names) == 10


def test_without_notify_socket_a_descriptor_is_not_stored() -> None:
    notifier = Notifier({})
    assert notifier.store_connection(0) == ""
    assert notifier.store_key(0) == ""
    notifier.remove_fd("")


@pytest.mark.parametrize("value", ["", "abc", "-1", "9" * 400, "1000"])
def test_a_number_of_descriptors_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    pytest.importorskip("systemd.daemon", reason="needs systemd-python")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", value)
    with pytest.raises(ListenError) as caught:
        inherited_sockets(os.environ)
    assert caught.value.code == "listen.inherited"


def test_a_file_that_is_handed_over_is_closed() -> None:
    """As OpenFile= of a drop-in does."""
    pytest.importorskip("systemd.daemon", reason="needs systemd-python")
    program = (
        "import os\n"
        "from skragent.agent.socket_activation import inherited_sockets\n"
        "inherited = inherited_sockets(os.environ)\n"
        "assert not inherited.listeners and not inherited.credentials\n"
        "assert not os.path.exists('/proc/self/fd/3')\n"
    )
    variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=extra:credential-1"
    script = f'{variables} exec "$@" 3</etc/passwd 4</etc/passwd'
    command = ["/bin/sh", "-c", script, "-", sys.executable, "-c", program]
    done = subprocess.run(command, check=False, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0
