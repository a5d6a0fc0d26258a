"""Notifications to systemd. A failure is logged once and is not an error."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS

from skragent.agent.systemd_notify import Notifier
from skragent.observe import Event

MESSAGES: list[Callable[[Notifier], object]] = [
    lambda n: n.ready("0 of 1 keys held"),
    lambda n: n.status("one"),
    lambda n: n.alive(),
    lambda n: n.reloading(),
    lambda n: n.reloaded(),
    lambda n: n.store_connection(0),
    lambda n: n.remove_fd("credential-1"),
    lambda n: n.stopping(),
]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if vars(record)["MESSAGE_ID"] == Event.NOTIFY_FAILED.message_id
    ]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nonexistent/notify", "No such file or directory"),
        ("/dev/null", "Connection refused"),
        ("/", "Connection refused"),
        ("@skragent-nobody-listens-here", "Connection refused"),
        ("vsock:2:1234", "it is neither a path nor an abstract name"),
        ("vsock-stream:2:1234", "it is neither a path nor an abstract name"),
        ("relative/path", "it is neither a path nor an abstract name"),
        ("", "it is neither a path nor an abstract name"),
        ("@", "it is neither a path nor an abstract name"),
        ("/" + "x" * 200, "AF_UNIX path too long"),
        ("/\udcff", "No such file or directory"),
    ],
)
def test_an_unusable_address_is_logged_and_not_raised(
    path: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": path})
    for _ in range(3):
        for tell in MESSAGES:
            tell(notifier)
    (line,) = logged(caplog)
    assert why in line
    assert "The agent goes on." in line


def test_a_descriptor_that_could_not_be_stored_has_no_name() -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/nonexistent/notify"})
    assert notifier.store_connection(0) == ""


def receiver(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(DEADLINE_SECONDS)
    sock.bind(path)
    return sock


def test_an_abstract_name_is_notified() -> None:
    name = f"skragent-test-{os.getpid()}"
    with receiver(f"\0{name}") as systemd:
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert systemd.recv(100) == b"WATCHDOG=1"


def test_a_socket_that_disappears_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notify"
    notifier = Notifier({"NOTIFY_SOCKET": str(path)})
    with receiver(str(path)) as systemd:
        notifier.ready("0 of 1 keys held")
        assert systemd.recv(100) == b"READY=1\nSTATUS=0 of 1 keys held"
    notifier.alive()
    path.unlink()
    notifier.alive()
    assert notifier.store_connection(0) == ""
    assert len(logged(caplog)) == 1
    with receiver(str(path)) as systemd:
        notifier.alive()
        assert systemd.recv(100) == b"WATCHDOG=1"


def test_a_receiver_that_does_not_read_does_not_keep_the_event_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """net.unix.max_dgram_qlen says how many datagrams a socket keeps."""
    path = tmp_path / "notify"
    with receiver(str(path)) as systemd:
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        filled = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 2
        for _ in range(filled):
            notifier.alive()
        assert len(logged(caplog)) == 1
        for _ in range(10_000):  # each at once: all of them would take minutes
            notifier.alive()
        assert systemd.recv(100) == b"WATCHDOG=1"
        notifier.stopping()  # the queue is empty again
        last = b""
        systemd.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                last = systemd.recv(100)
        assert last == b"STOPPING=1"


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
        received = [systemd.recv(4096) for _ in range(3)]
    assert received == [
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


def test_systemd_stores_and_removes_a_descriptor(systemd: socket.socket) -> None:
    ours, theirs = socket.socketpair()
    with systemd, ours, theirs:
        notifier = Notifier(os.environ)
        name = notifier.store_connection(ours.fileno())
        message, fds, _, _ = socket.recv_fds(systemd, 4096, 2)
        assert message == f"FDSTORE=1\nFDNAME={name}".encode()
        with socket.socket(fileno=fds[0]) as stored:
            stored.send(b"x")
            assert theirs.recv(1) == b"x"
        notifier.remove_fd(name)
        assert systemd.recv(4096) == f"FDSTOREREMOVE=1\nFDNAME={name}".encode()


def test_each_stored_descriptor_has_its_own_name(systemd: socket.socket) -> None:
    with systemd:
        notifier = Notifier(os.environ)
        names = {notifier.store_connection(systemd.fileno()) for _ in range(10)}
    assert len(names) == 10


def test_without_notify_socket_a_descriptor_is_not_stored() -> None:
    notifier = Notifier({})
    assert notifier.store_connection(0) == ""
    assert notifier.store_key(0) == ""
    notifier.remove_fd("")
