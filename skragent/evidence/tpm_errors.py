"""Map a TPM's response code to an error.

TPM 2.0 part 2, section 6.6: a format-one code (bit 7) carries the number of a handle,
session or parameter beside its error; a format-zero code may be a warning (bit 11).
Codes of the software in between have its layer in bits 16 to 23 (TSS 2.0 overview,
section 5).

Pure; `tpm` runs the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.errors import Disposition, TpmError

if TYPE_CHECKING:
    from collections.abc import Collection

TPM_RC_HANDLE = 0x08B
TPM_RC_VALUE = 0x084
TPM_RC_AUTH_FAIL = 0x08E
TPM_RC_BAD_AUTH = 0x0A2
TPM_RC_POLICY_FAIL = 0x09D
TPM_RC_FAILURE = 0x101
TPM_RC_PCR_CHANGED = 0x128
TPM_RC_NV_UNINITIALIZED = 0x14A
TPM_RC_LOCKOUT = 0x921

_LAYER_MASK = 0xFF0000
_TPM_LAYERS = {0, 11 << 16}  # the TPM; a resource manager in its place
_TCTI_LAYER = 10 << 16

_FORMAT_ONE = 0x080
_PARAMETER = 0x040
_SESSION = 0x800

# Temporary conditions.
_BUSY = {
    0x901,  # CONTEXT_GAP
    0x902,  # OBJECT_MEMORY
    0x903,  # SESSION_MEMORY
    0x904,  # MEMORY
    0x905,  # SESSION_HANDLES
    0x906,  # OBJECT_HANDLES
    0x908,  # YIELDED
    0x909,  # CANCELED
    0x90A,  # TESTING
    0x920,  # NV_RATE
    0x922,  # RETRY
    0x923,  # NV_UNAVAILABLE
    TPM_RC_NV_UNINITIALIZED,  # the platform writes the index later
}
# REFERENCE_H0 to H6: the TPM was reset, and the job's objects are gone.
_GONE = range(0x910, 0x917)


def strip_rc(rc: int) -> int:
    """Remove the layer, and from a format-one code its handle or parameter."""
    code = rc & ~_LAYER_MASK
    return _FORMAT_ONE | (code & 0x3F) if code & _FORMAT_ONE else code


def _is_tpm_code(rc: int) -> bool:
    """Return whether the TPM, or a resource manager in its place, answered."""
    return rc & _LAYER_MASK in _TPM_LAYERS


def is_missing_handle(rc: int) -> bool:
    """Return whether the TPM has no such index or object."""
    about_handle = rc & _FORMAT_ONE and not rc & (_PARAMETER | _SESSION)
    codes = {TPM_RC_HANDLE, TPM_RC_VALUE}
    return _is_tpm_code(rc) and bool(about_handle) and strip_rc(rc) in codes


def is_not_written(rc: int) -> bool:
    """Return whether an NV index is defined but has no content."""
    return _is_tpm_code(rc) and strip_rc(rc) == TPM_RC_NV_UNINITIALIZED


def is_wrong_password(rc: int) -> bool:
    """Return whether the authValue was wrong."""
    codes = {TPM_RC_AUTH_FAIL, TPM_RC_BAD_AUTH}
    return _is_tpm_code(rc) and strip_rc(rc) in codes


def is_about_ciphertext(rc: int) -> bool:
    """Return whether TPM2_RSA_Decrypt rejected the ciphertext.

    The specification has an error of a parameter, mostly VALUE. libtpms 0.9 answers bad
    padding with FAILURE (observed 2026-11); a TPM in failure mode answers the next
    command in the same way.
    """
    about_parameter = rc & _FORMAT_ONE and rc & _PARAMETER
    return _is_tpm_code(rc) and (
        bool(about_parameter) or strip_rc(rc) == TPM_RC_FAILURE
    )


def make_tpm_error(command: str, rc: int, text: str) -> TpmError:
    """Return the error of a response code.

    Args:
        command: the command's name in TPM 2.0 part 3.
        rc: the response code.
        text: the library's name of the code.
    """
    code, disposition, hint = _map_code(rc)
    return TpmError(
        f"{command} failed: {text} ({rc:#x})",
        command=command,
        rc=rc,
        code=code,
        disposition=disposition,
        hint=hint,
    )


def make_library_error(command: str, text: str) -> TpmError:
    """Return the error of a response that the library cannot convert."""
    return TpmError(
        f"the response to {command} cannot be used: {text}",
        command=command,
        rc=0,
        code="evidence.tpm",
        disposition=Disposition.RETRY_SLOWLY,
        hint="Check that `vtpm.tcti` names a TPM 2.0.",
    )


def _map_code(rc: int) -> tuple[str, Disposition, str]:
    if rc & _LAYER_MASK == _TCTI_LAYER:
        hint = "Check that the TPM of `vtpm.tcti` exists and answers."
        return "evidence.tpm.unreachable", Disposition.RETRY, hint
    if _is_tpm_code(rc):
        for codes, code, disposition, hint in _MEANINGS:
            if strip_rc(rc) in codes:
                return code, disposition, hint
    return "evidence.tpm", Disposition.RETRY_SLOWLY, ""


_MEANINGS: tuple[tuple[Collection[int], str, Disposition, str], ...] = (
    (
        {TPM_RC_POLICY_FAIL, TPM_RC_PCR_CHANGED},
        "evidence.pcr_changed",
        Disposition.REATTEST,
        "Passes by itself: PCR 0 to 7 changed; the next attempt attests again.",
    ),
    (
        {TPM_RC_LOCKOUT},
        "evidence.tpm.lockout",
        Disposition.RETRY,
        "Passes by itself: the TPM is locked against password guesses for a while.",
    ),
    (_BUSY, "evidence.tpm.busy", Disposition.RETRY, ""),
    (_GONE, "evidence.tpm", Disposition.REATTEST, ""),
)


def make_unreachable(tcti: str, rc: int, text: str) -> TpmError:
    """Return the error of a TPM that cannot be opened."""
    return TpmError(
        f"the TPM at {tcti} cannot be opened: {text} ({rc:#x})",
        command="Tss2_TctiLdr_Initialize",
        rc=rc,
        code="evidence.tpm.unreachable",
        disposition=Disposition.RETRY,
        hint="Check that /dev/tpmrm0 exists, and that the agent's user is in its group,"
        " `tss`.",
    )


def make_not_a_cvm(error: TpmError) -> TpmError:
    """Return the error of a machine whose TPM has no HCL report."""
    return TpmError(
        "this TPM has no HCL report: this is not an Azure confidential VM",
        command=error.command,
        rc=error.rc,
        code="evidence.not_a_cvm",
        disposition=Disposition.FATAL,
        hint="Use a VM of a series with AMD SEV-SNP: DCasv5, ECasv5 and newer.",
    )


def make_no_hcl_report(error: TpmError, index: int) -> TpmError:
    """Return the error of an HCL report's index without content."""
    return TpmError(
        f"NV index {index:#010x} of the TPM, for the HCL report, has no content"
        f" ({error.rc:#x}): this is not a SEV-SNP confidential VM, or it is not"
        " provisioned yet",
        command=error.command,
        rc=error.rc,
        code="evidence.hcl_not_provisioned",
        disposition=Disposition.RETRY,
        hint="Passes by itself on a new confidential VM, within minutes of its first"
        " start. Otherwise use a VM of a series with AMD SEV-SNP: DCasv5, ECasv5 and"
        " newer. A Trusted Launch VM is not a confidential VM.",
    )


def make_not_provisioned(rc: int = 0) -> TpmError:
    """Return the error of a vTPM without an AK certificate."""
    return TpmError(
        "this vTPM has no AK certificate yet",
        command="TPM2_NV_Read",
        rc=rc,
        code="evidence.ak_cert_not_provisioned",
        disposition=Disposition.RETRY,
        hint="Passes by itself: Azure provisions it within minutes of the first start.",
    )
