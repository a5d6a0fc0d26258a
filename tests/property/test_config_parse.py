from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from skragent.config import Config, parse_config
from skragent.errors import ConfigError

VALUES = (
    *("1", "-1", "0.5", "nan", "9223372036854775807", "true", "2026-01-01"),
    *('""', '"x"', '"https://h"', '"/a"', "[]", "[1]", "[{user=1}]", "{}", "{a={}}"),
)
NAMES = (
    *("agent.api_socket", "agent.x", "vtpm.tcti", "limits.request_timeout_seconds"),
    *("limits", "trust.x", "trust.amd_roots", "nothing", '"".""'),
    *("keys.disk.vault", "keys.disk.allow", "keys.a", "keys"),
)


@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_config(text), Config)


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=4))
def test_any_toml_is_a_configuration_or_problems_of_one_line(
    document: dict[str, str],
) -> None:
    text = "".join(f"{name} = {value}\n" for name, value in document.items())
    problems = ["-"]
    try:
        parse_config(text)
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(problem.strip() and "\n" not in problem for problem in problems)
