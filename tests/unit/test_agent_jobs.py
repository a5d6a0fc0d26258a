from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from support.agent import attestation, failure, make_config, released_key

from skragent.agent.jobs import (
    MAX_MESSAGE_CHARACTERS,
    MAX_TOKEN_CHARS,
    failure_error,
    key_requests,
    parse_result,
    releaser_environment,
)
from skragent.agent.launch import find_tcg_log
from skragent.agent.redact import log_lines, redact
from skragent.errors import Disposition, ReleaserError
from skragent.job import (
    MAX_RESULT_BYTES,
    UNIQUE_BYTES,
    FailedKey,
    Failure,
    Purpose,
    Result,
    Slice,
    unique_offset,
)

if TYPE_CHECKING:
    from pathlib import Path

KEYS_BYTES = unique_offset(2)
TOKEN = "the.attestation.token"
DEFAULT_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"


def make_result(**changes: object) -> Result:
    values: dict[str, Any] = {
        "attestation": attestation(),
        "token": TOKEN,
        "released": (released_key("disk"),),
        "failed": (FailedKey(alias="signing", failure=failure("release", "retry")),),
    }
    return Result(**(values | changes))


def parse(result: Result) -> Result:
    return parse_result(
        msgspec.json.encode(result),
        aliases=frozenset({"disk", "signing"}),
    )


def is_garbage(result: Result) -> bool:
    with pytest.raises(ReleaserError) as caught:
        parse(result)
    return caught.value.code == "releaser.garbage"


def test_a_result_that_keeps_the_contract_is_read() -> None:
    assert parse(make_result()) == make_result()


def test_a_result_without_one_of_the_keys_is_refused() -> None:
    assert is_garbage(make_result(failed=()))


def test_a_key_that_is_answered_twice_is_refused() -> None:
    both = FailedKey(alias="disk", failure=failure("release", "retry"))
    assert is_garbage(make_result(failed=(*make_result().failed, both)))


def test_a_key_that_nobody_asked_for_is_refused() -> None:
    assert is_garbage(make_result(released=(released_key("other"),)))


def test_keys_beside_a_failure_of_the_whole_job_are_refused() -> None:
    assert is_garbage(make_result(failure=failure("token.refused", "denied")))


def test_keys_without_an_attestation_are_refused() -> None:
    assert is_garbage(make_result(attestation=None, token=""))


@pytest.mark.parametrize(
    "changes",
    [{"attestation": None}, {"token": ""}, {"token": "x" * (MAX_TOKEN_CHARS + 1)}],
    ids=["a token alone", "no token", "too long"],
)
def test_an_attestation_without_its_token_is_refused(changes: dict[str, Any]) -> None:
    assert is_garbage(make_result(**changes))


def with_token(result: Result) -> Result:
    """Read it as the answer to a job that brought a token."""
    raw = msgspec.json.encode(result)
    return parse_result(raw, aliases=frozenset({"disk", "signing"}), has_token=True)


def test_a_job_with_a_token_releases_without_an_attestation() -> None:
    result = make_result(attestation=None, token="")
    assert with_token(result) == result


def test_a_job_with_a_token_that_attests_is_refused() -> None:
    with pytest.raises(ReleaserError):
        with_token(make_result())


def test_a_tokens_unique_field_is_no_part_of_a_key() -> None:
    key = released_key("disk", forms={"raw": Slice(unique_offset(2), UNIQUE_BYTES)})
    assert is_garbage(make_result(released=(key,)))


@pytest.mark.parametrize(
    "place",
    [
        Slice(KEYS_BYTES - 31, 32),
        Slice(-1, 32),
        Slice(0, 0),
        Slice(0, -1),
        Slice(2**62, 32),
    ],
)
def test_a_slice_outside_of_the_arena_is_refused(place: Slice) -> None:
    key = released_key("disk", forms={"raw": place})
    assert is_garbage(make_result(released=(key,)))


def test_a_slice_that_ends_with_the_keys_part_is_read() -> None:
    key = released_key("disk", forms={"raw": Slice(KEYS_BYTES - 32, 32)})
    assert parse(make_result(released=(key,))).released == (key,)


def test_slices_that_overlap_are_refused() -> None:
    forms = {"raw": Slice(0, 32), "jwk": Slice(31, 32)}
    assert is_garbage(make_result(released=(released_key("disk", forms=forms),)))


def test_a_key_in_no_form_is_refused() -> None:
    assert is_garbage(make_result(released=(released_key("disk", forms={}),)))


def test_a_result_that_is_too_long_is_refused() -> None:
    raw = msgspec.json.encode(make_result()) + b" " * MAX_RESULT_BYTES
    with pytest.raises(ReleaserError) as caught:
        parse_result(raw, aliases=frozenset())
    assert caught.value.code == "releaser.garbage"


def test_a_failure_comes_back_as_the_error_that_it_was() -> None:
    error = failure_error(failure("transport.throttled", "retry", retry_after=7))
    assert error.code == "transport.throttled"
    assert error.disposition is Disposition.RETRY
    assert error.retry_after == 7


def test_a_long_message_is_cut() -> None:
    raw = Failure(code="x", disposition="retry", message="m" * 99999)
    assert len(failure_error(raw).message) == MAX_MESSAGE_CHARACTERS


def test_a_message_cannot_forge_another_line() -> None:
    raw = Failure(
        code="x", disposition="retry", message="a\nb\x1b[2J\u2028c", hint="\0"
    )
    error = failure_error(raw)
    assert (error.message, error.hint) == ("a b [2J c", " ")


@pytest.mark.parametrize("code", ["x\nMAINPID=1", "", "x" * 65, "no such code"])
def test_a_code_that_is_none_is_not_passed_on(code: str) -> None:
    raw = Failure(code=code, disposition="denied", message="m")
    assert failure_error(raw).code == "releaser.garbage"


def test_a_key_without_a_vault_name_is_asked_for_by_its_own() -> None:
    assert key_requests(make_config("disk"))["disk"].name == "disk"


def test_a_secret_in_our_environment_stays_with_us() -> None:
    kept = releaser_environment({"AZURE_CLIENT_SECRET": "s", "PATH": "/bin"})
    assert kept == {"PATH": "/bin"}


def test_the_tcg_log_is_read_from_the_credential(tmp_path: Path) -> None:
    (tmp_path / "tcglog").write_bytes(b"\0" * 100)
    found = find_tcg_log(DEFAULT_LOG, str(tmp_path))
    assert found == str(tmp_path / "tcglog")


def test_a_machine_without_a_tcg_log_sends_none(tmp_path: Path) -> None:
    (tmp_path / "tcglog").write_bytes(b"none")
    found = find_tcg_log(DEFAULT_LOG, str(tmp_path))
    assert found == ""


def test_without_a_credential_the_tcg_log_is_the_kernels(tmp_path: Path) -> None:
    found = find_tcg_log(DEFAULT_LOG, str(tmp_path))
    assert found == DEFAULT_LOG


def test_a_configured_tcg_log_wins_over_the_credential(tmp_path: Path) -> None:
    (tmp_path / "tcglog").write_bytes(b"\0" * 100)
    found = find_tcg_log("/log", str(tmp_path))
    assert found == "/log"


@pytest.mark.parametrize(
    "secret",
    [
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln",
        "0123456789abcdef" * 3,
        "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
        "uKjZ_2-9" * 6,
    ],
)
def test_what_looks_like_a_secret_is_masked(secret: str) -> None:
    line = redact(f"value='{secret}' here")
    assert secret[:12] not in line
    assert secret[-12:] not in line
    assert line.endswith("' here")


def test_prose_is_not_masked() -> None:
    prose = "release.denied: the vault said no (HTTP 403), see the policy"
    assert redact(prose) == prose


def test_the_place_in_a_traceback_is_kept() -> None:
    place = '  File "/usr/lib/python3/site-packages/azure/core/retry.py", line 5, in f'
    assert log_lines(place.encode()) == [place]


def test_a_line_cannot_forge_another() -> None:
    assert log_lines(b"a\x1b[2Jb\rc\n\n") == ["a?[2Jb", "c"]


def test_bytes_that_are_no_text_are_logged_all_the_same() -> None:
    assert log_lines(b"\xff\xfe ok") == ["?? ok"]


def errand(purpose: Purpose, **answer: object) -> bool:
    """Tell whether this answer to a job without keys is believed."""
    raw = msgspec.json.encode(Result(**answer))  # type: ignore[arg-type]
    try:
        parse_result(raw, aliases=frozenset(), purpose=purpose)
    except ReleaserError:
        return False
    return True


def test_an_order_is_believed_of_a_renewal_alone() -> None:
    assert errand("renew", ak_query_id="6f0e8c1d-0000-4000-8000-000000000000")
    assert not errand("check", ak_query_id="6f0e8c1d")
    assert not errand("release", ak_query_id="6f0e8c1d")


@pytest.mark.parametrize("query_id", ["../x", "a b", "a\n", "a" * 65, "ä"])
def test_an_orders_id_that_is_none_is_refused(query_id: str) -> None:
    assert not errand("renew", ak_query_id=query_id)


def test_a_renewal_that_released_is_refused() -> None:
    assert not errand("renew", attestation=attestation())
    assert not errand("renew", released=(released_key("disk"),))


def test_a_tcg_log_credential_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tcglog")
    assert find_tcg_log(DEFAULT_LOG, str(tmp_path)) == DEFAULT_LOG
