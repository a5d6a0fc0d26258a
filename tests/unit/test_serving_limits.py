"""Every bound is a setting, and has the same default there and here."""

from __future__ import annotations

from dataclasses import fields

from skragent.config import ServingConfig, parse_config
from skragent.serving import Limits, limits_of

KEY = '[keys.db]\nvault = "https://v.vault.azure.net"\n'


def test_the_defaults_of_the_configuration_are_the_bounds() -> None:
    assert limits_of(ServingConfig()) == Limits()


def test_every_bound_can_be_set() -> None:
    names = [field.name for field in fields(Limits)]
    wanted = {name: 260 + i for i, name in enumerate(names)}  # within every range
    rate = "answers_per_second_per_uid"
    settings = "".join(
        f"{rate if name.startswith('requests_per') else name} = {value}\n"
        for name, value in wanted.items()
    )
    config = parse_config(f"[serving]\n{settings}{KEY}")
    assert limits_of(config.serving) == Limits(**wanted)
