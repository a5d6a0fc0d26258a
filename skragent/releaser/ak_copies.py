"""Copies of the AK certificate on disk, while its NV index is being written.

They are written before the index is touched and removed when the new certificate has
been read back. So wherever a renewal is interrupted, by a kill, by a TPM that is busy
or by a loss of power, the index or the disk has a certificate.

The file has both certificates, the new one and the one before: only so can a mixture
of the two be told from a certificate. They are no secrets.

Imports little: every job looks whether there are copies.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skragent.errors import Disposition, EndorsementsError
from skragent.files import read_regular

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE_NAME: Final = "ak-certificate.pem"

# Two certificates have 4 kB.
_MAX_FILE_BYTES: Final = 64 * 1024


class AkCopies:
    """The copies in one directory.

    Args:
        directory: systemd's StateDirectory=; empty: there is none, and no copy.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    @property
    def path(self) -> Path:
        """Where they are."""
        return Path(self._directory, FILE_NAME)

    def exist(self) -> bool:
        """Tell whether there are any: then a renewal was interrupted."""
        return bool(self._directory) and self.path.exists()

    def save(self, certificates: Iterable[bytes]) -> None:
        """Write them so that they outlast a loss of power from now on.

        Args:
            certificates: in DER.

        Raises:
            EndorsementsError: endorsements.ak_copy
        """
        if not self._directory:
            raise _cannot_copy(
                "the agent was started without a state directory",
                "systemd sets STATE_DIRECTORY, by StateDirectory=skragent in the unit."
                " Where another program starts the agent, set STATE_DIRECTORY to a"
                " directory that only the agent's user can write.",
            )
        from skragent.evidence.ak_certificate import encode_pem  # noqa: PLC0415 - see above

        text = b"".join(map(encode_pem, certificates))
        try:
            _write_durably(self.path, text)
        except OSError as error:
            raise _cannot_copy(
                f"{self.path}: {error.strerror or error}",
                "The directory must have room and be the agent's user's to write.",
            ) from error

    def load(self) -> tuple[bytes, ...]:
        """Read them, in DER; none if the file has no certificates.

        Raises:
            EndorsementsError: endorsements.ak_copy
        """
        from skragent.evidence.ak_certificate import decode_pem  # noqa: PLC0415 - see above

        try:
            return decode_pem(read_regular(str(self.path), max_bytes=_MAX_FILE_BYTES))
        except OSError as error:
            raise EndorsementsError(
                "the AK certificate is not restored: its copy cannot be read:"
                f" {self.path}: {error.strerror or error}",
                code="endorsements.ak_copy",
                disposition=Disposition.RETRY_SLOWLY,
                hint="The file must be the agent's user's.",
            ) from error

    def discard(self) -> None:
        """Remove them. One that cannot be removed does no harm: it is judged again."""
        if self._directory:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _write_durably(path: Path, content: bytes) -> None:
    """Replace a file so that it has all of this or is as before, whatever happens."""
    unfinished = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    flags |= os.O_NONBLOCK  # a FIFO without a reader is an error, and no wait
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
        os.fsync(directory)  # else the new name may be lost: fsync(2)
    finally:
        os.close(directory)


def _cannot_copy(why: str, hint: str) -> EndorsementsError:
    return EndorsementsError(
        "the AK certificate is not renewed: a write that is interrupted could leave"
        f" none, and no copy can be kept: {why}",
        code="endorsements.ak_copy",
        disposition=Disposition.RETRY_SLOWLY,
        hint=hint,
    )
