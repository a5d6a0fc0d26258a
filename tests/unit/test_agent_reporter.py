"""What the scheduler decided, as workloads, scrapers and the journal see it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from support.agent import (
    BOOTTIME,
    NOW,
    VERSION,
    FakeClock,
    attestation,
    released_key,
)

from skragent.agent import key_records
from skragent.agent.key_records import KeyRecord, NextAttempt, Validity
from skragent.agent.preserved_keys import PreservedKeys
from skragent.agent.reporter import Reporter
from skragent.errors import AgentError, Disposition
from skragent.job import AkCertificate, KeyRequest
from skragent.keyring import Keyring, KeyState
from skragent.observe import Counters
from skragent.secretmem import Arena, create_arena

KEY = b"\xa5" * 32
REQUEST = KeyRequest(alias="disk", vault="https://v.vault.azure.net", name="disk")


class Status:
    """Stands for systemd."""

    line = ""
    is_wanted = True

    def __init__(self) -> None:
        self.stored: list[str] = []

    def status(self, line: str) -> None:
        self.line = line

    def store_key(self, fd: int) -> str:
        name = f"key-{fd}-{len(self.stored)}"
        self.stored.append(name)
        return name

    def remove_fd(self, name: str) -> bool:
        self.stored.remove(name)
        return True


@dataclass
class World:
    keyring: Keyring
    counters: Counters
    reporter: Reporter
    status: Status
    arena: Arena

    def hold(self, **changes: object) -> None:
        self.reporter.hold(
            released_key("disk", **changes),
            self.arena,
            request=REQUEST,
            record=KeyRecord(state=KeyState.CURRENT, stale_at=9.0),
            began_at=BOOTTIME,
        )

    def let_go(self, state: KeyState) -> None:
        self.reporter.state_changed("disk", KeyRecord(state=state))


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.INFO)
    keyring, counters, status = Keyring(["disk"]), Counters(("disk",)), Status()
    arena = create_arena(4096)
    arena.view(0, 32)[:] = KEY
    preserved = PreservedKeys(status)  # type: ignore[arg-type]
    keyring.on_parting(preserved.forget)
    reporter = Reporter(keyring, counters, FakeClock(), status, preserved)  # type: ignore[arg-type]
    return World(keyring, counters, reporter, status, arena)


def denied() -> AgentError:
    return AgentError("no", code="release.denied", hint="Ask.")


def test_a_key_that_is_held_is_served(world: World) -> None:
    world.hold()
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.key is not None
    assert entry.key.forms["raw"] == KEY
    assert entry.key.released_at == NOW


def test_a_key_that_is_no_longer_held_is_wiped(world: World) -> None:
    world.hold()
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.key is not None
    view = entry.key.forms["raw"]
    assert view == KEY
    world.let_go(KeyState.DENIED)
    assert entry.key is None
    assert view == bytes(32)


def test_systemd_keeps_the_memory_of_each_held_key_and_no_other(world: World) -> None:
    world.hold()
    (first,) = world.status.stored
    world.hold()
    (second,) = world.status.stored
    assert second != first
    world.let_go(KeyState.DENIED)
    assert world.status.stored == []


def test_the_agent_keeps_no_descriptor_of_a_held_keys_memory(world: World) -> None:
    world.hold()
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.key is not None
    assert entry.key.memory is not None
    assert entry.key.memory.fd == -1


@pytest.mark.parametrize("word", ["retry_slowly", "fatal"])
def test_a_fault_that_a_person_must_fix_raises_an_alarm(
    world: World, caplog: pytest.LogCaptureFixture, word: str
) -> None:
    error = AgentError("x", code="evidence.tpm", disposition=Disposition(word))
    world.hold()
    world.reporter.job_failed({"disk": NextAttempt(60)}, error)
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.needs_attention
    assert caplog.records[-1].levelno == logging.ERROR
    world.hold()
    assert not entry.needs_attention


def test_a_release_that_does_not_repeat_the_nonce_is_held_and_counted(
    world: World,
) -> None:
    world.hold(repeats_nonce=False)
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.key is not None
    assert not entry.key.repeats_nonce
    assert world.counters.missing_nonces["disk"] == 1


def test_a_stale_key_is_served_as_that(world: World) -> None:
    world.hold()
    world.let_go(KeyState.STALE)
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.key is not None
    assert entry.state is KeyState.STALE


def test_the_status_line_counts_and_names_the_trouble(world: World) -> None:
    world.reporter.key_failed("disk", denied(), NextAttempt(3))
    assert world.status.line == "0 of 1 keys held; release.denied"
    world.hold()
    assert world.status.line == "1 of 1 keys held"


def test_the_code_of_a_failure_is_kept(world: World) -> None:
    world.reporter.key_failed("disk", denied(), NextAttempt(3))
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.failure_code == "release.denied"


def test_cause_and_remedy_of_a_failure_are_kept_until_a_release(world: World) -> None:
    world.reporter.key_failed("disk", denied(), NextAttempt(3))
    entry = world.keyring.get("disk")
    assert entry is not None
    assert (entry.failure_message, entry.failure_hint) == ("no", "Ask.")
    world.hold()
    assert (entry.failure_message, entry.failure_hint) == ("", "")


def test_a_quoted_sentence_keeps_one_full_stop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    error = AgentError("the provider answered: It is not valid.", hint="Ask.")
    world.reporter.key_failed("disk", error, NextAttempt(3))
    assert "It is not valid. Ask. Next attempt" in caplog.records[-1].getMessage()


def test_a_denial_that_can_wipe_a_held_key_says_when(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.hold()
    world.reporter.key_failed("disk", denied(), NextAttempt(3, 300))
    line = caplog.records[-1]
    moment = f"{datetime.fromtimestamp(NOW + 300, UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert (
        f"If the denial is repeated at {moment} or later, the agent wipes the held key"
        " disk."
    ) in line.getMessage()


def test_a_failed_job_is_reported_for_its_keys(world: World) -> None:
    world.reporter.job_failed({"disk": NextAttempt(3)}, denied())
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.failure_code == "release.denied"


def test_a_failed_job_is_reported_for_a_held_key_until_a_success(
    world: World,
) -> None:
    world.hold()
    world.reporter.job_failed({"disk": NextAttempt(3)}, denied())
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.key is not None
    assert entry.failure_code == "release.denied"
    world.hold()
    assert entry.failure_code == ""


def test_a_failed_job_is_not_reported_for_a_key_of_another_job(world: World) -> None:
    world.reporter.job_failed({}, denied())
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.failure_code == ""


def test_a_key_that_was_never_held_is_not_said_to_be_wiped(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.reporter.state_changed("disk", KeyRecord(state=KeyState.DENIED))
    assert [r.getMessage() for r in caplog.records] == ["key disk is denied"]
    world.hold()
    caplog.clear()
    world.reporter.state_changed("disk", KeyRecord(state=KeyState.DENIED))
    assert [r.getMessage() for r in caplog.records] == ["key disk is denied and wiped"]


def test_a_requested_drop_is_not_logged_as_an_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.hold()
    caplog.clear()
    world.reporter.state_changed("disk", KeyRecord(state=KeyState.DROPPED))
    assert caplog.records == []
    entry = world.keyring.get("disk")
    assert entry is not None
    assert (entry.key, entry.state) == (None, KeyState.DROPPED)


def test_a_key_that_is_not_valid_yet_says_so(world: World) -> None:
    world.reporter.not_valid(released_key("disk"), Validity.NOT_YET)
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.failure_code == "release.not_yet_valid"


def test_everything_is_counted(world: World) -> None:
    world.reporter.attested(attestation())
    world.hold()
    world.hold()
    world.reporter.key_failed("disk", denied(), NextAttempt(3))
    world.reporter.job_failed(
        {"disk": NextAttempt(3)}, AgentError("x", code="transport.timeout")
    )
    assert world.counters.releases["disk", "success", ""] == 2
    assert world.counters.releases["disk", "denied", "release.denied"] == 1
    assert world.counters.attestations["success", ""] == 1
    assert world.counters.attestations["error", "transport.timeout"] == 1
    assert world.counters.memory_kind == world.arena.kind


def test_the_journal_names_version_and_hint_and_never_the_key(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.hold()
    world.reporter.key_failed("disk", denied(), NextAttempt(3))
    world.let_go(KeyState.DENIED)
    said = "\n".join(str(vars(record)) for record in caplog.records)
    assert VERSION in said
    assert "no. Ask. Next attempt in 3 s." in said
    assert "a5a5" not in said
    assert repr(KEY)[2:-1] not in said


def test_what_is_released_again_is_current(world: World) -> None:
    world.hold()
    world.let_go(KeyState.STALE)
    world.hold()
    record = key_records.record_release(
        KeyRecord(), released_key(), began_at=0, fresh_seconds=1
    )
    world.reporter.state_changed("disk", record)
    entry = world.keyring.get("disk")
    assert entry is not None
    assert entry.state is KeyState.CURRENT


def test_a_renewed_ak_certificate_is_logged_and_counted(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.reporter.ak_certificate(AkCertificate(expires_at=NOW))
    world.reporter.ak_renewed()
    assert "it holds until 2026-01-01T00:00:00Z" in caplog.text
    assert world.counters.ak_certificate_expires_at == NOW
    assert world.counters.ak_renewals["success", ""] == 1


def test_a_restored_ak_certificate_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.reporter.ak_restored()
    assert "is restored from its copy" in caplog.text


def test_a_failed_renewal_is_logged_with_its_next_attempt(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.reporter.ak_renewal_failed(denied(), 90.0)
    assert "the AK certificate could not be renewed: no. Ask." in caplog.text
    assert "Next attempt in 90 s" in caplog.text
    assert world.counters.ak_renewals["denied", "release.denied"] == 1


def test_verified_facts_are_logged_once_and_the_end_of_every_token(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        world.reporter.attested(attestation(verified=("all holds",), expires_at=NOW))
    said = [record.getMessage() for record in caplog.records]
    assert said.count("verified: all holds") == 1
    assert sum("until 2026-01-01T00:00:00Z" in line for line in said) == 2
    assert world.counters.token_expires_at == NOW
    assert world.counters.attested_at == NOW
