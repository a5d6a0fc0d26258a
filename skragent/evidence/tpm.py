"""The vTPM through ESAPI: everything that skragent asks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from skragent.evidence.quote import SignedAttest

Scheme = Literal["rsaes", "oaep-sha1", "oaep-sha256", "oaep-sha384"]


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A key in the NULL hierarchy that only PCR 0-7 as they were can use."""

    tpm2b_public: bytes
    modulus: int
    exponent: int
    handle: int  # ESYS_TR


class Vtpm:
    """One open TPM; a context manager that flushes what it made.

    Args:
        tcti: such as `device:/dev/tpmrm0` or `swtpm:path=/run/tpm.sock`.

    Every method raises TpmError, with the code that its rc means.
    """

    def __init__(self, tcti: str) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    def read_hcl_report(self) -> bytes:
        """Read NV 0x01400001; reading makes the paravisor refresh it."""
        raise NotImplementedError

    def read_ak_certificate(self) -> bytes:
        """Read NV 0x01C101D0."""
        raise NotImplementedError

    def read_ak_public(self) -> bytes:
        """Read the AK's TPM2B_PUBLIC."""
        raise NotImplementedError

    def read_pcrs(self) -> tuple[bytes, ...]:
        """Read PCR 0 to 7 of the SHA-256 bank."""
        raise NotImplementedError

    def create_wrapping_key(self, pcrs: Sequence[bytes], unique: bytes) -> WrappingKey:
        """Create the wrapping key; `unique` is 256 random bytes."""
        raise NotImplementedError

    def quote(self) -> SignedAttest:
        """Have the AK quote PCR 0 to 7."""
        raise NotImplementedError

    def certify(self, key: WrappingKey) -> SignedAttest:
        """Have the AK certify the wrapping key."""
        raise NotImplementedError

    def decrypt(self, key: WrappingKey, ciphertext: bytes, scheme: Scheme) -> bytearray:
        """Decrypt under the PCR policy; the caller wipes the answer."""
        raise NotImplementedError
