"""Units that wait for a credential: until the key arrives, the time is over, or the
unit stops; and connections made in the meantime."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.serving import ALIAS, FORMS, held_key, ring_with
from support.serving_credentials import (
    TOO_MUCH,
    UNIT,
    CredentialRequest,
    OneRule,
    RunningCredentials,
)

from skragent.serving import systemd_credentials

pytestmark = pytest.mark.root  # systemd is root
RULE = OneRule(UNIT, ALIAS)


def test_connections_above_the_limit_wait_in_the_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_credentials, "MAX_CONNECTIONS", 2)
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(tmp_path, ring, RULE) as server:
        first, second = (CredentialRequest(server.path, "db.pem") for _ in range(2))
        server.until_waiting(2)
        third = CredentialRequest(server.path, "db.pem")
        server.settle()
        assert len(server.systemd.kept) == 2
        first.sock.close()
        server.call(lambda: ring.put(held_key()))
        assert [one.read() for one in (second, third)] == [FORMS["pem"]] * 2


def test_a_rejected_unit_does_not_get_the_key_later(tmp_path: Path) -> None:
    """Not even where it has not read its refusal when the key comes."""
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(tmp_path, ring, RULE) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        nobody = OneRule("x.service", ALIAS)
        server.call(lambda: server.server.change_access(nobody))  # type: ignore[arg-type]
        assert server.counters.in_flight["credentials"] == 0
        server.call(lambda: server.server.change_access(RULE))  # type: ignore[arg-type]
        server.call(lambda: ring.put(held_key()))
        assert request.is_rejected()
        assert server.answered() == {"serve.denied": 1}


def test_a_served_unit_is_not_rejected_later(tmp_path: Path) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(tmp_path, ring, RULE) as server:
        request = CredentialRequest(server.path, "db.pem")
        server.until_waiting()
        (waiting,) = server.server._requests.values()
        deadline = waiting.deadline
        assert deadline is not None
        server.call(lambda: ring.put(held_key()))
        assert request.read() == FORMS["pem"]
        assert deadline.cancelled()


def test_a_unit_that_stops_when_its_key_arrives_disturbs_no_other_unit(
    tmp_path: Path,
) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(tmp_path, ring, RULE) as server:
        stopped, other = (CredentialRequest(server.path, "db.pem") for _ in range(2))
        server.until_waiting(2)

        def stop_and_put() -> None:  # so that the server does not see it in between
            stopped.sock.close()
            ring.put(held_key())

        server.call(stop_and_put)
        assert other.read() == FORMS["pem"]
        server.settle()
        assert server.systemd.kept == {}
        assert server.answered() == {"ok": 1}


def test_an_unread_rejection_does_not_delay_the_stop(tmp_path: Path) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(tmp_path, ring, RULE, reject_seconds=0.0) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        server.end()
        assert server.systemd.kept == {}
        assert server.counters.connections["credentials"] == 0
        assert len(request.read()) < TOO_MUCH  # it was cut


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (
            "release.denied.policy",
            "did not get the key within 0 s: release.denied.policy",
        ),
        ("", "did not get the key within 0 s"),
    ],
)
def test_a_rejection_after_the_wait_logs_the_last_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, failure: str, why: str
) -> None:
    ring = ring_with(waiting=[ALIAS])
    ring.note_failure(ALIAS, failure)
    with RunningCredentials(tmp_path, ring, RULE, wait_seconds=0.0) as server:
        assert CredentialRequest(server.path, "db").is_rejected()
    messages = [record.getMessage() for record in caplog.records]
    assert [message for message in messages if message.endswith(why)] == messages
    assert len(messages) == 1


def test_a_unit_that_stops_while_it_waits_is_removed_at_once(
    tmp_path: Path,
) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(tmp_path, ring, RULE) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        request.sock.close()
        server.settle()
        assert server.systemd.kept == {}
        assert server.counters.in_flight["credentials"] == 0
        assert server.answered() == {}


def test_a_unit_that_stops_during_its_rejection_disturbs_no_other_unit(
    tmp_path: Path,
) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(tmp_path, ring, RULE) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        nobody = OneRule("x.service", ALIAS)

        def stop_and_refuse() -> None:
            request.sock.close()
            server.server.change_access(nobody)  # type: ignore[arg-type]

        server.call(stop_and_refuse)
        server.settle()
        assert server.systemd.kept == {}


def test_waiting_units_are_counted_as_connections(tmp_path: Path) -> None:
    ring = ring_with(waiting=[ALIAS])
    with RunningCredentials(tmp_path, ring, RULE) as server:
        request = CredentialRequest(server.path, "db")
        server.until_waiting()
        assert server.counters.connections["credentials"] == 1
        request.sock.close()
