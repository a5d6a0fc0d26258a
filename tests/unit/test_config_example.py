"""config.example.toml is the reference: complete, true and usable."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from skragent.config import AllowRule, Config, KeyConfig, parse_config
from skragent.config_settings import types_of

EXAMPLE = (Path(__file__).resolve().parents[2] / "config.example.toml").read_text()

# What the example shows as a comment, said.
SPOKEN = re.sub(r"(?m)^# ([a-z_]+ = .*)$", r"\1", EXAMPLE)


def walk(value: msgspec.Struct, path: str = "") -> dict[str, Any]:
    """All settings below a table, with their values."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(value):
        inner = getattr(value, field.name)
        if isinstance(inner, msgspec.Struct):
            found |= walk(inner, f"{path}{field.name}.")
        elif not isinstance(inner, dict):  # keys and identities: their names are free
            found[path + field.name] = inner
    return found


def flatten(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{path}{name}.")
        else:
            found[path + name] = value
    return found


def test_the_example_can_be_used() -> None:
    assert list(parse_config(EXAMPLE).keys) == ["database", "backup"]


def test_the_example_shows_every_setting() -> None:
    document = tomllib.loads(SPOKEN)
    fixed = document.keys() - {"keys", "identities"}
    shown = flatten({name: document[name] for name in fixed})
    assert shown.keys() == walk(Config()).keys()
    assert document["keys"]["database"].keys() == {
        field.name for field in msgspec.structs.fields(KeyConfig)
    }


def test_the_example_shows_every_member_of_a_rule() -> None:
    allow = tomllib.loads(SPOKEN)["keys"]["database"]["allow"]
    members = {field.name for field in msgspec.structs.fields(AllowRule)}
    assert {member for rule in allow for member in rule} == members


def test_what_the_example_shows_as_defaults_are_the_defaults() -> None:
    assert walk(parse_config(SPOKEN)) == walk(Config())
    assert parse_config(SPOKEN) == parse_config(EXAMPLE)


def test_every_table_of_the_example_is_in_force_without_its_comments() -> None:
    assert tomllib.loads(EXAMPLE).keys() == {
        name for name, kind in types_of(Config).items() if kind is not str
    }
