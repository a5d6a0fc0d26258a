"""skragent.toml(5) has every setting with type, default and bounds, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from support.manual import PAGES, Item, items, source, words_of

from skragent import config_rules
from skragent.config import (
    MAX_CONFIG_BYTES,
    AllowRule,
    Config,
    KeyConfig,
    parse_config,
)
from skragent.config_settings import judge_bounds, settings_of, types_of
from skragent.identity import Identity
from skragent.job import MAX_KEYS

PAGE = "skragent.toml.5"

# The page's headings of what is not simply a table of `Config`.
_OUTSIDE = "Outside of any table"
_HEADINGS: dict[str, type[msgspec.Struct]] = {
    "[identity] and [identities.NAME]": Identity,
    "[keys.NAME]": KeyConfig,
    "keys.NAME.allow[]": AllowRule,
}
_TYPES = {
    "str": "String",
    "int": "Whole number",
    "float": "Number",
    "bool": "Boolean",
    "str | int | None": "String or whole number",
    "str | None": "String",
    "tuple[str, ...]": "List of strings",
    "tuple[AllowRule, ...]": "List of rules",
}


class Field(NamedTuple):
    """A setting's type and default."""

    type: Any
    default: Any


def tables() -> dict[str, type[msgspec.Struct]]:
    """Every table by the page's heading."""
    found: dict[str, type[msgspec.Struct]] = dict(_HEADINGS)
    for name, kind in types_of(Config).items():
        is_table = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        if is_table and kind is not Identity:
            found[f"[{name}]"] = kind
    return found


def settings() -> dict[tuple[str, str], Field]:
    """Every setting by the page's heading and its name."""
    found = {
        (_OUTSIDE, name): Field(kind, getattr(Config(), name))
        for name, kind in types_of(Config).items()
        if kind is str
    }
    for heading, table in TABLES.items():
        for name, kind in types_of(table).items():
            found[heading, name] = Field(kind, getattr(table(), name))
    return found


def described() -> dict[tuple[str, str], Item]:
    return {
        (item.subsection, item.words.split()[0]): item
        for item in items(PAGE)
        if item.macro == "Va"
    }


TABLES = tables()
SETTINGS = settings()
DESCRIBED = described()
NAMES = sorted(SETTINGS)
IDS = [f"{heading}.{name}".replace(" ", "_") for heading, name in NAMES]


def test_the_page_has_every_setting_and_no_other() -> None:
    assert DESCRIBED.keys() == SETTINGS.keys()
    assert len(DESCRIBED) == sum(item.macro == "Va" for item in items(PAGE))


@pytest.mark.parametrize("setting", NAMES, ids=IDS)
def test_a_setting_has_its_default(setting: tuple[str, str]) -> None:
    _, is_shown, text = DESCRIBED[setting].words.partition(" No = ")
    default = SETTINGS[setting].default
    if not is_shown:
        said = DESCRIBED[setting].words.partition(" Pq ")[2]
        assert said == ("optional" if default is None else "required")
        return
    shown: Any = tomllib.loads(f"it = {text}")["it"]
    assert shown == (list(default) if isinstance(default, tuple) else default)
    assert isinstance(shown, list if isinstance(default, tuple) else type(default))


@pytest.mark.parametrize("setting", NAMES, ids=IDS)
def test_a_setting_has_its_type(setting: tuple[str, str]) -> None:
    kind = SETTINGS[setting].type
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    name = name.replace("skragent.config.", "")
    if name == "tuple":
        name = str(kind).replace("skragent.config.", "")
    assert re.match(rf"{_TYPES[name]}[.,]", DESCRIBED[setting].text)


def with_value(table: type[msgspec.Struct], name: str, value: float) -> msgspec.Struct:
    return msgspec.structs.replace(table(), **{name: value})


BOUNDED = [
    (heading, kind, name)
    for heading, kind in TABLES.items()
    for name, setting in settings_of(kind).items()
    if setting.bounds
]


@pytest.mark.parametrize(("heading", "kind", "name"), BOUNDED)
def test_a_number_has_the_bounds_of_the_parser(
    heading: str, kind: type[msgspec.Struct], name: str
) -> None:
    setting = settings_of(kind)[name]
    assert f"umber, {setting.bounds}." in DESCRIBED[heading, name].text
    least, most = setting.least or 0, setting.most or 0
    for value in (least, most, *([0] if setting.zero else [])):
        assert not list(judge_bounds(with_value(kind, name, value), "t"))
    for value in (least - 0.01, -1, most * 1.1):
        assert list(judge_bounds(with_value(kind, name, value), "t"))


def test_every_number_has_bounds() -> None:
    numbers = {key for key, field in SETTINGS.items() if field.type in (int, float)}
    assert numbers == {(heading, name) for heading, _, name in BOUNDED}


@pytest.mark.parametrize("words", [config_rules.ON_DENIAL, config_rules.OPERATIONS])
def test_words_that_a_setting_may_have_are_told(words: tuple[str, ...]) -> None:
    name = "on_denial" if words is config_rules.ON_DENIAL else "operations"
    text = next(item.text for (_, n), item in DESCRIBED.items() if n == name)
    assert all(word in text for word in words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_setting_that_does_not_exist(page: Path) -> None:
    known: set[str] = set()
    for heading, name in SETTINGS:
        known.add(name)
        for table in re.findall(r"\[([A-Za-z.]+)\]", heading):
            known.add(f"{table}.{name}")
    assert words_of(page.name, "Va") <= known


def test_the_bounds_of_the_whole_file_are_told() -> None:
    assert MAX_CONFIG_BYTES == 1024 * 1024
    assert f"at most 1 MiB and {MAX_KEYS} keys" in source(PAGE)


def test_the_examples_can_be_used() -> None:
    _, _, text = source(PAGE).partition(".Sh EXAMPLES")
    examples = re.findall(r"(?ms)^\.Bd -literal.*?$(.*?)^\.Ed", text)
    assert len(examples) == 3
    for example in examples:
        needs_a_key = "[keys." not in example
        a_key = '[keys.k]\nvault = "https://example.vault.azure.net"\n'
        assert parse_config(example + a_key * needs_a_key).keys
