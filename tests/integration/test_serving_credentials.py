"""credentials.sock, asked as systemd asks; the VM's tests ask with a real one."""

from __future__ import annotations

import logging
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.serving import ALIAS, FORMS, held_key, ring_with
from support.serving_credentials import (
    TOO_MUCH,
    UNIT,
    CredentialRequest,
    OneRule,
    RunningCredentials,
    Systemd,
)

from skragent.keyring import Keyring, KeyState
from skragent.serving.credential_protocol import has_begun, mark_begun

pytestmark = pytest.mark.root  # systemd is root
RULE = OneRule(UNIT, ALIAS)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def server(directory: Path) -> Iterator[RunningCredentials]:
    ring = ring_with(held_key(), held_key("other"))
    with RunningCredentials(directory, ring, RULE) as running:
        yield running


@pytest.mark.parametrize(
    ("credential", "form"),
    [("db", "pem"), ("db.pem", "pem"), ("db.der", "der"), ("db.jwk", "jwk")],
)
def test_the_name_of_a_credential_chooses_the_form(
    server: RunningCredentials, credential: str, form: str
) -> None:
    expected = dict(FORMS)[form]  # type: ignore[index]
    assert CredentialRequest(server.path, credential).read() == expected


def test_a_symmetric_key_without_a_suffix_is_its_bytes(
    directory: Path,
) -> None:
    ring = ring_with(held_key(forms={"jwk": b"{}", "raw": b"k" * 32}))
    with RunningCredentials(directory, ring, RULE) as server:
        assert CredentialRequest(server.path, "db").read() == b"k" * 32
        assert is_rejected(CredentialRequest(server.path, "db.pem"))


def is_rejected(request: CredentialRequest) -> bool:
    """Return whether the unit fails: it got too many bytes, and not the key."""
    data = request.read()
    assert b"secret" not in data
    return len(data) > TOO_MUCH


@pytest.mark.parametrize(
    "credential", ["unknown", "other", "db.raw", "db.txt", "db.pem.pem", ".pem", "db."]
)
def test_a_denied_credential_makes_the_unit_fail(
    server: RunningCredentials, credential: str
) -> None:
    assert is_rejected(CredentialRequest(server.path, credential))


def test_another_unit_fails(server: RunningCredentials) -> None:
    assert is_rejected(CredentialRequest(server.path, "db", unit="evil.service"))


@pytest.mark.parametrize(
    "address",
    [
        b"\0nothing of systemd's",
        b"\0ab/unit/web.service",
        b"\0ab/unit/web.service/db/db",
        b"\0xy/unit/web.service/db",
        b"\0ab/unit/web/db",
        b"\0ab/unit/../web.service/db",
        b"\0ab/unit/web.service/d\xff",
        b"\0" + b"ab/unit/web.service/" + b"d" * 80,
    ],
)
def test_an_address_of_another_kind_is_rejected(
    server: RunningCredentials, address: bytes
) -> None:
    assert is_rejected(CredentialRequest(server.path, address))


def test_a_caller_without_an_address_is_rejected(server: RunningCredentials) -> None:
    request = CredentialRequest.__new__(CredentialRequest)
    request.sock = socket.socket(socket.AF_UNIX)
    request.sock.settimeout(DEADLINE_SECONDS)
    request.sock.connect(str(server.path))
    assert is_rejected(request)


def test_an_address_of_systemd_counts_only_from_uid_0(
    server: RunningCredentials,
) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    code = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_UNIX)\n"
        "s.bind(b'\\0ab12/unit/web.service/db')\n"
        "s.connect(sys.argv[1])\n"
        "n=0\n"
        "while c:=s.recv(65536):\n"
        "    n+=len(c); assert b'secret' not in c\n"
        "print(n)\n"
    )
    command = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"]
    command += ["/usr/bin/python3", "-c", code, str(server.path)]
    done = subprocess.run(
        command, capture_output=True, check=True, timeout=DEADLINE_SECONDS
    )
    assert int(done.stdout) > TOO_MUCH


def test_a_unit_waits_for_a_key_that_is_not_held_yet(directory: Path) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(directory, ring, RULE) as server:
        request = CredentialRequest(server.path, "db.pem")
        server.until_waiting()
        assert not request.has_response()
        server.call(lambda: ring.put(held_key()))
        assert request.read() == FORMS["pem"]


def test_the_wait_of_a_unit_has_a_limit(directory: Path) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(directory, ring, RULE, wait_seconds=0.0) as server:
        assert is_rejected(CredentialRequest(server.path, "db"))


def test_a_waiting_unit_gets_a_key_that_was_denied_in_between(
    directory: Path,
) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(directory, ring, RULE) as server:
        request = CredentialRequest(server.path, "db.pem")
        server.until_waiting()
        server.call(lambda: ring.mark(ALIAS, KeyState.DENIED))
        server.call(lambda: ring.put(held_key()))
        assert request.read() == FORMS["pem"]


def test_a_waiting_unit_fails_when_its_rule_is_removed(directory: Path) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(directory, ring, RULE) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        nobody = OneRule("x.service", ALIAS)
        server.call(lambda: server.server.change_access(nobody))  # type: ignore[arg-type]
        assert is_rejected(request)


def test_a_unit_that_stops_while_it_waits_is_removed(directory: Path) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(directory, ring, RULE) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        request.sock.close()
        server.until_waiting(0)
        assert server.systemd.kept == {}


def test_an_orderly_stop_makes_waiting_units_fail(directory: Path) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(directory, ring, RULE) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        received: list[bool] = []
        reader = threading.Thread(target=lambda: received.append(is_rejected(request)))
        reader.start()
        server.end()
        reader.join(DEADLINE_SECONDS)
        assert received == [True]


def test_a_served_connection_leaves_the_descriptor_store(
    server: RunningCredentials,
) -> None:
    CredentialRequest(server.path, "db").read()
    CredentialRequest(server.path, "unknown").read()
    server.until_waiting(0)
    assert server.systemd.kept == {}
    assert server.call(lambda: server.counters.connections["credentials"]) == 0


def test_responses_and_rejections_are_counted(server: RunningCredentials) -> None:
    for credential in ("db", "db.pem", "unknown", "db.raw"):
        CredentialRequest(server.path, credential).read()
    assert server.answered() == {"ok": 2, "serve.denied": 2}


def test_a_key_that_the_socket_accepts_in_part_makes_the_unit_fail(
    directory: Path,
) -> None:
    """A part of a key would be a credential, too."""
    ring = ring_with(held_key(forms={"raw": b"k" * 900_000}))
    with RunningCredentials(directory, ring, RULE) as server:
        assert is_rejected(CredentialRequest(server.path, "db"))
        assert server.answered() == {"internal": 1}


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.serving import ALIAS, ring_with
from support.serving_credentials import OneRule, RunningCredentials, UNIT
import threading
with RunningCredentials(Path(sys.argv[1]), ring_with(waiting=[ALIAS]),
                        OneRule(UNIT, ALIAS)) as server:
    print(server.path, flush=True)
    server.until_waiting()
    (name, kept), = server.systemd.kept.items()
    import socket
    out = socket.socket(socket.AF_UNIX)
    out.connect(sys.argv[2])
    socket.send_fds(out, [name.encode()], [kept.fileno()])
    threading.Event().wait()
"""


def test_an_agent_killed_before_its_response_leaves_no_empty_credential(
    directory: Path,
) -> None:
    keeper = socket.socket(socket.AF_UNIX)  # PID 1: it gets the stored descriptor
    keeper.bind(str(directory / "keeper"))
    keeper.listen()
    tests = str(Path(__file__).resolve().parents[1])
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            CHILD.format(tests=tests),
            directory,
            directory / "keeper",
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        request = CredentialRequest(Path(child.stdout.readline().strip()), "db.pem")
        with keeper, keeper.accept()[0] as channel:
            name, fds, _, _ = socket.recv_fds(channel, 100, 1)
        child.kill()
        child.wait(DEADLINE_SECONDS)
    assert not request.has_response()
    systemd = Systemd()
    systemd.kept[name.decode()] = socket.socket(fileno=fds[0])
    with RunningCredentials(
        directory,
        ring_with(held_key()),
        RULE,
        systemd=systemd,
        restored=systemd.hand_over(),
    ):
        assert request.read() == FORMS["pem"]
    assert systemd.kept == {}


@pytest.mark.parametrize("sent", [FORMS["pem"], b"", bytes(1000)])
def test_a_connection_that_a_killed_agent_may_have_served_is_rejected(
    directory: Path, sent: bytes
) -> None:
    """The agent was killed before, within or after its response."""
    systemd = Systemd()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "before"))
        listener.listen()
        request = CredentialRequest(directory / "before", "db.pem")
        connection, _ = listener.accept()
        systemd.store_connection(connection.fileno())
        with connection:
            mark_begun(connection)
            connection.sendall(sent)
    with RunningCredentials(
        directory,
        ring_with(held_key()),
        RULE,
        systemd=systemd,
        restored=systemd.hand_over(),
    ):
        data = request.read()
    assert len(data) > TOO_MUCH
    assert data.count(b"secret") == sent.count(b"secret")
    assert systemd.kept == {}


@pytest.mark.parametrize("state", [KeyState.CURRENT, None])
def test_a_connection_is_marked_before_the_first_byte(
    directory: Path, state: KeyState | None
) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(directory, ring, RULE) as server:
        request = CredentialRequest(server.path, "db.pem")
        server.until_waiting()
        (stored,) = server.systemd.kept.values()
        with stored.dup() as copy:
            assert not has_begun(copy)
            if state is None:
                server.call(lambda: server.server.change_access(OneRule("x", "y")))  # type: ignore[arg-type]
            else:
                server.call(lambda: ring.put(held_key()))
            assert request.read()
            assert has_begun(copy)


def test_a_slowly_read_rejection_is_complete_before_the_stop(
    directory: Path,
) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(directory, ring, RULE) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        ending = threading.Thread(target=server.end)
        ending.start()
        assert select.select([request.sock], [], [], DEADLINE_SECONDS)[0]
        for _ in range(10):
            server.settle()  # it has nothing else to do any more, and does not end
        assert is_rejected(request)
        ending.join(DEADLINE_SECONDS)


def test_the_journal_has_the_reason_of_a_rejection_by_unit(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ring: Keyring = ring_with(held_key())
    with RunningCredentials(directory, ring, RULE) as server:
        CredentialRequest(server.path, "db", unit="evil.service").read()
        CredentialRequest(server.path, "db.pem").read()
    refused, served = (
        vars(record) for record in caplog.records if hasattr(record, "SKRAGENT_UNIT")
    )
    assert refused["OBJECT_SYSTEMD_UNIT"] == "evil.service"
    assert refused["SKRAGENT_CODE"] == "serve.denied"
    assert served["OBJECT_SYSTEMD_UNIT"] == UNIT
    assert served["SKRAGENT_CREDENTIAL"] == "db.pem"
