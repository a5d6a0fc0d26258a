"""`skragent check-config`: find every problem of a configuration file."""

from __future__ import annotations

import grp
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skragent import exit_codes
from skragent.cli import deadline
from skragent.cli.agent_requests import add_command
from skragent.cli.config_file import add_config_option, examine_file
from skragent.cli.referenced_files import judge_files
from skragent.clouds import CLOUDS, judge_vault_host
from skragent.config import in_short, merge
from skragent.config_rules import shown, vault_setting
from skragent.errors import ConfigError
from skragent.serving import judge_name_lengths, probe_pidfd, resolve_access

if TYPE_CHECKING:
    import argparse

    from skragent.config import Config, KeyConfig


_EPILOG: Final = """\
The command checks settings, users, groups and files, and prints each problem on stdout
with the path of its setting. Warnings name values that may be intended, or right on
another machine. One run prints all problems and all warnings.

exit status:
  0    the agent can use the file
  73   the output could not be written
  75   the check did not end in time, for example because the directory service does
       not respond
  78   the agent cannot use the file"""

_RUN: Final = Path("/run/skragent")  # systemd creates it


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        commands,
        "check-config",
        "find every problem of a configuration file",
        epilog=_EPILOG,
    )
    add_config_option(parser)
    parser.set_defaults(run=run, deadline=deadline.USUAL_SECONDS)


def run(arguments: argparse.Namespace) -> int:
    """Check the file; return the exit code."""
    deadline.doing(f"reading {arguments.config}")
    try:
        config, problems = examine_file(arguments.config)
    except ConfigError as error:
        for problem in error.problems:
            print(problem)
        return exit_codes.CONFIG
    deadline.doing("reading the files of the configuration")
    files = judge_files(config)
    problems = merge(problems, files.problems)
    deadline.doing("looking up users and groups")
    try:
        resolve_access(config.keys)
    except ConfigError as error:
        problems = merge(problems, error.problems)
    # A place with a problem needs no warning.
    warnings = merge(problems, _warnings(config) + files.warnings)[len(problems) :]
    for problem in in_short(problems):
        print(problem)
    for warning in in_short(warnings):
        print(f"warning: {warning}")
    if problems:
        return exit_codes.CONFIG
    count = len(config.keys)
    print(f"ok: {count} key{'s' * (count != 1)}: {', '.join(config.keys)}")
    return exit_codes.OK


def _warnings(config: Config) -> list[str]:
    """Return findings that may be intended, or right on another machine.

    The configuration may have problems, so that values are arbitrary.
    """
    warnings = [
        f"keys.{shown(alias)}.allow: empty: no caller may use this key"
        for alias, key in config.keys.items()
        if not key.allow
    ]
    warnings += [
        f"keys.{shown(alias)}.{vault_setting(key)}: {odd}"
        for alias, key in config.keys.items()
        if (odd := _judge_vault(key, config.cloud))
    ]
    if not config.agent.unit_rules_without_pidfd and not probe_pidfd():
        warnings += [
            f"keys.{shown(alias)}.allow[{i}].unit: this kernel has no peer pidfds"
            " (Linux 6.5): on api.sock the rule matches no caller, see"
            " agent.unit_rules_without_pidfd"
            for alias, key in config.keys.items()
            for i, rule in enumerate(key.allow)
            if rule.unit is not None
        ]
    warnings += [
        f"keys.{shown(alias)}.allow[{i}].unit: `{rule.unit}` matches every unit,"
        " and users' sessions"
        for alias, key in config.keys.items()
        for i, rule in enumerate(key.allow)
        if rule.unit is not None and not rule.unit.strip("*?")
    ]
    warnings += _warnings_of_credentials(config)
    return warnings + _warnings_of_files(config)


def _judge_vault(key: KeyConfig, cloud: str) -> str:
    if cloud not in CLOUDS:
        return ""
    path = key.id.removeprefix(key.vault)
    return judge_vault_host(key.vault, cloud=cloud, path=path)


def _warnings_of_credentials(config: Config) -> list[str]:
    """List rules whose unit name is too long for LoadCredential=."""
    if not config.agent.credentials_socket:
        return []
    return [
        f"keys.{shown(alias)}.allow[{i}].unit: {problem}"
        for alias, key in config.keys.items()
        for i, rule in enumerate(key.allow)
        if rule.unit is not None and rule.user is None and rule.group is None
        if "get" in rule.operations
        if (problem := judge_name_lengths(rule.unit, alias))
    ]


def _warnings_of_files(config: Config) -> list[str]:
    agent = config.agent
    files = {}
    kind, _, where = config.vtpm.tcti.partition(":")
    if kind in ("device", "swtpm"):
        files["vtpm.tcti"] = where.removeprefix("path=")
    warnings = [
        f"{name}: {path}: no such file on this machine"
        for name, path in files.items()
        if path.startswith("/") and not _exists(path)
    ]
    sockets = ("api_socket", "credentials_socket", "admin_socket")
    for name in sockets:
        path = Path(getattr(agent, name))
        if _exists(path) and not path.is_socket():
            warnings.append(f"agent.{name}: {path}: the file is not a socket")
        elif path.parent != _RUN and not _exists(path.parent):
            warnings.append(f"agent.{name}: {path.parent}: no such directory")
    if Path(agent.api_socket).parent == _RUN and not _has_group("skragent"):
        warnings.append(
            "agent.api_socket: this machine does not have the group `skragent`"
        )
    return warnings


def _exists(path: str | Path) -> bool:
    try:
        Path(path).lstat()
    except PermissionError:
        return True  # this user cannot see whether it exists
    except (OSError, ValueError):  # a NUL in the path
        return False
    return True


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
