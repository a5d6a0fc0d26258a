"""The commands that skragent sends to the vTPM, through the ESAPI of tpm2-tss.

One `Vtpm` per job. Each command runs once; ESYS itself repeats it after TPM_RC_RETRY.
The wrapping key is in the NULL hierarchy, so it ends with a reset of the TPM.

`hcl` and `quote` parse the responses, and `tpm_errors` maps response codes to errors.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

# libtss2 writes errors to stderr, and buffers with secrets if it traces. It reads this
# variable once, so the import must follow.
os.environ["TSS2_LOG"] = "all+NONE"

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_NV, TPMA_SESSION
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_DIGEST,
    TPM2B_PUBLIC,
    TPM2B_PUBLIC_KEY_RSA,
    TPM2B_SENSITIVE_CREATE,
    TPML_PCR_SELECTION,
    TPMT_RSA_DECRYPT,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
)

from skragent.errors import (
    Disposition,
    TpmError,
    UnsupportedEvidenceError,
    UnwrapError,
)
from skragent.evidence import tpm_errors
from skragent.evidence.ak_certificate import is_ak_certificate_provisioned
from skragent.evidence.ak_index import AkIndex, needs_copy, plan_write
from skragent.evidence.nv import NvIndices
from skragent.evidence.quote import QUOTED_PCRS, SignedAttest, compute_policy_pcr
from skragent.evidence.tpm_library import describe_library_error, library, run
from skragent.evidence.tpm_public import (
    TPM_ALG_RSASSA,
    WRAPPING_KEY_BYTES,
    RsaPublic,
    encode_wrapping_key_template,
    parse_tpm2b_public,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from skragent.evidence.ak_index import Piece

NV_HCL_REPORT = 0x01400001
NV_AK_CERTIFICATE = 0x01C101D0
AK_HANDLE = 0x81000003

# The attributes that Microsoft's client defines (Tss2Util::NvDefineSpace).
_AK_CERTIFICATE_ATTRIBUTES = int(
    TPMA_NV.OWNERREAD | TPMA_NV.OWNERWRITE | TPMA_NV.AUTHREAD | TPMA_NV.AUTHWRITE
)
_PCRS = "sha256:" + ",".join(map(str, QUOTED_PCRS))

Scheme = Literal["rsaes", "oaep-sha1", "oaep-sha256", "oaep-sha384"]
# TPMT_RSA_DECRYPT: TPM_ALG_RSAES, or TPM_ALG_OAEP and its hash.
_SCHEMES: dict[Scheme, bytes] = {
    "rsaes": b"\x00\x15",
    "oaep-sha1": b"\x00\x17\x00\x04",
    "oaep-sha256": b"\x00\x17\x00\x0b",
    "oaep-sha384": b"\x00\x17\x00\x0c",
}


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A key in the NULL hierarchy, usable only while PCR 0 to 7 are unchanged."""

    tpm2b_public: bytes
    modulus: int
    exponent: int
    handle: int  # ESYS_TR

    @property
    def rsa(self) -> RsaPublic:
        """The public key."""
        return RsaPublic(self.modulus, self.exponent)


class Vtpm:
    """One open TPM; a context manager that flushes the keys it made.

    Args:
        tcti: such as `device:/dev/tpmrm0` or `swtpm:path=/run/tpm.sock`.

    Every method, and entering, raises TpmError with a code that follows from the rc.
    """

    def __init__(self, tcti: str) -> None:
        self._tcti = tcti
        self._esys: Any = None  # set by __enter__
        self._nv: NvIndices
        self._keys: list[int] = []

    def __enter__(self) -> Self:
        try:
            self._esys = ESAPI(self._tcti)
        except TSS2_Exception as error:
            rc, text = int(error.rc), str(error)
            raise tpm_errors.make_unreachable(self._tcti, rc, text) from error
        except ValueError as error:  # a TCTI that is not a C string
            reason = describe_library_error(error)
            raise tpm_errors.make_unreachable(self._tcti, 0, reason) from error
        self._nv = NvIndices(self._esys)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._keys:
            self._flush_quietly(handle)
        self._keys.clear()
        with contextlib.suppress(TpmError), library("Esys_Finalize"):
            self._esys.close()

    def read_hcl_report(self) -> bytes:
        """Read NV 0x01400001; a read at offset 0 makes the paravisor renew the report.

        Raises:
            TpmError: evidence.not_a_cvm, .hcl_not_provisioned, and others
        """
        try:
            return self._nv.read(self._nv.find(NV_HCL_REPORT))
        except TpmError as error:
            if tpm_errors.is_missing_handle(error.rc):
                raise tpm_errors.make_not_a_cvm(error) from error
            if tpm_errors.is_not_written(error.rc):
                raise tpm_errors.make_no_hcl_report(error, NV_HCL_REPORT) from error
            raise

    def read_ak_certificate(self) -> bytes:
        """Read NV 0x01C101D0: DER, zero-padded to the size of the index.

        Raises:
            TpmError: evidence.ak_cert_not_provisioned, and others
        """
        try:
            certificate = self._nv.read(self._nv.find(NV_AK_CERTIFICATE))
        except TpmError as error:
            if tpm_errors.is_not_written(error.rc) or tpm_errors.is_missing_handle(
                error.rc
            ):
                raise tpm_errors.make_not_provisioned(error.rc) from error
            raise
        if not is_ak_certificate_provisioned(certificate):
            raise tpm_errors.make_not_provisioned()
        return certificate

    def owns_ak_certificate(self) -> bool:
        """Return whether the guest may replace the certificate's index.

        On newer VMs the paravisor owns the index (TPMA_NV_PLATFORMCREATE) and renews
        the certificate by itself.
        """
        index = self._nv.find(NV_AK_CERTIFICATE)
        return not index.attributes & int(TPMA_NV.PLATFORMCREATE)

    def read_ak_index(self) -> AkIndex | None:
        """Read NV 0x01C101D0 with its attributes; None if the TPM has no such index."""
        index = self._nv.find_if_there(NV_AK_CERTIFICATE)
        if index is None:
            return None
        is_written = index.attributes & int(TPMA_NV.WRITTEN)
        content = self._nv.read(index) if is_written else None
        return AkIndex(index.attributes, index.size, content)

    def write_ak_certificate(self, der: bytes, *, has_copy: bool) -> None:
        """Write a certificate into NV 0x01C101D0 and read it back.

        The index is written in place if its attributes allow that. Else it is
        undefined, defined and written, as Microsoft's client does
        (Tss2Wrapper::WriteAikCert), with attributes that let the owner write it.

        Args:
            der: the certificate.
            has_copy: whether a copy is on disk, so that a failure may leave no
                certificate in the index.
        """
        index = self.read_ak_index()
        if needs_copy(index, der) and not has_copy:
            raise _failed("another program has changed the AK certificate's NV index")
        pieces = plan_write(index, der)
        if pieces is None or not self._write_in_place(pieces):
            self._redefine(der)
        index = self.read_ak_index()
        if index is None or index.content != der.ljust(index.size, b"\0"):
            raise _failed("the AK certificate's NV index is not as it was written")

    def _write_in_place(self, pieces: Sequence[Piece]) -> bool:
        """Write into the present index; return whether its password allowed that."""
        if not pieces:
            return True
        try:
            self._nv.write(self._nv.find(NV_AK_CERTIFICATE), pieces)
        except TpmError as error:
            if tpm_errors.is_wrong_password(error.rc):
                return False
            raise
        return True

    def _redefine(self, der: bytes) -> None:
        size, index = len(der), self._nv.find_if_there(NV_AK_CERTIFICATE)
        if index is not None:
            size = max(size, index.size)
            self._nv.undefine(index)
        attributes = _AK_CERTIFICATE_ATTRIBUTES
        defined = self._nv.define(NV_AK_CERTIFICATE, size, attributes)
        pieces = plan_write(AkIndex(attributes, size, None), der)
        self._nv.write(defined, pieces or ())

    def read_ak_public(self) -> bytes:
        """Read the AK's TPM2B_PUBLIC."""
        with library("TPM2_ReadPublic"):
            public, _, _ = self._esys.read_public(self._ak())
            return bytes(public.marshal())

    def read_pcrs(self) -> tuple[bytes, ...]:
        """Read PCR 0 to 7 of the SHA-256 bank."""
        read, wanted = self._esys.pcr_read, _selection()
        with library("TPM2_PCR_Read"):
            _, selected, digests = read(wanted)
            if selected.marshal() != wanted.marshal():
                raise UnsupportedEvidenceError("the vTPM has no SHA-256 bank of PCRs")
            return tuple(bytes(digest) for digest in digests)

    def create_wrapping_key(self, pcrs: Sequence[bytes], unique: bytes) -> WrappingKey:
        """Create the wrapping key, bound to PCR 0 to 7 with these values.

        Args:
            pcrs: the eight values; they need not be the present ones.
            unique: 256 random bytes; the key cannot be made again without them.
        """
        template = encode_wrapping_key_template(compute_policy_pcr(pcrs), unique)
        handle, public, *_ = run(
            "TPM2_CreatePrimary",
            self._esys.create_primary,
            TPM2B_SENSITIVE_CREATE(),
            TPM2B_PUBLIC.unmarshal(template)[0],
            ESYS_TR.NULL,
        )
        self._keys.append(handle)
        with library("TPM2_CreatePrimary"):
            parsed = parse_tpm2b_public(bytes(public.marshal()))
        rsa = parsed.rsa
        return WrappingKey(parsed.raw, rsa.modulus, rsa.exponent, int(handle))

    def quote(self) -> SignedAttest:
        """Have the AK quote PCR 0 to 7, without qualifying data."""
        quote = self._esys.quote
        args = (self._ak(), _selection(), TPM2B_DATA())
        return _signed(*run("TPM2_Quote", quote, *args))

    def certify(self, key: WrappingKey) -> SignedAttest:
        """Have the AK certify the wrapping key, without qualifying data.

        The role is ADMIN and adminWithPolicy is clear, so the key's empty password is
        enough, although use of the key needs the policy (TPM 2.0 part 1, 19.2).
        """
        return _signed(
            *run(
                "TPM2_Certify",
                self._esys.certify,
                ESYS_TR(key.handle),
                self._ak(),
                TPM2B_DATA(),
                TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
            )
        )

    def decrypt(self, key: WrappingKey, ciphertext: bytes, scheme: Scheme) -> bytearray:
        """Decrypt under the PCR policy; the caller wipes the plaintext.

        Raises:
            UnwrapError: the ciphertext is not for this key or this scheme.
            TpmError: evidence.pcr_changed, and others
        """
        if len(ciphertext) != WRAPPING_KEY_BYTES:
            raise _undecipherable()
        message = self._decrypt(key, TPM2B_PUBLIC_KEY_RSA(ciphertext), scheme)
        try:
            # ESYS keeps the last response in its buffer. This one overwrites it.
            self.read_pcrs()
            with library("TPM2_RSA_Decrypt"):
                return bytearray(
                    message.buffer
                )  # `buffer` is a view; this is the only copy
        finally:
            message.buffer[:] = bytes(len(message))

    def _decrypt(self, key: WrappingKey, ciphertext: Any, scheme: Scheme) -> Any:  # noqa: ANN401 - TPM2B_PUBLIC_KEY_RSA; the library has no types
        session = self._start_policy_session()
        try:
            policy_pcr = self._esys.policy_pcr
            args = (session, TPM2B_DIGEST(), _selection())
            run("TPM2_PolicyPCR", policy_pcr, *args)
            # ESYS continues sessions by default, and each would stay in the TPM.
            attributes = self._esys.trsess_set_attributes
            args = (session, 0, TPMA_SESSION.CONTINUESESSION)
            run("Esys_TRSess_SetAttributes", attributes, *args)
            return run(
                "TPM2_RSA_Decrypt",
                self._esys.rsa_decrypt,
                ESYS_TR(key.handle),
                ciphertext,
                TPMT_RSA_DECRYPT.unmarshal(_SCHEMES[scheme])[0],
                session1=session,
            )
        except TpmError as error:
            self._flush_quietly(session)
            is_decrypting = error.command == "TPM2_RSA_Decrypt"
            if is_decrypting and tpm_errors.is_about_ciphertext(error.rc):
                raise _undecipherable() from error
            raise

    def _start_policy_session(self) -> Any:  # noqa: ANN401 - ESYS_TR; the library has no types
        return run(
            "TPM2_StartAuthSession",
            self._esys.start_auth_session,
            ESYS_TR.NONE,
            ESYS_TR.NONE,
            TPM2_SE.POLICY,
            TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
            TPM2_ALG.SHA256,
        )

    def _ak(self) -> Any:  # noqa: ANN401 - ESYS_TR; the library has no types
        return run("TPM2_ReadPublic", self._esys.tr_from_tpmpublic, AK_HANDLE)

    def _flush_quietly(self, handle: int) -> None:
        """Flush a handle; ignore a failure, because it may be flushed already."""
        with contextlib.suppress(TpmError), library("TPM2_FlushContext"):
            self._esys.flush_context(ESYS_TR(handle))


def _failed(message: str) -> TpmError:
    """Return the error of an NV index that another program has changed."""
    disposition = Disposition.RETRY
    return TpmError(message, command="TPM2_NV_Read", rc=0, disposition=disposition)


def _undecipherable() -> UnwrapError:
    """Return the error of a wrong ciphertext: one message for every cause."""
    return UnwrapError("the TPM could not decrypt the wrapped key")


def _selection() -> Any:  # noqa: ANN401 - TPML_PCR_SELECTION; the library has no types
    return TPML_PCR_SELECTION.parse(_PCRS)


def _signed(attest: Any, signature: Any) -> SignedAttest:  # noqa: ANN401 - as above
    with library("TPM2_Quote or TPM2_Certify"):
        if signature.sigAlg != TPM_ALG_RSASSA:
            raise UnsupportedEvidenceError("the AK does not sign with RSASSA")
        return SignedAttest(bytes(attest), bytes(signature.signature.rsassa.sig))
