"""skragent.toml(5) has every setting with type, default and bounds, and no other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_origin

import msgspec
import pytest
from support.manual import PAGES, Item, items, source, words_of

from skragent import config_rules
from skragent.config import (
    MAX_CONFIG_BYTES,
    AllowRule,
    Config,
    IdentityConfig,
    KeyConfig,
    parse_config,
)
from skragent.job import MAX_KEYS

PAGE = "skragent.toml.5"

# The page's headings of what is not simply a table of `Config`.
_OUTSIDE = "Outside of any table"
_HEADINGS: dict[str, type[msgspec.Struct]] = {
    "[identity] and [identities.NAME]": IdentityConfig,
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


def settings() -> dict[tuple[str, str], msgspec.structs.FieldInfo]:
    """Every setting by the page's heading and its name."""
    tables: dict[str, type[msgspec.Struct]] = dict(_HEADINGS)
    found: dict[tuple[str, str], msgspec.structs.FieldInfo] = {}
    for setting in msgspec.structs.fields(Config):
        kind = setting.type
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind is not IdentityConfig:
                tables[f"[{setting.name}]"] = kind
        elif get_origin(kind) is not dict:
            found[_OUTSIDE, setting.name] = setting
    for heading, kind in tables.items():
        for setting in msgspec.structs.fields(kind):
            found[heading, setting.name] = setting
    return found


def described() -> dict[tuple[str, str], Item]:
    return {
        (item.subsection, item.words.split()[0]): item
        for item in items(PAGE)
        if item.macro == "Va"
    }


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


def test_settings_have_their_bounds() -> None:
    keys = "[keys.NAME]"
    bounds = {("[serving]", name): of for name, of in config_rules._SERVING.items()}
    bounds[keys, "refresh_seconds"] = config_rules._REFRESH
    bounds[keys, "version_check_seconds"] = config_rules._CHECK
    bounds[keys, "max_stale_seconds"] = config_rules._MAX_STALE
    bounds[keys, "overlap_seconds"] = config_rules._MAX_STALE
    for setting, (least, most) in bounds.items():
        text = DESCRIBED[setting].text
        assert f"Whole number, from {least} to {most}" in text, setting


@pytest.mark.parametrize(
    ("setting", "least", "most"),
    [
        (("[refresh]", "token_fraction"), 0.1, 0.9),
        (("[limits]", "request_timeout_seconds"), 0.1, 300),
        (("[limits]", "job_timeout_seconds"), 1, 3600),
    ],
)
def test_numbers_have_the_bounds_that_the_parser_has(
    setting: tuple[str, str], least: float, most: float
) -> None:
    def problems(value: float) -> list[str]:
        table, name = setting[0].strip("[]"), setting[1]
        changed = msgspec.structs.replace(getattr(Config(), table), **{name: value})
        config = msgspec.structs.replace(Config(), **{table: changed})
        return config_rules.judge(config)

    assert f"Number, from {least:g} to {most:g}." in DESCRIBED[setting].text
    assert problems(least) == problems(most) == []
    assert problems(least * 0.9)
    assert problems(most * 1.1)


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
