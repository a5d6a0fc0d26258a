"""`skragent check-config`: find every problem before the agent does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skragent.agent import exit_codes
from skragent.cli.config_file import add_config_option, examine_file
from skragent.config import in_short, merge
from skragent.errors import ConfigError
from skragent.serving import probe_pidfd, resolve_access

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
        config, problems = examine_file(arguments.config)
    except ConfigError as error:
        return _refuse(error.problems)
    problems = merge(problems, _judge_files(config))
    try:
        resolve_access(config.keys)
    except ConfigError as error:
        problems = merge(problems, error.problems)
    if problems:
        return _refuse(in_short(problems))
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
    if not config.agent.unit_rules_without_pidfd and not probe_pidfd():
        warnings += [
            f"keys.{alias}.allow[{i}].unit: this kernel has no peer pidfds (Linux 6.5):"
            " on api.sock it matches nobody, see agent.unit_rules_without_pidfd"
            for alias, key in config.keys.items()
            for i, rule in enumerate(key.allow)
            if rule.unit is not None
        ]
    kind, _, device = config.vtpm.tcti.partition(":")
    if kind == "device" and not Path(device).exists():
        warnings.append(f"vtpm.tcti: {device}: there is no such device here")
    return warnings
