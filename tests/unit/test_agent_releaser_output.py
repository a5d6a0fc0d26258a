"""What of a releaser's output is believed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from support.agent import attestation, failure, released_key

from skragent.agent.releaser_output import ResultReader
from skragent.errors import ReleaserError
from skragent.job import (
    MAX_RESULT_BYTES,
    MAX_TOKEN_CHARACTERS,
    UNIQUE_BYTES,
    AkCertificate,
    FailedKey,
    Purpose,
    Result,
    Slice,
    unique_offset,
)

KEYS_BYTES = unique_offset(2)
TOKEN = "the.attestation.token"


def make_result(**changes: object) -> Result:
    values: dict[str, Any] = {
        "attestation": attestation(),
        "token": TOKEN,
        "released": (released_key("disk"),),
        "failed": (FailedKey(alias="signing", failure=failure("release", "retry")),),
    }
    return Result(**(values | changes))


def reader(**changes: Any) -> ResultReader:  # noqa: ANN401 - its arguments
    return ResultReader(frozenset({"disk", "signing"}), **changes)


def line(part: Result) -> bytes:
    return msgspec.json.encode(part) + b"\n"


def parse(result: Result, **changes: Any) -> Result:  # noqa: ANN401 - the reader's
    """Read a result that is one part alone."""
    one = reader(**changes)
    one.feed(msgspec.json.encode(result))
    return one.finish()


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


def test_a_key_that_was_not_requested_is_refused() -> None:
    assert is_garbage(make_result(released=(released_key("other"),)))


def test_keys_beside_a_failure_of_the_whole_job_are_refused() -> None:
    assert is_garbage(make_result(failure=failure("token.refused", "denied")))


def test_keys_without_an_attestation_are_refused() -> None:
    assert is_garbage(make_result(attestation=None, token=""))


@pytest.mark.parametrize(
    "changes",
    [{"attestation": None}, {"token": ""}, {"token": "x" * (MAX_TOKEN_CHARACTERS + 1)}],
    ids=["a token alone", "no token", "too long"],
)
def test_an_attestation_without_its_token_is_refused(changes: dict[str, Any]) -> None:
    assert is_garbage(make_result(**changes))


@pytest.mark.parametrize("moment", [-1.0, 1e300])
def test_a_time_beyond_all_dates_is_refused(moment: float) -> None:
    token = attestation(expires_at=moment)
    assert is_garbage(make_result(attestation=token))
    assert is_garbage(make_result(ak_certificate=AkCertificate(expires_at=moment)))


def with_token(result: Result) -> Result:
    """Read it as the answer to a job that brought a token."""
    return parse(result, has_token=True)


def test_a_job_with_a_token_releases_without_an_attestation() -> None:
    result = make_result(attestation=None, token="")
    assert with_token(result) == result


def test_a_job_with_a_token_that_attests_is_refused() -> None:
    with pytest.raises(ReleaserError):
        with_token(make_result())


def test_a_key_cannot_include_the_tokens_unique_field() -> None:
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
    with pytest.raises(ReleaserError) as caught:
        reader().feed(msgspec.json.encode(make_result()) + b" " * MAX_RESULT_BYTES)
    assert caught.value.code == "releaser.garbage"


@pytest.mark.parametrize("version", ["", "1", "A" * 32, "a€b", "0" * 31 + "\n"])
def test_a_version_that_is_not_32_hexadecimal_digits_is_refused(version: str) -> None:
    assert is_garbage(make_result(released=(released_key("disk", version=version),)))


ATTESTED = Result(is_last=False, attestation=attestation(), token=TOKEN)
DISK = Result(is_last=False, released=(released_key("disk"),))
SIGNING_FAILED = Result(
    failed=(FailedKey(alias="signing", failure=failure("release", "retry")),)
)


def read_parts(*parts: Result) -> Result:
    one = reader()
    for part in parts:
        one.feed(line(part))
    return one.finish()


def is_garbage_in_parts(*parts: Result) -> bool:
    with pytest.raises(ReleaserError) as caught:
        read_parts(*parts)
    return caught.value.code == "releaser.garbage"


@pytest.mark.parametrize("cut", [1, 7, 10**6])
def test_a_result_in_parts_is_read_part_by_part(cut: int) -> None:
    parts = [ATTESTED, DISK, SIGNING_FAILED]
    raw = b"".join(map(line, parts))
    one = reader()
    seen = [
        part for at in range(0, len(raw), cut) for part in one.feed(raw[at : at + cut])
    ]
    assert seen == parts
    assert one.finish() == SIGNING_FAILED


def test_a_result_without_its_last_part_is_refused() -> None:
    assert is_garbage_in_parts(ATTESTED, DISK)


def test_a_part_after_the_last_is_refused() -> None:
    assert is_garbage_in_parts(ATTESTED, DISK, SIGNING_FAILED, DISK)


def test_a_key_that_two_parts_answer_is_refused() -> None:
    assert is_garbage_in_parts(ATTESTED, DISK, DISK)


def test_a_second_attestation_is_refused() -> None:
    assert is_garbage_in_parts(ATTESTED, ATTESTED)


def test_a_part_with_keys_before_the_attestation_is_refused() -> None:
    assert is_garbage_in_parts(DISK, ATTESTED)


def test_slices_of_two_parts_that_overlap_are_refused() -> None:
    other = Result(is_last=False, released=(released_key("signing"),))
    assert is_garbage_in_parts(ATTESTED, DISK, other)


def test_a_job_may_fail_as_a_whole_after_the_attestation_and_before_keys() -> None:
    broken = Result(failure=failure("config.invalid", "fatal"))
    one = reader()
    one.feed(line(ATTESTED) + line(broken))
    assert one.finish() == broken
    assert is_garbage_in_parts(ATTESTED, DISK, broken)


def errand(purpose: Purpose, **answer: object) -> bool:
    """Return whether this result of a job without keys is accepted."""
    one = ResultReader(frozenset(), purpose=purpose)
    try:
        one.feed(msgspec.json.encode(Result(**answer)))  # type: ignore[arg-type]
        one.finish()
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
