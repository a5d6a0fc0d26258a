"""`skragent check-config`: find every problem before the agent does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skragent.agent import exit_codes
from skragent.cli.config_file import add_config_option, load_config
from skragent.errors import ConfigError
from skragent.serving import resolve_access

if TYPE_CHECKING:
    import argparse

    from skragent.config import Config


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = commands.add_parser(
        "check-config",
        help="find every problem of a configuration file",
        description="Print every problem of a configuration file, with its key path:"
        " settings, users and groups, files. Exit status 0: the agent can use it;"
        " 78: it cannot.",
    )
    add_config_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check; gives the exit code."""
    try:
        config = load_config(arguments.config)
    except ConfigError as error:
        return _refuse(error.problems)
    problems = _judge_files(config)
    try:
        resolve_access(config.keys)
    except ConfigError as error:
        problems += error.problems
    if problems:
        return _refuse(problems)
    for warning in _warnings(config):
        print(f"warning: {warning}")
    count = len(config.keys)
    print(f"ok: {count} key{'s' * (count != 1)}: {', '.join(config.keys)}")
    return exit_codes.OK


def _refuse(problems: list[str]) -> int:
    for problem in problems:
        print(problem)
    return exit_codes.CONFIG


def _judge_files(config: Config) -> list[str]:
    problems = []
    for name in ("amd_roots", "tls_roots", "release_roots"):
        path = getattr(config.trust, name)
        problem = _judge_certificates(Path(path)) if path else ""
        if problem:
            problems.append(f"trust.{name}: {path}: {problem}")
    return problems


def _judge_certificates(path: Path) -> str:
    from cryptography import x509  # noqa: PLC0415 - most configurations name no file

    try:
        x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        return error.strerror or "cannot be read"
    except ValueError:
        return "no certificates in PEM"
    return ""


def _warnings(config: Config) -> list[str]:
    """Tell what may be right on another machine than this one."""
    warnings = [
        f"keys.{alias}.allow: empty: nobody may have this key"
        for alias, key in config.keys.items()
        if not key.allow
    ]
    kind, _, device = config.vtpm.tcti.partition(":")
    if kind == "device" and not Path(device).exists():
        warnings.append(f"vtpm.tcti: {device}: there is no such device here")
    return warnings
