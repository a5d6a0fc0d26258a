"""Copies of the AK certificate on disk, while its NV index is being written.

The copies are written before the index is touched, and removed after the new
certificate has been read back. So the index or the disk has a certificate when a kill,
a busy TPM or a loss of power interrupts a renewal.

The file has the new certificate and the previous one, because a mixture of the two can
only be recognised by comparing the index with both. Certificates are not secret.

This module imports little, because every job checks for copies.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skragent.errors import EndorsementsError
from skragent.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE_NAME: Final = "ak-certificate.pem"

# Two certificates have 4 kB.
_MAX_FILE_BYTES: Final = 64 * 1024


class AkCopies:
    """The copies in one directory.

    Args:
        directory: systemd's StateDirectory=; empty if there is none. Then `exist` is
            false and `save` fails.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    @property
    def path(self) -> Path:
        """The file's path."""
        return Path(self._directory, FILE_NAME)

    def exist(self) -> bool:
        """Return whether there are copies: then a renewal was interrupted."""
        return bool(self._directory) and self.path.exists()

    def save(self, certificates: Iterable[bytes]) -> None:
        """Write the copies; they survive a loss of power after the return.

        Args:
            certificates: in DER, the new one first.

        Raises:
            EndorsementsError: endorsements.ak_copy: the file could not be written.
        """
        if not self._directory:
            raise _cannot_copy(
                "the agent was started without a state directory",
                "systemd sets STATE_DIRECTORY, by StateDirectory=skragent in the unit."
                " If another program starts the agent, set STATE_DIRECTORY to a"
                " directory that only the agent's user can write.",
            )
        from skragent.evidence.ak_certificate import encode_pem  # noqa: PLC0415 - see above

        text = b"".join(map(encode_pem, certificates))
        try:
            _write_durably(self.path, text)
        except OSError as error:
            raise _cannot_copy(
                f"{self.path}: {error.strerror or error}",
                "Free space in the directory, and let the agent's user write to it.",
            ) from error

    def load(self) -> tuple[bytes, ...]:
        """Return the copies in DER; none if the file has no certificate.

        Raises:
            EndorsementsError: endorsements.ak_copy: the file could not be read.
        """
        from skragent.evidence.ak_certificate import decode_pem  # noqa: PLC0415 - see above

        try:
            return decode_pem(read_regular(str(self.path), max_bytes=_MAX_FILE_BYTES))
        except OSError as error:
            raise EndorsementsError(
                "the AK certificate is not restored: its copy cannot be read:"
                f" {self.path}: {error.strerror or error}",
                code="endorsements.ak_copy",
                hint="Make the agent's user the owner of the file.",
            ) from error

    def discard(self) -> None:
        """Remove the copies; the next job examines copies that cannot be removed."""
        if self._directory:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _write_durably(path: Path, content: bytes) -> None:
    """Replace a file's content as a whole: fsync(2) and rename(2)."""
    unfinished = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    flags |= os.O_NONBLOCK  # opening a FIFO must fail, not wait
    try:
        with os.fdopen(os.open(unfinished, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # without it the new name may be lost: fsync(2)
    finally:
        os.close(directory)


def _cannot_copy(why: str, hint: str) -> EndorsementsError:
    return EndorsementsError(
        "the AK certificate is not renewed: an interrupted write could destroy it, and"
        f" no copy can be kept: {why}",
        code="endorsements.ak_copy",
        hint=hint,
    )
