"""The archive that `skragent report --save` writes: files that the command verifies.

The directory and its files are new, and only their owner can read them. If a file
cannot be written, such as on a full disk, nothing of the archive remains.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from skragent.cli.report_input import QuotedPcrs, Subject

_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_HCL: Final = "hcl-report.bin"
_CERTIFICATES: Final = "certificates.pem"
_QUOTE: Final = "tpm-quote.json"


def save_archive(directory: str, subject: Subject, now: datetime) -> str:
    """Write the evidence into a new directory.

    Args:
        directory: must not exist.
        subject: of this machine.
        now: the time at which the certificates are valid.

    Returns:
        the command that verifies the archive.

    Raises:
        OSError: a file cannot be written; `filename` is its path.
    """
    contents = {_HCL: subject.raw_hcl}
    if subject.certificates:
        contents[_CERTIFICATES] = b"".join(
            certificate.public_bytes(Encoding.PEM)
            for certificate in subject.certificates
        )
    if subject.quote:
        contents[_QUOTE] = encode_quote(subject.quote)
    _write_directory(Path(directory), contents)
    options = {_HCL: "--hcl", _CERTIFICATES: "--certs", _QUOTE: "--quote"}
    files = " ".join(
        f"{options[name]} {shlex.quote(f'{directory}/{name}')}" for name in contents
    )
    # An emulator's root stays where the configuration names it.
    roots = f" --roots {shlex.quote(subject.roots_path)}" if subject.roots_path else ""
    return f"skragent report {files}{roots} --at {now:%Y-%m-%dT%H:%M:%SZ}"


def encode_quote(quote: QuotedPcrs) -> bytes:
    """Encode a quote as `report_input.parse_quote_file` reads it."""
    pcrs = [""] * (max(quote.indices, default=-1) + 1)
    for index, value in zip(quote.indices, quote.values, strict=True):
        pcrs[index] = value.hex()
    document = {
        "message": quote.signed.message.hex(),
        "signature": quote.signed.signature.hex(),
        "pcrs": pcrs,
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _write_directory(directory: Path, contents: Mapping[str, bytes]) -> None:
    directory.mkdir(mode=_DIRECTORY_MODE)
    written: list[Path] = []
    try:
        for name, content in contents.items():
            path = directory / name
            written.append(path)
            _write_file(path, content)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process put a file there
            directory.rmdir()
        raise


def _write_file(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(path, flags, _FILE_MODE), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a full disk may be reported only here
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
