"""What a TPM's response code means for us.

TPM 2.0 part 2, section 6.6: a format-one code (bit 7) carries the number of a handle,
session or parameter beside its error; a format-zero code may be a warning (bit 11).
Codes of the software in between have its layer in bits 16 to 23 (TSS 2.0 overview,
section 5).

Pure: a number in, a `TpmError` out. The TPM itself is `tpm`.
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
_TPM_LAYERS = {0, 11 << 16}  # the TPM; a resource manager that speaks like one
_TCTI_LAYER = 10 << 16

_FORMAT_ONE = 0x080
_PARAMETER = 0x040
_SESSION = 0x800

# Warnings: nothing is wrong but the moment.
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
    TPM_RC_NV_UNINITIALIZED,  # what we read is the platform's to write, and it will
}
# REFERENCE_H0 to H6: the TPM was reset and what we made in it is gone.
_GONE = range(0x910, 0x917)


def strip_rc(rc: int) -> int:
    """Take the layer off, and from a format-one code what it is about."""
    code = rc & ~_LAYER_MASK
    return _FORMAT_ONE | (code & 0x3F) if code & _FORMAT_ONE else code


def _is_tpm_code(rc: int) -> bool:
    """Tell whether the TPM itself, or a resource manager in its name, answered."""
    return rc & _LAYER_MASK in _TPM_LAYERS


def is_missing_handle(rc: int) -> bool:
    """Tell "there is no such index or object" from every other failure."""
    about_handle = rc & _FORMAT_ONE and not rc & (_PARAMETER | _SESSION)
    codes = {TPM_RC_HANDLE, TPM_RC_VALUE}
    return _is_tpm_code(rc) and bool(about_handle) and strip_rc(rc) in codes


def is_not_written(rc: int) -> bool:
    """Tell an NV index that is defined and has no content."""
    return _is_tpm_code(rc) and strip_rc(rc) == TPM_RC_NV_UNINITIALIZED


def is_wrong_password(rc: int) -> bool:
    """Tell what a TPM answers to a wrong authValue."""
    codes = {TPM_RC_AUTH_FAIL, TPM_RC_BAD_AUTH}
    return _is_tpm_code(rc) and strip_rc(rc) in codes


def is_about_ciphertext(rc: int) -> bool:
    """Tell what TPM2_RSA_Decrypt answers to a wrong ciphertext.

    A parameter's error by the specification, mostly VALUE. libtpms 0.9 answers bad
    padding with FAILURE (observed 2026-11); a TPM that really failed says so again.
    """
    about_parameter = rc & _FORMAT_ONE and rc & _PARAMETER
    return _is_tpm_code(rc) and (
        bool(about_parameter) or strip_rc(rc) == TPM_RC_FAILURE
    )


def make_tpm_error(command: str, rc: int, text: str) -> TpmError:
    """Turn a response code into the error that says what to do about it.

    Args:
        command: as TPM 2.0 part 3 spells it.
        rc: the code.
        text: what the library calls it.
    """
    code, disposition, hint = _judge(rc)
    return TpmError(
        f"{command} failed: {text} ({rc:#x})",
        command=command,
        rc=rc,
        code=code,
        disposition=disposition,
        hint=hint,
    )


def make_library_error(command: str, text: str) -> TpmError:
    """Make the error of an answer that the library cannot convert."""
    return TpmError(
        f"the answer of {command} cannot be used: {text}",
        command=command,
        rc=0,
        code="evidence.tpm",
        disposition=Disposition.RETRY_SLOWLY,
        hint="Check that `vtpm.tcti` names a TPM 2.0.",
    )


def _judge(rc: int) -> tuple[str, Disposition, str]:
    if rc & _LAYER_MASK == _TCTI_LAYER:
        hint = "Check that the TPM is there and answers; see `vtpm.tcti`."
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
        "Something was measured into PCR 0 to 7 since the wrapping key was made.",
    ),
    (
        {TPM_RC_LOCKOUT},
        "evidence.tpm.lockout",
        Disposition.RETRY,
        "The TPM's lockout against guessing is on; it ends by itself.",
    ),
    (_BUSY, "evidence.tpm.busy", Disposition.RETRY, ""),
    (_GONE, "evidence.tpm", Disposition.REATTEST, ""),
)


def make_unreachable(tcti: str, rc: int, text: str) -> TpmError:
    """Make the error of a TPM that cannot be opened."""
    return TpmError(
        f"the TPM at {tcti} cannot be opened: {text} ({rc:#x})",
        command="Tss2_TctiLdr_Initialize",
        rc=rc,
        code="evidence.tpm.unreachable",
        disposition=Disposition.RETRY,
        hint="It takes /dev/tpmrm0 and membership in its group, `tss`.",
    )


def make_not_a_cvm(error: TpmError) -> TpmError:
    """Make the error of a machine whose vTPM has no HCL report."""
    return TpmError(
        "this TPM has no HCL report: this is no Azure confidential VM",
        command=error.command,
        rc=error.rc,
        code="evidence.not_a_cvm",
        disposition=Disposition.FATAL,
        hint="Use a VM of a series with AMD SEV-SNP: DCasv5, ECasv5 and newer.",
    )


def make_no_hcl_report(error: TpmError, index: int) -> TpmError:
    """Make the error of an HCL report index that was never written."""
    return TpmError(
        f"NV index {index:#010x} of the TPM, for the HCL report, has no content"
        f" ({error.rc:#x}): this is no SEV-SNP confidential VM, or it is not"
        " provisioned yet",
        command=error.command,
        rc=error.rc,
        code="evidence.hcl_not_provisioned",
        disposition=Disposition.RETRY,
        hint="Passes by itself on a new confidential VM, within minutes of its first"
        " start. Else use a VM of a series with AMD SEV-SNP: DCasv5, ECasv5 and newer;"
        " a Trusted Launch VM is none.",
    )


def make_not_provisioned(rc: int = 0) -> TpmError:
    """Make the error of a vTPM that Azure gave no AK certificate yet."""
    return TpmError(
        "this vTPM has no AK certificate yet",
        command="TPM2_NV_Read",
        rc=rc,
        code="evidence.ak_cert_not_provisioned",
        disposition=Disposition.RETRY,
        hint="Azure provisions it within minutes of the VM's first start.",
    )
