"""Values of every TOML type in the place of every setting."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from skragent.config import Config, KeyConfig, parse_config
from skragent.errors import ConfigError

MAX_PROBLEM = 400

SETTINGS = [
    f"{table.name}.{field.name}"
    for table in msgspec.structs.fields(Config)
    if isinstance(getattr(Config(), table.name), msgspec.Struct)
    for field in msgspec.structs.fields(getattr(Config(), table.name))
] + [
    "cloud",
    *(f"keys.disk.{field.name}" for field in msgspec.structs.fields(KeyConfig)),
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
scalars = (
    st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.sampled_from(["https://h", "http://h:1", "/a", "h:1", "swtpm:", "a" * 5000])
    | st.dates()
    | st.times()
    | st.datetimes()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=6,
)


def as_toml(value: Any) -> str:  # noqa: ANN401 - any TOML value
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        pairs = (f"{as_toml(name)} = {as_toml(inner)}" for name, inner in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    return repr(value)


def outcome_of(text: str) -> Config | list[str]:
    try:
        return parse_config(text)
    except ConfigError as error:
        return error.problems


def strings_in(value: object) -> list[str]:
    builtin = msgspec.to_builtins(value, builtin_types=())
    found: list[str] = []
    pending = [builtin]
    while pending:
        match pending.pop():
            case str(text):
                found.append(text)
            case dict() as table:
                pending += [*table.keys(), *table.values()]
            case list() | tuple() as entries:
                pending += entries
    return found


@given(st.dictionaries(st.sampled_from(SETTINGS), values, max_size=3))
def test_any_value_of_any_setting_is_accepted_or_told_of_in_short_lines(
    document: dict[str, Any],
) -> None:
    document.setdefault("keys.disk.vault", "https://v.vault.azure.net")
    text = "".join(f"{name} = {as_toml(value)}\n" for name, value in document.items())
    outcome = outcome_of(text)
    if isinstance(outcome, Config):
        assert all(text.isprintable() for text in strings_in(outcome))
    else:
        assert outcome
        assert all(p.isprintable() and len(p) <= MAX_PROBLEM for p in outcome)


@given(texts, values)
@example("0" * 24 + "\N{LANGUAGE TAG}" * 20, {})  # each is shown as ten characters
def test_any_name_of_a_setting_or_a_key_is_accepted_or_told_of_in_short_lines(
    name: str, value: object
) -> None:
    for path in (as_toml(name), f"agent.{as_toml(name)}", f"keys.{as_toml(name)}"):
        outcome = outcome_of(f"{path} = {as_toml(value)}\n")
        assert not isinstance(outcome, Config)  # there is no key with a vault
        assert all(p.isprintable() and len(p) <= MAX_PROBLEM for p in outcome)


STARTS = ("", "/", "https://", "http://", "https://h", "device:", "swtpm:path=")


@given(st.sampled_from(SETTINGS), st.sampled_from(STARTS), texts)
def test_no_setting_keeps_a_character_that_a_terminal_would_not_show(
    setting: str, start: str, rest: str
) -> None:
    lines = {"keys.disk.vault": '"https://v.vault.azure.net"'}
    lines[setting] = as_toml(start + rest)
    outcome = outcome_of("".join(f"{name} = {lines[name]}\n" for name in lines))
    if isinstance(outcome, Config):
        assert all(text.isprintable() for text in strings_in(outcome))
    else:
        # A wrong setting of an identity can make other settings of it missing.
        more = {"identity", "identity.client_id"} if "identity" in setting else set()
        assert {problem.partition(": ")[0] for problem in outcome} <= {setting} | more
