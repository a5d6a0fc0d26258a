"""The AK certificate's NV index: plan a write, and recognise a lost certificate.

TPM2_NV_Write accepts at most 1024 bytes, so most certificates take two commands, and an
interruption between them leaves a mixture of two certificates. An index that must be
defined again is empty for a while. So only a write by one command, into the index as it
is, needs no copy on disk.

Pure; `tpm` runs the commands. Attributes (TPMA_NV): TPM 2.0 part 2, section 13.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from skragent.evidence.ak_certificate import (
    is_ak_certificate_provisioned,
    is_for_key,
    read_end,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skragent.evidence.tpm_public import RsaPublic

Piece = tuple[int, bytes]  # offset, data: one TPM2_NV_Write

_OWNERWRITE: Final = 1 << 1
_AUTHWRITE: Final = 1 << 2
_TPM_NT: Final = 0xF << 4  # 0: an ordinary index, not a counter or bit field
_WRITELOCKED: Final = 1 << 11
_WRITEALL: Final = 1 << 12  # one command must write the whole index
_PLATFORMCREATE: Final = 1 << 30

# TPM_PT_NV_BUFFER_MAX of Azure's vTPM: the most bytes of one NV command.
NV_BUFFER_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class AkIndex:
    """The present index."""

    attributes: int  # TPMA_NV
    size: int
    content: bytes | None  # None: never written

    @property
    def is_owned_by_platform(self) -> bool:
        """Whether the paravisor owns the index, so that a guest cannot change it."""
        return bool(self.attributes & _PLATFORMCREATE)

    @property
    def is_writable_by_owner(self) -> bool:
        """Whether the owner may write it; the owner's password is empty."""
        return bool(self.attributes & _OWNERWRITE)


def plan_write(index: AkIndex | None, der: bytes) -> tuple[Piece, ...] | None:
    """Return the writes that put a certificate into the present index.

    Zeros follow the certificate. Pieces that do not change are left out.

    Args:
        index: the index; None if the TPM has none.
        der: the certificate.

    Returns:
        The pieces; None if the index must be defined again.
    """
    if index is None or len(der) > index.size:
        return None
    wanted, present = der.ljust(index.size, b"\0"), index.content
    pieces = tuple(
        (offset, wanted[offset : offset + NV_BUFFER_BYTES])
        for offset in range(0, index.size, NV_BUFFER_BYTES)
        if present is None
        or present[offset : offset + NV_BUFFER_BYTES]
        != wanted[offset : offset + NV_BUFFER_BYTES]
    )
    if not pieces:
        return ()
    is_writable = index.attributes & (_OWNERWRITE | _AUTHWRITE)
    is_barred = index.attributes & (_TPM_NT | _WRITELOCKED | _WRITEALL)
    return pieces if is_writable and not is_barred else None


def needs_copy(index: AkIndex | None, der: bytes) -> bool:
    """Return whether an interruption of this write could leave no certificate.

    Args:
        index: the index; None if the TPM has none.
        der: the certificate that will be written.
    """
    pieces = plan_write(index, der)
    if index is None or pieces is None:
        return True
    # If the owner may not write the index, its own password may not be empty.
    return len(pieces) > 1 or not index.is_writable_by_owner


def find_lost(
    index: AkIndex | None, copies: Iterable[bytes], ak: RsaPublic
) -> tuple[bytes, ...]:
    """Return the copies that should replace the index's content, the best first.

    A mixture of two certificates can parse and have the right key. So the index counts
    as intact only if it holds one of the copies byte for byte, or a certificate that
    ends later than all copies, because another program has renewed it since.

    Args:
        index: the index; None if the TPM has none.
        copies: certificates in DER, from a disk that may be another VM's.
        ak: the key that a certificate must be for.

    Returns:
        Certificates to write; none if the index is intact or the paravisor owns it.
    """
    ends = {
        copy: end
        for copy in copies
        if is_for_key(copy, ak) and (end := read_end(copy)) is not None
    }
    best = tuple(sorted(ends, key=lambda copy: ends[copy], reverse=True))
    if index is not None and index.is_owned_by_platform:
        return ()
    if not best or index is None or index.content is None:
        return best
    if any(index.content == copy.ljust(index.size, b"\0") for copy in best):
        return ()
    end = read_end(index.content)
    if is_whole(index, ak) and end is not None and end > ends[best[0]]:
        return ()
    return best


def is_whole(index: AkIndex | None, ak: RsaPublic) -> bool:
    """Return whether the index seems to hold this key's certificate.

    A mixture of two certificates can be recognised only with a copy (`find_lost`).
    """
    if index is None or index.content is None:
        return False
    return is_for_key(index.content, ak) and is_ak_certificate_provisioned(
        index.content
    )
