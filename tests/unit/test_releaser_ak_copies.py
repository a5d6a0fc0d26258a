"""The copies of the AK certificate on disk: new or unchanged."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.evidence_amd import NOW, mint_certificate, rsa_key

from skragent.errors import Disposition, EndorsementsError
from skragent.releaser.ak_copies import FILE_NAME, AkCopies


def mint(days: int) -> bytes:
    certificate = mint_certificate(
        "AK", "CA", key=rsa_key("AK"), valid_until=NOW + timedelta(days=days)
    )
    return certificate.public_bytes(Encoding.DER)


OLD, NEW = mint(30), mint(365)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 1000 bytes; a full disk fails at the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def error_of(copies: AkCopies) -> EndorsementsError:
    with pytest.raises(EndorsementsError) as caught:
        copies.save((NEW, OLD))
    return caught.value


def test_copies_come_back_byte_for_byte(tmp_path: Path) -> None:
    copies = AkCopies(str(tmp_path))
    assert not copies.exist()
    copies.save((NEW, OLD))
    assert copies.exist()
    assert copies.load() == (NEW, OLD)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert stat.S_IMODE(copies.path.stat().st_mode) == 0o600


def test_copies_that_are_discarded_are_gone(tmp_path: Path) -> None:
    copies = AkCopies(str(tmp_path))
    copies.save((NEW, OLD))
    copies.discard()
    copies.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_copies_before_and_nothing_else(tmp_path: Path) -> None:
    copies = AkCopies(str(tmp_path))
    copies.save((OLD,))
    with full_disk():
        error = error_of(copies)
    assert (error.code, error.disposition) == (
        "endorsements.ak_copy",
        Disposition.RETRY_SLOWLY,
    )
    assert str(copies.path) in error.message
    assert copies.load() == (OLD,)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_link_in_the_unfinished_files_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("another program's")
    (tmp_path / FILE_NAME).with_suffix(".new").symlink_to(target)
    assert error_of(AkCopies(str(tmp_path))).code == "endorsements.ak_copy"
    assert target.read_text() == "another program's"


def test_without_a_directory_there_are_no_copies_and_the_error_has_a_remedy() -> None:
    copies = AkCopies("")
    assert not copies.exist()
    assert "STATE_DIRECTORY" in error_of(copies).hint


def test_a_file_of_another_kind_has_none(tmp_path: Path) -> None:
    copies = AkCopies(str(tmp_path))
    copies.path.write_bytes(b"\0" * 100)
    assert copies.load() == ()


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    copies = AkCopies(str(tmp_path))
    copies.path.mkdir()
    with pytest.raises(EndorsementsError) as caught:
        copies.load()
    assert caught.value.code == "endorsements.ak_copy"


@pytest.mark.parametrize("name", [FILE_NAME, Path(FILE_NAME).with_suffix(".new").name])
def test_a_fifo_in_a_files_place_is_an_error_and_not_waited_for(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    copies = AkCopies(str(tmp_path))
    if name == FILE_NAME:
        with pytest.raises(EndorsementsError) as caught:
            copies.load()
        assert caught.value.code == "endorsements.ak_copy"
    else:
        assert error_of(copies).code == "endorsements.ak_copy"
