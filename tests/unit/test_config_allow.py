"""What a rule of `allow` may say of units and operations."""

from __future__ import annotations

import pytest

from skragent.config import AllowRule, examine_config, parse_config
from skragent.errors import ConfigError

KEY = '[keys.disk]\nvault = "https://v.vault.azure.net"\n'
ENTRY = "keys.disk.allow[0]"


def with_rule(rule: str) -> str:
    return f"{KEY}allow = [{{ {rule} }}]"


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value.problems


def places_of(text: str) -> list[str]:
    return [problem.partition(": ")[0] for problem in problems_of(text)]


@pytest.mark.parametrize(
    "unit",
    [
        "app.service",
        "app@.service",
        "app@x.service",
        "app@*.service",
        "session-2.scope",
        "*",
        "app-*",
        "app-?.service",
        "app-[0-9a-f].socket",
        "app-[!x].service",
        r"dev-disk\\x2dby.swap",
        "a:b_c.mount",
        f"{'a' * 248}.service",
    ],
)
def test_a_units_name_a_template_or_a_glob_is_a_rule(unit: str) -> None:
    (rule,) = parse_config(with_rule(f'unit = "{unit}"')).keys["disk"].allow
    assert rule == AllowRule(unit=unit.replace("\\\\", "\\"))


@pytest.mark.parametrize(
    "unit",
    [
        "",
        "app",
        ".service",
        "app.services",
        "app.service.d",
        "system.slice",
        "app*.slice",
        "app/b.service",
        "/system.slice/app.service",
        "a b.service",
        "äpp.service",
        r"app\n.service",
        "app-[.service",
        "app-].service",
        "app-[].service",
        "app-[[a].service",
        "app-[z-a].service",
        "app-?",
        "{a,b}.service",
        f"{'a' * 249}.service",
    ],
)
def test_what_no_unit_is_called_is_refused(unit: str) -> None:
    assert places_of(with_rule(f'unit = "{unit}"')) == [f"{ENTRY}.unit"]


def test_a_number_as_unit_is_rejected() -> None:
    assert places_of(with_rule("unit = 7")) == [f"{ENTRY}.unit"]


def test_a_rule_is_for_every_operation_unless_it_says() -> None:
    both = parse_config(with_rule("user = 1")).keys["disk"].allow
    one = parse_config(with_rule('user = 1, operations = ["get"]')).keys["disk"].allow
    assert both == (AllowRule(user=1, operations=("get", "public")),)
    assert one == (AllowRule(user=1, operations=("get",)),)


@pytest.mark.parametrize(
    ("operations", "place"),
    [
        ("[]", f"{ENTRY}.operations"),
        ('["get", "get"]', f"{ENTRY}.operations[1]"),
        ('["sign"]', f"{ENTRY}.operations[0]"),
        ('["public", ""]', f"{ENTRY}.operations[1]"),
        ('["get", 1]', f"{ENTRY}.operations[1]"),
        ('"get"', f"{ENTRY}.operations"),
    ],
)
def test_operations_are_known_ones_each_once(operations: str, place: str) -> None:
    text = with_rule(f"user = 1, operations = {operations}")
    assert places_of(text) == [place]


def test_a_misspelt_operation_is_refused_with_the_one_that_was_meant() -> None:
    (problem,) = problems_of(with_rule('user = 1, operations = ["pubic"]'))
    assert problem.endswith("did you mean `public`?")


def test_a_rule_with_only_operations_is_rejected() -> None:
    assert places_of(with_rule('operations = ["get"]')) == [ENTRY]


def test_an_entry_that_cannot_be_read_is_told_of_once() -> None:
    text = f'{KEY}allow = ["me", {{ usr = 1 }}, {{ user = -1 }}, {{}}]'
    assert places_of(text) == [
        "keys.disk.allow[0]",
        "keys.disk.allow[1].usr",
        "keys.disk.allow[2].user",
        "keys.disk.allow[3]",
    ]


def test_what_could_be_read_is_there_to_be_asked_more_of() -> None:
    text = f'[agent]\napi_socket = "s"\n{KEY}allow = [1, {{ user = "x" }}]'
    config, problems = examine_config(text)
    assert len(problems) == 2
    assert config.keys["disk"].allow == (AllowRule(), AllowRule(user="x"))
