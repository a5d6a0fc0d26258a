"""skragent(1) has every command, option, operand and exit status, and no other."""

from __future__ import annotations

import argparse
import re

import pytest
from support.commands import COMMANDS, options_of, parser_of
from support.manual import items, source, subsections

from skragent import exit_codes

PAGE = "skragent.1"


def test_the_page_has_every_command_in_the_order_of_the_help() -> None:
    sections = re.findall(r"(?m)^\.Ss (.*)$", source(PAGE))
    assert sections == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_explained(command: str) -> None:
    explained = [
        f"-{item.words.split()[0]}"
        for item in items(PAGE)
        if item.subsection == command and item.macro == "Fl"
    ]
    assert sorted(explained) == sorted(options_of(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_synopsis_of_a_command_has_its_options_and_operands(command: str) -> None:
    synopsis, _, _ = subsections(PAGE)[command].partition(".Pp")
    assert sorted(f"-{o}" for o in re.findall(r"Fl (-\S+)", synopsis)) == sorted(
        options_of(command)
    )
    operands = {
        (action.metavar, action.nargs == "*")
        for action in parser_of(command)._actions
        if not action.option_strings
    }
    assert {
        (name, line.startswith(".Op"))
        for line, name in re.findall(r"(?m)^(\.(?:Op )?Ar (KEY).*)$", synopsis)
    } == operands


@pytest.mark.parametrize("command", COMMANDS)
def test_choices_of_an_option_are_told(command: str) -> None:
    text = subsections(PAGE)[command]
    for action in parser_of(command)._actions:
        for choice in action.choices or ():
            assert re.search(rf"\b{choice}\b", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_exit_statuses_of_a_command_are_those_of_its_help(command: str) -> None:
    epilog = parser_of(command).epilog or ""
    _, _, helped = epilog.partition("exit status:\n")
    expected = re.findall(r"(?m)^  (\d+) ", helped.partition("\n\n")[0])
    _, _, text = subsections(PAGE)[command].partition("Exit status:")
    told = re.findall(r"(?:^|; ?\n?)\s*(\d+)\b", text)
    assert told == expected


def test_the_general_options_are_explained() -> None:
    explained = {
        f"-{word}"
        for item in items(PAGE)
        if item.section == "COMMANDS" and not item.subsection and item.macro == "Fl"
        for word in item.words.replace(",", " ").split()
    }
    parser = parser_of("")
    assert explained == {o for a in parser._actions for o in a.option_strings}


def test_every_exit_status_is_in_the_list_of_all() -> None:
    told = {int(i.macro) for i in items(PAGE) if i.section == "EXIT STATUS"}
    codes = {v for n, v in vars(exit_codes).items() if n.isupper() and type(v) is int}
    assert told == codes | {1}  # report's own


def test_the_examples_are_commands_that_there_are() -> None:
    _, _, examples = source(PAGE).partition(".Sh EXAMPLES")
    lines = re.findall(r"\bskragent ([a-z-]+ [^|&\n]*)", examples)
    assert len(lines) >= 6
    for line in lines:
        words = line.split()
        parsed = parser_of("", words).parse_args(words)
        assert isinstance(parsed, argparse.Namespace)
