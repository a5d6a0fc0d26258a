"""What the AK signed: quotes over PCRs and the certification of the wrapping key.

TPM 2.0 part 2: TPMS_ATTEST (10.12.12). Part 3: TPM2_PolicyPCR (23.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skragent.evidence.public import RsaPublic, TpmPublic

QUOTED_PCRS = range(8)  # exactly these: MAA refuses a quote over more


@dataclass(frozen=True, slots=True)
class SignedAttest:
    """A TPMS_ATTEST and the AK's signature over it."""

    message: bytes  # TPMS_ATTEST without a size
    signature: bytes  # raw RSASSA, 256 bytes for the AK


def policy_pcr_digest(pcrs: Sequence[bytes]) -> bytes:
    """Compute the authPolicy of "SHA-256 PCRs 0 to 7 have these values".

    The formula saves a trial session.
    """
    raise NotImplementedError


def verify_quote(
    quote: SignedAttest,
    ak: RsaPublic,
    pcrs: Sequence[bytes],
    *,
    qualifying_data: bytes = b"",
    indices: Sequence[int] = QUOTED_PCRS,
) -> None:
    """Verify that the AK quoted exactly these PCRs with these values.

    Raises:
        BindingError: evidence.quote, or evidence.signature
    """
    raise NotImplementedError


def verify_certification(
    certification: SignedAttest, ak: RsaPublic, key: TpmPublic
) -> None:
    """Verify that the AK certified this key as living in its own TPM.

    Raises:
        BindingError: evidence.quote, or evidence.signature
    """
    raise NotImplementedError
