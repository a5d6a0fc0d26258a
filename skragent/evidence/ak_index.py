"""The AK certificate's NV index: how a certificate gets into it, and what a loss is.

TPM2_NV_Write takes 1024 bytes at most, so most certificates take two commands, and an
interruption between the two leaves a mixture. An index that must be defined anew is
empty for a while. So the one change that needs no copy elsewhere is a single
TPM2_NV_Write into the index as it is.

Pure: the TPM itself is `tpm`. Attributes (TPMA_NV): TPM 2.0 part 2, section 13.4.
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
_TPM_NT: Final = 0xF << 4  # 0: an ordinary index, and no counter or the like
_WRITELOCKED: Final = 1 << 11
_WRITEALL: Final = 1 << 12  # only the whole index with one command
_PLATFORMCREATE: Final = 1 << 30

# TPM_PT_NV_BUFFER_MAX of Azure's vTPM: the most bytes of one NV command.
NV_BUFFER_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class AkIndex:
    """The index as it is now."""

    attributes: int  # TPMA_NV
    size: int
    content: bytes | None  # None: never written

    @property
    def is_platforms(self) -> bool:
        """Whether it is the paravisor's, and no guest can change it."""
        return bool(self.attributes & _PLATFORMCREATE)

    @property
    def is_owners(self) -> bool:
        """Whether the owner's password, which is empty, suffices to write it."""
        return bool(self.attributes & _OWNERWRITE)


def plan_write(index: AkIndex | None, der: bytes) -> tuple[Piece, ...] | None:
    """Choose what to write into the index as it is, so that it holds a certificate.

    Zeros follow the certificate. What is there already is not written again.

    Args:
        index: the index; None: there is none.
        der: the certificate.

    Returns:
        The pieces; None if the index must be defined anew.
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
    """Tell whether an interruption of this write could leave no certificate.

    Args:
        index: the index; None: there is none.
        der: the certificate that is to be written.
    """
    pieces = plan_write(index, der)
    if index is None or pieces is None:
        return True
    # The password of an index that is not the owner's may turn out not to be empty.
    return len(pieces) > 1 or not index.is_owners


def find_lost(
    index: AkIndex | None, copies: Iterable[bytes], ak: RsaPublic
) -> tuple[bytes, ...]:
    """Choose the copies that are better than what the index holds, the best first.

    A mixture of two certificates can parse, and has the right key. So the index counts
    as whole only if it holds one of the copies byte for byte, or a certificate that
    ends later than all of them: another program has renewed it since.

    Args:
        index: the index; None: there is none.
        copies: certificates in DER, from a disk that may be another VM's.
        ak: the key that a certificate must be for.

    Returns:
        Certificates to be written; none if the index needs no help, or is none of
        ours.
    """
    ends = {
        copy: end
        for copy in copies
        if is_for_key(copy, ak) and (end := read_end(copy)) is not None
    }
    best = tuple(sorted(ends, key=lambda copy: ends[copy], reverse=True))
    if index is not None and index.is_platforms:
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
    """Tell whether the index seems to hold this key's certificate.

    Only a copy tells a mixture of two certificates from one.
    """
    if index is None or index.content is None:
        return False
    return is_for_key(index.content, ak) and is_ak_certificate_provisioned(
        index.content
    )
