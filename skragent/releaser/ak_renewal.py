"""A renewal of the AK certificate through THIM: no attestation, no keys.

As Microsoft's client does it (TpmCertOperations.cpp of cvm-guest-attestation), but for
its waits, which are the agent's: a certificate that THIM makes later on is asked for
by the next job. Only within 90 days of the present one's end, and only where its NV
index is the guest's: the paravisor of newer VMs renews it by itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from skragent.errors import AgentError, EndorsementsError, TransportError
from skragent.evidence.ak_certificate import (
    RENEWED_WITHIN,
    cut_padding,
    encode_request,
    is_for_key,
    parse_answer,
    parse_successor,
    read_end,
)
from skragent.evidence.imds import ImdsClient
from skragent.evidence.tpm import Vtpm
from skragent.evidence.tpm_public import parse_tpm2b_public
from skragent.job import AkCertificate, Result
from skragent.releaser.ak_copies import AkCopies
from skragent.releaser.ak_write import replace_ak_certificate
from skragent.releaser.failures import describe_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.job import Job
    from skragent.releaser.stopwatch import Stopwatch

# What an IMDS says that does not know the newer form: then the older one is tried.
_OTHER_FORM = ("transport.unexpected", "transport.server")

# The agent ends a renewal after 30 s. A write that is interrupted is finished by the
# next job, which takes time from the keys. So a write is not begun late.
_LATE_MILLISECONDS = 15_000


def describe_ak_certificate(
    data: bytes, now: float, is_ours: Callable[[], bool]
) -> AkCertificate | None:
    """Tell until when a certificate holds; None where it cannot be read.

    Args:
        data: what the NV index holds.
        now: wall time.
        is_ours: whether the guest may replace it; asked where it matters only.
    """
    end = read_end(data)
    if end is None:
        return None
    is_near = end - datetime.fromtimestamp(now, UTC) <= RENEWED_WITHIN
    return AkCertificate(
        expires_at=end.timestamp(), is_renewal_due=is_near and is_ours()
    )


def run_renewal(job: Job, stopwatch: Stopwatch) -> Result:
    """Renew the certificate if that is still due, or order its renewal."""
    try:
        with (
            ImdsClient(job.imds_endpoint, job.timeout_seconds) as imds,
            Vtpm(job.tcti) as tpm,
        ):
            return _renew(job, tpm, imds, stopwatch)
    except AgentError as error:
        return Result(failure=describe_failure(error), timings=stopwatch.timings())


def _renew(job: Job, tpm: Vtpm, imds: ImdsClient, stopwatch: Stopwatch) -> Result:
    present = tpm.read_ak_certificate()
    described = describe_ak_certificate(present, job.now, tpm.owns_ak_certificate)
    if described is None:
        raise EndorsementsError(
            "the AK certificate does not parse", code="endorsements.malformed"
        )
    if not described.is_renewal_due:  # somebody else was quicker
        return Result(ak_certificate=described, timings=stopwatch.timings())
    with stopwatch.step("imds.renew"):
        pem, query_id = _ask(job, imds, encode_request(present))
    if query_id:
        return Result(
            ak_certificate=described, ak_query_id=query_id, timings=stopwatch.timings()
        )
    now = datetime.fromtimestamp(job.now, UTC)
    successor = parse_successor(pem, present, now)
    if stopwatch.timings()["total"] > _LATE_MILLISECONDS:
        raise TransportError(
            "IMDS took too long for the new AK certificate to be written in time",
            code="transport.timeout",
        )
    if not is_for_key(successor, parse_tpm2b_public(tpm.read_ak_public()).rsa):
        raise EndorsementsError(
            "THIM's new AK certificate is not taken: it is not for this vTPM's key",
            code="endorsements.ak_certificate",
        )
    with stopwatch.step("tpm.renew"):
        replace_ak_certificate(
            tpm, AkCopies(job.state_directory), new=successor, old=cut_padding(present)
        )
    return Result(
        ak_certificate=describe_ak_certificate(successor, job.now, lambda: True),
        timings=stopwatch.timings(),
    )


def _ask(job: Job, imds: ImdsClient, request: str) -> tuple[bytes, str]:
    """Ask for the certificate, or for a query's id to ask by later."""
    vm_id = imds.vm_id()
    if job.ak_query_id:
        return imds.ordered_ak_certificate(job.ak_query_id, vm_id), ""
    try:
        answer = imds.renew_ak_certificate(request, vm_id)
    except TransportError as error:
        if error.code not in _OTHER_FORM:
            raise
        return b"", imds.order_ak_certificate(request, vm_id)
    return parse_answer(answer)
