"""NV indices of an open TPM: find, read, write, define and undefine them.

Commands: TPM 2.0 part 3, section 31. Attributes (TPMA_NV): part 2, section 13.4. The
owner's authValue is empty on Azure's vTPM.

`tpm` knows the indices of Azure, and `ak_index` plans writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPMA_NV
from tpm2_pytss.types import TPM2B_NV_PUBLIC, TPMS_NV_PUBLIC

from skragent.errors import TpmError, UnsupportedEvidenceError
from skragent.evidence import tpm_errors
from skragent.evidence.ak_index import NV_BUFFER_BYTES
from skragent.evidence.hcl import MAX_HCL_REPORT_BYTES
from skragent.evidence.tpm_library import library, run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skragent.evidence.ak_index import Piece


@dataclass(frozen=True, slots=True)
class NvIndex:
    """An index of the TPM."""

    handle: Any  # ESYS_TR
    attributes: int  # TPMA_NV
    size: int


class NvIndices:
    """The NV indices of one open TPM.

    Args:
        esys: the library's context.

    Every method raises TpmError.
    """

    def __init__(self, esys: Any) -> None:  # noqa: ANN401 - ESAPI; the library has no types
        self._esys = esys

    def find(self, number: int) -> NvIndex:
        """Find an index by its handle, such as 0x01C101D0."""
        with library("TPM2_NV_ReadPublic"):
            handle = self._esys.tr_from_tpmpublic(number)
            public, _ = self._esys.nv_read_public(handle)
            area = public.nvPublic
            return NvIndex(handle, int(area.attributes), int(area.dataSize))

    def find_if_there(self, number: int) -> NvIndex | None:
        """Find an index; None if the TPM has no index of this number."""
        try:
            return self.find(number)
        except TpmError as error:
            if tpm_errors.is_missing_handle(error.rc):
                return None
            raise

    def read(self, index: NvIndex) -> bytes:
        """Read a whole index with the owner's empty password.

        Raises:
            UnsupportedEvidenceError: the index is larger than any known index.
        """
        size, owner = index.size, {"auth_handle": ESYS_TR.OWNER}
        if size > MAX_HCL_REPORT_BYTES:
            raise UnsupportedEvidenceError(f"an NV index has {size} bytes")
        read = self._esys.nv_read
        with library("TPM2_NV_Read"):
            return b"".join(
                bytes(read(index.handle, length, offset, **owner))
                for offset in range(0, size, NV_BUFFER_BYTES)
                if (length := min(NV_BUFFER_BYTES, size - offset))
            )

    def write(self, index: NvIndex, pieces: Iterable[Piece]) -> None:
        """Write pieces of an index, each with one command.

        The owner's empty password is used if the owner may write, else the index's own
        password, which must be empty.
        """
        is_writable_by_owner = index.attributes & int(TPMA_NV.OWNERWRITE)
        authorizer = ESYS_TR.OWNER if is_writable_by_owner else index.handle
        write, options = self._esys.nv_write, {"auth_handle": authorizer}
        for offset, data in pieces:
            run("TPM2_NV_Write", write, index.handle, data, offset, **options)

    def define(self, number: int, size: int, attributes: int) -> NvIndex:
        """Define an index that the owner owns, without a password."""
        public = TPMS_NV_PUBLIC(
            nvIndex=number,
            nameAlg=TPM2_ALG.SHA256,
            attributes=attributes,
            dataSize=size,
        )
        define, owner = self._esys.nv_define_space, {"auth_handle": ESYS_TR.OWNER}
        space = TPM2B_NV_PUBLIC(nvPublic=public)
        handle = run("TPM2_NV_DefineSpace", define, None, space, **owner)
        return NvIndex(handle, attributes, size)

    def undefine(self, index: NvIndex) -> None:
        """Undefine an index that the owner owns, and its content."""
        undefine, owner = self._esys.nv_undefine_space, {"auth_handle": ESYS_TR.OWNER}
        run("TPM2_NV_UndefineSpace", undefine, index.handle, **owner)
