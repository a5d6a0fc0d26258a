"""The argument parser of the command, for texts that must agree with the parser."""

from __future__ import annotations

import argparse

from skragent.cli import main

COMMANDS = tuple(main._COMMANDS)


def parser_of(command: str, words: list[str] | None = None) -> argparse.ArgumentParser:
    """Return the parser of one command, or of all commands for an empty name."""
    parser = main._build_parser(words or [command])
    if not command:
        return parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found: argparse.ArgumentParser = action.choices[command]
            return found
    raise LookupError(command)


def options_of(command: str) -> list[str]:
    """List the options of a command, except -h and --help."""
    return [
        option
        for action in parser_of(command)._actions
        for option in action.option_strings
        if option not in {"-h", "--help"}
    ]
