"""A directory service that does not answer keeps no agent from its end."""

from __future__ import annotations

import threading

import pytest
from support.deadlines import DEADLINE_SECONDS

from skragent.agent.look_up import look_up_in_time
from skragent.errors import ConfigError
from skragent.exit_codes import CONFIG, TEMPFAIL, exit_code_of, exit_code_of_start


def test_what_is_found_is_returned() -> None:
    assert look_up_in_time(lambda: 5) == 5


def test_what_the_work_raises_is_raised() -> None:
    def fail() -> None:
        raise ConfigError(["x"], code="config.unknown_name")

    with pytest.raises(ConfigError) as caught:
        look_up_in_time(fail)
    assert caught.value.code == "config.unknown_name"


def test_a_look_up_that_hangs_is_given_up_and_another_start_may_succeed() -> None:
    may_go_on = threading.Event()
    with pytest.raises(ConfigError) as caught:
        look_up_in_time(lambda: may_go_on.wait(DEADLINE_SECONDS), seconds=0.01)
    may_go_on.set()
    assert caught.value.code == "config.timeout"
    assert exit_code_of(caught.value) == TEMPFAIL


def test_a_typo_is_final_only_where_systemd_keeps_no_key() -> None:
    error = ConfigError(["x"], code="config.syntax")
    assert exit_code_of_start(error, keeps_keys=False) == CONFIG
    assert exit_code_of_start(error, keeps_keys=True) == TEMPFAIL
