"""A wrong clock of this VM is named if it can be the cause."""

from __future__ import annotations

import email.utils

import msgspec
import pytest

from skragent.job import Failure
from skragent.releaser.clock_check import describe_skew, explain_by_clock

NOW = 1767225600.0  # 2026-01-01T00:00Z
IMDS = "http://169.254.169.254"


def dates(seconds: float) -> dict[str, str]:
    """Let IMDS's clock differ from ours by this."""
    return {IMDS: email.utils.formatdate(NOW + seconds, usegmt=True)}


def failure(code: str) -> Failure:
    return Failure(code=code, disposition="retry", message="no", hint="Another one.")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3 * 86400, "3 days ahead of"),
        (86400, "1 day behind"),
        (2 * 3600, "2 hours behind"),
        (-300, "5 minutes ahead of"),
    ],
)
def test_the_clocks_error_is_described_with_its_direction(
    seconds: float, said: str
) -> None:
    expected = f"this VM's clock is {said} that of {IMDS}"
    assert describe_skew(dates(seconds), NOW) == expected


@pytest.mark.parametrize("seconds", [0, 299, -299])
def test_a_clock_that_is_nearly_right_is_right(seconds: float) -> None:
    assert describe_skew(dates(seconds), NOW) == ""


@pytest.mark.parametrize("seconds", [0, 2 * 86400])
def test_a_date_that_contradicts_the_others_is_not_believed(seconds: float) -> None:
    vault = email.utils.formatdate(NOW + seconds, usegmt=True)
    found = {**dates(-3 * 86400), "https://v.vault.azure.net": vault}
    assert describe_skew(found, NOW) == ""
    assert describe_skew(dict(reversed(found.items())), NOW) == ""


def test_the_nearest_of_several_dates_is_named() -> None:
    vault = email.utils.formatdate(NOW - 86400, usegmt=True)
    found = {**dates(-3 * 86400), "https://v.vault.azure.net": vault}
    assert describe_skew(found, NOW) == (
        "this VM's clock is 1 day ahead of that of https://v.vault.azure.net"
    )


@pytest.mark.parametrize(
    "text", ["", "x", "Tue", "Thu, 99 Foo 2026 99:99:99 GMT", "9" * 5000]
)
def test_a_malformed_date_is_ignored(text: str) -> None:
    assert describe_skew({IMDS: text}, NOW) == ""


@pytest.mark.parametrize("code", ["token.refused", "transport.tls", "identity.denied"])
def test_a_failure_that_a_wrong_clock_causes_names_it(code: str) -> None:
    named = explain_by_clock(failure(code), dates(-86400), NOW)
    assert named.message.startswith("no; this VM's clock is 1 day ahead of")
    assert named.hint.startswith("Set this VM's clock")
    assert named.code == code


def test_a_quoted_sentence_loses_its_full_stop_before_the_clock() -> None:
    refused = msgspec.structs.replace(failure("token.refused"), message="Not valid.")
    named = explain_by_clock(refused, dates(-86400), NOW)
    assert named.message.startswith("Not valid; this VM's clock is")


def test_a_failure_that_has_nothing_to_do_with_time_is_left_alone() -> None:
    other = failure("release.denied.permission")
    assert explain_by_clock(other, dates(-86400), NOW) is other


def test_a_right_clock_is_not_named() -> None:
    other = failure("token.refused")
    assert explain_by_clock(other, dates(0), NOW) is other
