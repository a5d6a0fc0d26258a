"""zsh's completion has exactly the commands, options and formats of the parser."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from support.commands import COMMANDS, options_of, parser_of
from support.manual import ROOT

SCRIPT = ROOT / "packaging" / "completion" / "_skragent"
TEXT = SCRIPT.read_text()


def arm(command: str) -> str:
    """Return the script's part for a command, with its arrays expanded."""
    found = re.search(
        rf"(?ms)^    ((?:[a-z-]+ \| )*)?\b{command}( \| [a-z-]+)*\)(.*?);;$", TEXT
    )
    assert found, command
    text = found.group(3)
    for name in re.findall(r"\$(\w+)", text):
        array = re.search(rf"(?ms)local -a {name}=\((.*?)\)$", TEXT)
        text += array.group(1) if array else ""
    return text


def test_zsh_can_read_it() -> None:
    assert TEXT.startswith("#compdef skragent\n")
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("needs zsh (Debian: zsh)")
    done = subprocess.run(
        [zsh, "-n", SCRIPT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_is_offered() -> None:
    offered = re.findall(r"(?m)^    '([a-z-]+):", TEXT)
    assert offered == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_offered(command: str) -> None:
    offered = re.findall(r"'(?:\([a-z-]*\)|\*)?(--[a-z-]+)\[", arm(command))
    assert sorted(offered) == sorted(options_of(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_keys_are_offered_for_commands_with_keys(command: str) -> None:
    takes_keys = any(a.metavar == "KEY" for a in parser_of(command)._actions)
    assert ("_skragent_keys" in arm(command)) == takes_keys


def test_every_format_is_offered() -> None:
    formats = next(a.choices for a in parser_of("get")._actions if a.choices)
    assert f":format:({' '.join(formats or ())})" in arm("get")
