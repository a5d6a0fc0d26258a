"""Check the permissions of a file with a secret: only the agent's user may read it.

The check uses mode, owner and group. It skips a file or a directory with an access
control list, which systemd uses for a unit's credentials.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final, NamedTuple

AGENT_USER: Final = "skragent"  # of skragent.service, made by sysusers.d

# With mode 0400 alone, the agent cannot read a file of root's.
_REMEDY: Final = f"set the owner `{AGENT_USER}` and mode 0400"

_ACL: Final = "system.posix_acl_access"  # acl(5), xattr(7)


class Account(NamedTuple):
    """A user of this machine, with the groups of its processes."""

    name: str
    uid: int
    gids: frozenset[int]


def find_agent_account() -> Account | None:
    """Return the user of the service; None if the machine does not have it."""
    try:
        entry = pwd.getpwnam(AGENT_USER)
    except KeyError:
        return None
    gids = os.getgrouplist(AGENT_USER, entry.pw_gid)
    return Account(AGENT_USER, entry.pw_uid, frozenset(gids))


def judge_permissions(path: str, agent: Account | None) -> list[str]:
    """List the problems of the permissions of a file that holds a secret.

    Args:
        path: the absolute path of an existing file.
        agent: the user that must be able to read the file; None if unknown.

    Raises:
        OSError: the status of the file or of a directory cannot be read.
    """
    real = _resolve(path)
    odd = []
    if agent and not _can_read(real, agent):
        odd.append(f"the agent's user, `{agent.name}`, cannot read it")
    status = real.stat()
    if _has_acl(real):
        return odd
    if status.st_mode & stat.S_IROTH:
        odd.append(f"every user of this machine can read it: {_REMEDY}")
    elif status.st_mode & stat.S_IRGRP and status.st_gid:
        odd.append(f"the group `{_group_name(status.st_gid)}` can read it: {_REMEDY}")
    return odd


def _resolve(path: str) -> Path:
    try:
        return Path(path).resolve(strict=True)
    except RuntimeError as error:  # Python before 3.13: symbolic links in a loop
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name") from error


def _can_read(file: Path, account: Account) -> bool:
    return all(_grants(parent, account, stat.S_IXOTH) for parent in file.parents) and (
        _grants(file, account, stat.S_IROTH)
    )


def _grants(path: Path, account: Account, permission: int) -> bool:
    """Return whether the mode grants a permission: path_resolution(7).

    Args:
        path: the file or directory.
        account: the user.
        permission: the permission's bit for other users.
    """
    status = path.stat()
    if account.uid == 0 or _has_acl(path):
        return True
    if status.st_uid == account.uid:
        permission <<= 6
    elif status.st_gid in account.gids:
        permission <<= 3
    return bool(status.st_mode & permission)


def _has_acl(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, _ACL))
    except OSError:  # no list, or a file system without lists
        return False


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
