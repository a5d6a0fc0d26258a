"""Renew the AK certificate through THIM: a job without attestation and keys.

The requests are those of Microsoft's client (github.com/Azure/confidential-computing-
cvm-guest-attestation, TpmCertOperations.cpp). Its waits belong to the agent: a later
job fetches a certificate that THIM has not made yet. A certificate is renewed only in
the last 90 days of its life and only if the guest owns its NV index. The paravisor of
newer VMs renews it by itself.
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
    parse_renewal_response,
    parse_successor,
    read_end,
)
from skragent.evidence.imds import ImdsClient
from skragent.evidence.tpm import Vtpm
from skragent.evidence.tpm_public import parse_tpm2b_public
from skragent.job import AkCertificate, Result
from skragent.releaser.ak_copies import AkCopies
from skragent.releaser.ak_write import replace_ak_certificate
from skragent.releaser.job_io import describe_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.job import Job
    from skragent.releaser.stopwatch import Stopwatch

# An IMDS without the newer request answers with these errors; then the older request
# is sent.
_UNKNOWN_REQUEST = ("transport.unexpected", "transport.server")

# The agent ends a renewal after 30 s. The next job would have to finish an interrupted
# write, at the cost of its own time. So no write begins later than this.
_LATEST_WRITE_MILLISECONDS = 15_000


def describe_ak_certificate(
    data: bytes, now: float, owns_index: Callable[[], bool]
) -> AkCertificate | None:
    """Return when a certificate expires and whether to renew it; None if malformed.

    Args:
        data: the NV index's content, DER with padding.
        now: wall time, in seconds since 1970.
        owns_index: returns whether the guest may write the index; called only if the
            certificate expires soon.
    """
    end = read_end(data)
    if end is None:
        return None
    is_near = end - datetime.fromtimestamp(now, UTC) <= RENEWED_WITHIN
    return AkCertificate(
        expires_at=end.timestamp(), is_renewal_due=is_near and owns_index()
    )


def run_renewal(job: Job, stopwatch: Stopwatch) -> Result:
    """Renew the certificate if its renewal is due, or order the renewal from THIM."""
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
    if not described.is_renewal_due:  # it was renewed since the agent wrote the job
        return Result(ak_certificate=described, timings=stopwatch.timings())
    with stopwatch.step("imds.renew"):
        pem, query_id = _request_certificate(job, imds, encode_request(present))
    if query_id:
        return Result(
            ak_certificate=described, ak_query_id=query_id, timings=stopwatch.timings()
        )
    now = datetime.fromtimestamp(job.now, UTC)
    successor = parse_successor(pem, present, now)
    if stopwatch.timings()["total"] > _LATEST_WRITE_MILLISECONDS:
        raise TransportError(
            "IMDS took too long for the new AK certificate to be written in time",
            code="transport.timeout",
        )
    if not is_for_key(successor, parse_tpm2b_public(tpm.read_ak_public()).rsa):
        raise EndorsementsError(
            "THIM's new AK certificate is rejected: it is not for this vTPM's key",
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


def _request_certificate(job: Job, imds: ImdsClient, request: str) -> tuple[bytes, str]:
    """Return the new certificate (PEM), or the id of a query for a later job."""
    vm_id = imds.vm_id()
    if job.ak_query_id:
        return imds.ordered_ak_certificate(job.ak_query_id, vm_id), ""
    try:
        response = imds.renew_ak_certificate(request, vm_id)
    except TransportError as error:
        if error.code not in _UNKNOWN_REQUEST:
            raise
        return b"", imds.order_ak_certificate(request, vm_id)
    return parse_renewal_response(response)
