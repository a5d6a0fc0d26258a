"""The bounds of what may be configured of a key's life."""

from __future__ import annotations

import pytest

from skragent.config import parse_config
from skragent.errors import ConfigError

KEY = '[keys.a]\nvault = "https://v.vault.azure.net"\n'


@pytest.mark.parametrize(
    "setting",
    [
        "refresh_seconds = 0",
        "refresh_seconds = 300",
        "refresh_seconds = 604800",
        "max_stale_seconds = 0",
        "max_stale_seconds = 2592000",
        "version_check_seconds = 0",
        "version_check_seconds = 60",
        "version_check_seconds = 604800",
        "overlap_seconds = 0",
        "overlap_seconds = 2592000",
        'on_denial = "drop"',
        'on_denial = "keep"',
    ],
)
def test_a_setting_of_a_key_at_its_bounds_is_accepted(setting: str) -> None:
    assert "a" in parse_config(KEY + setting).keys


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("refresh_seconds = 299", "from 300 to 604800, or 0"),
        ("refresh_seconds = 604801", "from 300 to 604800, or 0"),
        ("refresh_seconds = -1", "from 300 to 604800, or 0"),
        ("max_stale_seconds = -1", "from 0 to 2592000"),
        ("max_stale_seconds = 2592001", "from 0 to 2592000"),
        ("version_check_seconds = 59", "from 60 to 604800, or 0"),
        ("version_check_seconds = 604801", "from 60 to 604800, or 0"),
        ("overlap_seconds = -1", "from 0 to 2592000"),
        ("overlap_seconds = 2592001", "from 0 to 2592000"),
        ('on_denial = "kepp"', "did you mean `keep`"),
    ],
)
def test_a_setting_of_a_key_beyond_them_is_refused(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(KEY + setting)
    (problem,) = caught.value.problems
    assert problem.startswith(f"keys.a.{setting.partition(' ')[0]}: ")
    assert said in problem
