"""The audit log: served and denied keys in the journal."""

from __future__ import annotations

import pytest
from support.serving import (
    ALIAS,
    ME,
    NEXT_VERSION,
    NOW,
    ReceivedResponse,
    everybody_in,
    get,
    held_key,
    no_attempt,
    received,
    ring_with,
)

from skragent.observe import Counters
from skragent.serving import audit
from skragent.serving.api import KeyApi
from skragent.serving.audit import Audit
from skragent.serving.http.request import parse_head
from skragent.serving.peers import Peer


class Journal:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.counters = Counters()
        self.audit = Audit(self.counters)
        self._caplog = caplog

    def lines(self) -> list[str]:
        """What was written since the last time."""
        said = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return said

    def deny(self, uid: int, name: str = ALIAS, *, is_configured: bool = True) -> None:
        self.audit.denied(caller(uid), name, "get", is_configured=is_configured)


@pytest.fixture
def journal(caplog: pytest.LogCaptureFixture) -> Journal:
    caplog.set_level("INFO")
    return Journal(caplog)


def caller(uid: int, unit: str = "") -> Peer:
    return Peer(uid=uid, gid=uid, pid=1, unit=unit)


def test_a_served_caller_is_logged_once_for_each_version(
    journal: Journal,
) -> None:
    for version in (held_key(), held_key(), held_key(version=NEXT_VERSION)):
        journal.audit.served(caller(7, "app.service"), version, "get")
    assert [line.split(",")[0] for line in journal.lines()] == [
        "uid 7 in app.service got key db",
        "uid 7 in app.service got key db",
    ]


def test_a_denial_is_logged_after_its_response(journal: Journal) -> None:
    journal.deny(7)
    journal.deny(7)
    assert journal.lines() == []
    journal.audit.tick()
    assert journal.lines() == ["uid 7 was denied key db: no rule allows it"]
    assert journal.counters.denied["no_rule"] == 2


def test_unknown_names_are_logged_once_for_each_caller(
    journal: Journal,
) -> None:
    for name in ("dbb", "x\ny", "z"):
        journal.deny(7, name, is_configured=False)
    journal.deny(8, "x\ny", is_configured=False)
    journal.audit.tick()
    assert journal.lines() == [
        "uid 7 was denied key dbb: no such key is configured",
        "uid 8 was denied key x\\ny: no such key is configured",
    ]


def test_many_callers_cannot_fill_the_journal(journal: Journal) -> None:
    for uid in range(200):
        journal.deny(uid)
        journal.audit.served(caller(uid), held_key(), "get")
    journal.audit.tick()
    lines = journal.lines()
    assert len(lines) == 51
    assert lines[-1].startswith("350 more lines")
    journal.deny(1000)
    journal.audit.tick()
    assert journal.lines() == ["uid 1000 was denied key db: no rule allows it"]


def test_many_callers_cannot_silence_the_journal(journal: Journal) -> None:
    for uid in range(10_000):
        journal.deny(uid)
    journal.audit.tick()
    journal.lines()
    journal.deny(20_000)
    journal.audit.tick()
    assert journal.lines() == ["uid 20000 was denied key db: no rule allows it"]


def test_denials_are_logged_again_after_a_change_of_rules(journal: Journal) -> None:
    journal.deny(7)
    journal.audit.forget_denials()
    journal.deny(7)
    journal.audit.tick()
    assert len(journal.lines()) == 2


def test_audit_cache_is_bounded_and_evicted_callers_are_logged_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_MAX_LOGGED", 2)
    for uid in (7, 8, 9, 9, 8, 7):
        journal.audit.served(caller(uid), held_key(), "get")
    assert [line.split()[1] for line in journal.lines()] == ["7", "8", "9", "7"]


class AuditedApi:
    """An API whose journal is read."""

    def __init__(self, journal: Journal) -> None:
        self.ring = ring_with(held_key())
        self.rules = everybody_in(self.ring)
        counters = journal.counters
        self.api = KeyApi(
            self.ring, self.rules, counters, now=lambda: NOW, due_at=no_attempt
        )

    def ask(
        self, peer: Peer, path: str = f"/v1/keys/{ALIAS}", *, method: bytes = b"GET"
    ) -> ReceivedResponse:
        request = get(path).replace(b"GET", method, 1)
        response = self.api.handle(parse_head(request), peer)
        return received(response)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (f"/v1/keys/{ALIAS}", "key db"),
        (f"/v1/keys/{ALIAS}/public", "the public half of key db"),
    ],
)
def test_a_served_caller_is_logged(journal: Journal, path: str, what: str) -> None:
    uid = ME.uid or 0
    assert AuditedApi(journal).ask(caller(uid, "app.service"), path).status == 200
    (line,) = journal.lines()
    assert line.startswith(f"uid {uid} in app.service got {what}, version ")


def test_a_denied_caller_is_logged(journal: Journal) -> None:
    api = AuditedApi(journal)
    assert api.ask(caller(54321)).code == "serve.denied"
    api.api.tick()
    assert journal.lines() == ["uid 54321 was denied key db: no rule allows it"]


def test_head_logs_no_served_key(journal: Journal) -> None:
    api = AuditedApi(journal)
    assert api.ask(caller(ME.uid or 0), method=b"HEAD").status == 200
    assert journal.lines() == []


def test_a_get_after_head_is_logged(journal: Journal) -> None:
    api = AuditedApi(journal)
    for method in (b"HEAD", b"GET"):
        api.ask(caller(ME.uid or 0), method=method)
    (line,) = journal.lines()
    assert "got key db" in line


def test_a_denied_head_is_logged(journal: Journal) -> None:
    api = AuditedApi(journal)
    assert api.ask(caller(54321), method=b"HEAD").code == "serve.denied"
    api.api.tick()
    assert journal.lines() == ["uid 54321 was denied key db: no rule allows it"]


def test_a_denial_by_changed_rules_is_logged_again(journal: Journal) -> None:
    api = AuditedApi(journal)
    for _ in range(2):
        api.ask(caller(54321))
        api.api.tick()
        api.api.change_access(api.rules)
    assert len(journal.lines()) == 2


def test_each_unit_and_each_half_is_logged_for_one_user(journal: Journal) -> None:
    for unit in ("a.service", "b.service"):
        for operation in ("get", "public", "get"):
            journal.audit.served(caller(7, unit), held_key(), operation)
    assert [line.split(" key ")[0] for line in journal.lines()] == [
        "uid 7 in a.service got",
        "uid 7 in a.service got the public half of",
        "uid 7 in b.service got",
        "uid 7 in b.service got the public half of",
    ]


def test_each_denied_unit_is_logged_for_one_user(journal: Journal) -> None:
    for unit in ("a.service", "b.service", "a.service"):
        journal.audit.denied(caller(7, unit), ALIAS, "get", is_configured=True)
    journal.audit.tick()
    assert [line.split(" was")[0] for line in journal.lines()] == [
        "uid 7 in a.service",
        "uid 7 in b.service",
    ]


def test_an_unknown_name_is_not_logged_as_a_key(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    journal.deny(7)
    journal.deny(7, "dbb", is_configured=False)
    journal.audit.tick()
    known, unknown = (vars(record) for record in caplog.records)
    assert known["SKRAGENT_KEY"] == ALIAS
    assert "SKRAGENT_KEY" not in unknown


def test_the_cache_of_denials_is_bounded(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_MAX_LOGGED", 2)
    for uid in (7, 8, 9, 7):
        journal.deny(uid)
    journal.audit.tick()
    assert [line.split()[1] for line in journal.lines()] == ["7", "8", "9", "7"]
