"""bash offers every command and option of the parser, and keys."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.commands import COMMANDS, options_of, parser_of
from support.completion import complete, put_command
from support.manual import ROOT

STATUS = """\
{
  "version": "1",
  "keys": [
    {
      "name": "db",
      "state": "current"
    },
    {
      "name": "web-1",
      "state": "waiting"
    }
  ]
}
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def test_every_command_is_offered() -> None:
    assert complete("") == list(COMMANDS)


def test_a_command_is_offered_by_its_beginning() -> None:
    assert complete("re") == ["refresh", "reload", "report"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_option_is_offered(command: str) -> None:
    words = [command, "-"] if command else ["-"]
    expected = {*options_of(command), "-h", "--help"}
    assert sorted(complete(*words)) == sorted(expected)


@pytest.mark.parametrize(
    "words", [("get", "--format", ""), ("get", "--format", "="), ("get", "--format=")]
)
def test_every_format_is_offered(words: tuple[str, ...]) -> None:
    formats = next(
        action.choices for action in parser_of("get")._actions if action.choices
    )
    cut = [piece for word in words for piece in word.replace("=", " = ").split()]
    assert complete(*(cut if words[-1] else words)) == list(formats or ())


@pytest.mark.parametrize("command", ["get", "refresh", "drop", "wait"])
def test_the_agents_keys_are_offered(command: str, tmp_path: Path) -> None:
    path = put_command(tmp_path, f"cat <<'X'\n{STATUS}X")
    assert complete(command, "", path=path) == ["db", "web-1"]
    assert complete(command, "w", path=path) == ["web-1"]


def test_the_socket_of_the_command_line_is_asked(tmp_path: Path) -> None:
    body = f'[ "$*" = "status --json --socket /s" ] && cat <<\'X\'\n{STATUS}X'
    path = put_command(tmp_path, body)
    assert complete("get", "--socket", "/s", "d", path=path) == ["db"]


def test_the_configurations_keys_are_offered_without_an_agent(
    tmp_path: Path,
) -> None:
    path = put_command(tmp_path, "exit 75")
    for option in (["--config"], ["--config", "="]):
        words = ["get", *option, str(ROOT / "config.example.toml"), ""]
        assert complete(*words, path=path) == ["database", "backup"]


def test_an_invalid_name_of_a_key_is_not_executed(tmp_path: Path) -> None:
    hostile = STATUS.replace("db", "$(touch${IFS}ran)")
    path = put_command(tmp_path, f"cat <<'X'\n{hostile}X")
    assert complete("get", "", path=path, directory=tmp_path) == ["web-1"]
    assert not (tmp_path / "ran").exists()


def test_files_are_offered_for_options_with_files(tmp_path: Path) -> None:
    (tmp_path / "a b.toml").touch()
    offered = complete("run", "--config", "a", directory=tmp_path)
    assert " ".join(offered) == "a b.toml"


def test_nothing_is_offered_for_an_unknown_command() -> None:
    assert complete("xyzzy", "") == []
