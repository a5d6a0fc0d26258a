"""The thread that runs all commands of the vTPM, one after the other.

It collects the TPM's part of the evidence. It makes the wrapping key once and keeps it
loaded until the last released key is unwrapped.
"""

from __future__ import annotations

import concurrent.futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skragent.evidence.hcl import HclReport, parse_hcl_report
from skragent.evidence.tpm import Scheme, Vtpm, WrappingKey

if TYPE_CHECKING:
    from skragent.evidence.quote import SignedAttest
    from skragent.releaser.stopwatch import Stopwatch

_CLOSE_SECONDS = 1.0  # flushing takes milliseconds; exiting flushes as well


@dataclass(frozen=True, slots=True)
class TpmEvidence:
    """The TPM's part of the evidence."""

    hcl_report: HclReport
    ak_certificate: bytes
    ak_public: bytes
    pcrs: tuple[bytes, ...]
    quote: SignedAttest
    wrapping_key: WrappingKey
    certification: SignedAttest


class TpmWorker:
    """Opens the TPM and runs its commands in one thread.

    Args:
        tcti: the TPM, as tpm2-tss names it (TCTI).
        stopwatch: measures the steps.
        unique: the template's `unique` field, which determines the wrapping key.
        collects: whether to collect evidence, or only to make the wrapping key.
    """

    def __init__(
        self, tcti: str, stopwatch: Stopwatch, unique: bytes, *, collects: bool = True
    ) -> None:
        self._executor = ThreadPoolExecutor(1, "tpm")
        self._stopwatch = stopwatch
        self._tpm: Vtpm | None = None
        self._key: WrappingKey | None = None
        self._pcrs: tuple[bytes, ...] = ()
        self._opened = self._executor.submit(self._open, tcti, unique)
        self.evidence: Future[TpmEvidence] = (
            self._executor.submit(self._collect) if collects else Future()
        )

    def key(self) -> WrappingKey:
        """Return the wrapping key; wait until the TPM has made it.

        Raises:
            TpmError: the TPM could not make it.
        """
        return self._opened.result()

    @property
    def modulus_bytes(self) -> int:
        """The length of the wrapping key's modulus, and of its ciphertexts."""
        return (self.key().modulus.bit_length() + 7) // 8

    def decrypt(self, ciphertext: bytes, scheme: Scheme) -> bytearray:
        """Decrypt with the wrapping key; the caller wipes the plaintext.

        Raises:
            UnwrapError: the ciphertext is not encrypted to the wrapping key.
            TpmError: with code evidence.pcr_changed if the PCRs have changed since the
                key was made.
        """
        return self._executor.submit(self._decrypt, ciphertext, scheme).result()

    def owns_ak_certificate(self) -> bool:
        """Return whether the guest may replace the AK certificate.

        Raises:
            TpmError: the TPM could not read the index's attributes.
        """
        return self._executor.submit(self._owns_ak_certificate).result()

    def close(self) -> None:
        """Flush the key and close the TPM; give up soon, because the process exits."""
        closing = self._executor.submit(self._close)
        concurrent.futures.wait([closing], timeout=_CLOSE_SECONDS)

    def _open(self, tcti: str, unique: bytes) -> WrappingKey:
        with self._stopwatch.step("tpm.key"):
            tpm = self._tpm = Vtpm(tcti).__enter__()
            self._pcrs = tpm.read_pcrs()
            self._key = tpm.create_wrapping_key(self._pcrs, unique)
            return self._key

    def _collect(self) -> TpmEvidence:
        key, tpm = self._opened.result(), self._tpm
        if tpm is None:
            raise RuntimeError("evidence is collected after close")
        with self._stopwatch.step("tpm.evidence"):
            return TpmEvidence(
                hcl_report=parse_hcl_report(tpm.read_hcl_report()),
                ak_certificate=tpm.read_ak_certificate(),
                ak_public=tpm.read_ak_public(),
                pcrs=self._pcrs,
                quote=tpm.quote(),
                wrapping_key=key,
                certification=tpm.certify(key),
            )

    def _decrypt(self, ciphertext: bytes, scheme: Scheme) -> bytearray:
        if self._tpm is None or self._key is None:
            raise RuntimeError("decrypt without a wrapping key")
        with self._stopwatch.step("tpm.decrypt"):
            return self._tpm.decrypt(self._key, ciphertext, scheme)

    def _owns_ak_certificate(self) -> bool:
        return self._tpm is not None and self._tpm.owns_ak_certificate()

    def _close(self) -> None:
        tpm, self._tpm = self._tpm, None  # a later command must not use a closed TPM
        if tpm is not None:
            tpm.__exit__(None, None, None)
