"""Which users can read a file with a secret: by its mode and its directories' modes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skragent.cli.file_permissions import Account, judge_permissions

if TYPE_CHECKING:
    from collections.abc import Iterator

STRANGER = Account("skragent", 54321, frozenset({54322}))


@pytest.fixture
def secret() -> Iterator[Path]:
    """A file that its owner alone can read, in a directory that all can search.

    Not in tmp_path, which is below a directory of pytest's with mode 0700.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        path = directory / "secret"
        path.write_text("secret")
        path.chmod(0o400)
        yield path


def test_a_file_of_its_owner_alone_is_not_odd(secret: Path) -> None:
    owner = Account("owner", secret.stat().st_uid, frozenset())
    assert judge_permissions(str(secret), owner) == []


def test_the_agents_user_must_be_able_to_read_it(secret: Path) -> None:
    assert judge_permissions(str(secret), STRANGER) == [
        "the agent's user, `skragent`, cannot read it"
    ]


def test_an_unknown_agent_is_not_judged(secret: Path) -> None:
    assert judge_permissions(str(secret), None) == []


def test_a_file_that_every_user_can_read_is_odd(secret: Path) -> None:
    secret.chmod(0o444)
    (odd,) = judge_permissions(str(secret), None)
    assert odd == (
        "every user of this machine can read it: set the owner `skragent` and mode 0400"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file to another group")
def test_a_file_that_a_group_can_read_is_odd(secret: Path) -> None:
    os.chown(secret, 0, 54322)
    secret.chmod(0o440)
    (odd,) = judge_permissions(str(secret), STRANGER)
    assert odd == (
        "the group `54322` can read it: set the owner `skragent` and mode 0400"
    )


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file to another group")
def test_the_mode_for_a_group_counts_before_that_for_others(secret: Path) -> None:
    os.chown(secret, 0, 54322)
    secret.chmod(0o404)
    assert "cannot read it" in judge_permissions(str(secret), STRANGER)[0]


def test_a_directory_that_the_agents_user_cannot_search_counts(secret: Path) -> None:
    secret.chmod(0o444)
    assert len(judge_permissions(str(secret), STRANGER)) == 1
    secret.parent.chmod(0o700)
    assert "cannot read it" in judge_permissions(str(secret), STRANGER)[0]


def test_a_link_is_judged_by_the_file_that_it_leads_to(secret: Path) -> None:
    link = secret.with_name("link")
    link.symlink_to(secret)
    assert "cannot read it" in judge_permissions(str(link), STRANGER)[0]


def test_a_loop_of_links_is_an_error_of_the_file(secret: Path) -> None:
    loop = secret.with_name("loop")
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        judge_permissions(str(loop), None)


def test_a_path_with_a_nul_is_an_error_of_the_file() -> None:
    with pytest.raises(OSError, match="no file can have this name"):
        judge_permissions("/tmp/a\0b", None)


def test_a_file_with_an_access_control_list_is_left_out(secret: Path) -> None:
    # Version 2; the owner, user 54321, the group, the mask and others: acl(5).
    entries = [(1, 4, -1), (2, 4, 54321), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little")
        + mode.to_bytes(2, "little")
        + (who % 2**32).to_bytes(4, "little")
        for tag, mode, who in entries
    )
    try:
        os.setxattr(secret, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"this file system has no access control lists: {error}")
    assert judge_permissions(str(secret), STRANGER) == []
