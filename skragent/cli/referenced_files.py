"""Check the files that a configuration names, with the releaser's own functions.

If a setting for roots is empty, the check reads the system's bundle. A problem with a
file of the system, or a file that is missing or not readable, is a warning: the
configuration may be for another machine, and the agent runs as another user.
"""

from __future__ import annotations

import contextlib
import errno
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from skragent.agent.clock import SystemClock
from skragent.cli.file_permissions import find_agent_account, judge_permissions
from skragent.errors import ConfigError, EndorsementsError, IdentityError
from skragent.files import NotRegularError, open_regular, read_regular
from skragent.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skragent.config import Config

_IDENTITY_FILES: Final = ("certificate", "secret_file", "token_file")
_ELSEWHERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)
_THE_SYSTEM: Final = "the system's roots"


@dataclass(slots=True)
class FileChecks:
    """Findings about files, each with the path of its setting."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def judge_files(config: Config) -> FileChecks:
    """Read every file that the configuration names, and the system's roots."""
    found = FileChecks()
    _judge_amd_roots(config.trust.amd_roots, found)
    _judge_tls_roots(config.trust.tls_roots, found)
    _judge_release_roots(config.trust.release_roots, found)
    _judge_tcg_log(config.vtpm.tcg_log, found)
    for name, identity in _identities(config):
        _judge_identity(name, identity, found)
    return found


def _judge_amd_roots(path: str, found: FileChecks) -> None:
    if not path:  # AMD's own roots are built in
        return
    # Imported here: cryptography is slow to import.
    from skragent.evidence.endorsements import parse_roots  # noqa: PLC0415 - see above
    from skragent.pem_bundle import MAX_BUNDLE_BYTES  # noqa: PLC0415 - see above

    try:
        skipped = parse_roots(read_regular(path, max_bytes=MAX_BUNDLE_BYTES)).skipped
    except OSError as error:
        found.problems.append(f"trust.amd_roots: {path}: {error.strerror or error}")
    except EndorsementsError as error:
        found.problems.append(f"trust.amd_roots: {path}: {error.message}")
    else:
        found.warnings += [f"trust.amd_roots: {path}: {text}" for text in skipped]


def _judge_tls_roots(path: str, found: FileChecks) -> None:
    from skragent.tls_roots import make_tls_context  # noqa: PLC0415 - as above

    try:
        _, skipped = make_tls_context(path)
    except ConfigError as error:  # not for the system's bundle
        found.problems.append(f"trust.tls_roots: {error.message}")
        return
    where = path or ssl.get_default_verify_paths().cafile or _THE_SYSTEM
    found.warnings += [f"trust.tls_roots: {where}: {text}" for text in skipped]


def _judge_release_roots(path: str, found: FileChecks) -> None:
    from skragent.release.signature_roots import (  # noqa: PLC0415 - as above
        find_system_bundle,
        read_roots,
    )

    try:
        where = path or find_system_bundle()
        skipped = read_roots(where).skipped
    except ConfigError as error:
        text = error.message.removeprefix("trust: ")
        if path:
            found.problems.append(f"trust.release_roots: {text}")
        else:
            found.warnings.append(f"trust.release_roots: {_THE_SYSTEM}: {text}")
        return
    found.warnings += [f"trust.release_roots: {where}: {text}" for text in skipped]


def _judge_tcg_log(path: str, found: FileChecks) -> None:
    try:
        if path:
            open_regular(path).close()
    except NotRegularError as error:
        found.problems.append(f"vtpm.tcg_log: {path}: {error.strerror}")
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            found.warnings.append(f"vtpm.tcg_log: {path}: no such file on this machine")


def _identities(config: Config) -> Iterator[tuple[str, Identity]]:
    yield "identity", config.identity
    for name, identity in config.identities.items():
        yield f"identities.{name}", identity


def _judge_identity(name: str, identity: Identity, found: FileChecks) -> None:
    """Check an application's file with the releaser's function, and its permissions."""
    for setting in _IDENTITY_FILES:
        path = getattr(identity, setting)
        if not path:
            continue
        # Imported here: azure-identity is slow to import.
        from skragent.release.azure_credentials import judge_file  # noqa: PLC0415 - see above

        where = f"{name}.{setting}: "
        try:
            now = datetime.fromtimestamp(SystemClock().now(), UTC)
            if odd := judge_file(Identity(**{setting: path}), now):
                found.warnings.append(f"{where}{path}: {odd}")
        except IdentityError as error:
            is_elsewhere = _may_be_elsewhere(error.__cause__)
            findings = found.warnings if is_elsewhere else found.problems
            findings.append(where + error.message)
        with contextlib.suppress(OSError):  # then the finding above says so
            found.warnings += [
                f"{where}{path}: {odd}"
                for odd in judge_permissions(path, find_agent_account())
            ]


def _may_be_elsewhere(error: BaseException | None) -> bool:
    """Return whether a file is missing here, or not readable for this user."""
    return isinstance(error, OSError) and error.errno in _ELSEWHERE
