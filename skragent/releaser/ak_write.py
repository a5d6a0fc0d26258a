"""Write the AK certificate so that an interruption never leaves the vTPM without one.

Only the guest could restore a lost certificate, and the provider refuses a VM without
one. Three things protect it:

- A write in place by one TPM command is atomic and needs no copy (`ak_index`).
- Before any other write the certificates are copied to disk (`ak_copies`). The next job
  that uses the certificate restores it from there.
- Signals that end this process are blocked until the write is verified, except SIGKILL.

A command of a busy TPM is repeated at once and only a few times. Longer waits belong to
the agent, and the copy remains on disk meanwhile.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Final

from skragent.errors import EndorsementsError, EvidenceError
from skragent.evidence.ak_index import find_lost, is_whole, needs_copy
from skragent.evidence.tpm import Vtpm
from skragent.evidence.tpm_public import parse_tpm2b_public
from skragent.releaser.ak_copies import AkCopies

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skragent.job import Job

_ATTEMPTS: Final = 2  # for each certificate

_TERMINATING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def replace_ak_certificate(
    tpm: Vtpm, copies: AkCopies, *, new: bytes, old: bytes
) -> None:
    """Write a new certificate into the index.

    Args:
        tpm: the vTPM.
        copies: the copies on disk during the write.
        new: the new certificate, in DER.
        old: the index's present certificate, in DER.

    Raises:
        EndorsementsError: endorsements.ak_copy: the index was not touched.
        EvidenceError: the write failed. The index holds the old certificate, or the
            next job restores a certificate.
    """
    with _terminating_signals_blocked():
        if needs_copy(tpm.read_ak_index(), new):
            copies.save((new, old))
        written, error = _write_first(tpm, copies, (new, old))
        copies.discard()
    if error is not None and written != new:
        raise error


def restore_ak_certificate(job: Job) -> bool:
    """Finish an interrupted renewal; return whether the index had to be written.

    Raises:
        EndorsementsError: endorsements.ak_copy: the copies cannot be read.
        EvidenceError: the write failed; the next job tries again.
    """
    copies = AkCopies(job.state_directory)
    with Vtpm(job.tcti) as tpm:
        ak = parse_tpm2b_public(tpm.read_ak_public()).rsa
        index = tpm.read_ak_index()
        try:
            lost = find_lost(index, copies.load(), ak)
        except EndorsementsError:
            if is_whole(index, ak):
                return False
            raise
        with _terminating_signals_blocked():
            if lost:
                _write_first(tpm, copies, lost)
            copies.discard()
    return bool(lost)


def _write_first(
    tpm: Vtpm, copies: AkCopies, certificates: Sequence[bytes]
) -> tuple[bytes, EvidenceError | None]:
    """Write the first certificate that the TPM accepts.

    Returns:
        The written certificate, and the first failure before it.

    Raises:
        EvidenceError: the first failure, if no certificate could be written.
    """
    failure: EvidenceError | None = None
    has_copy = copies.exist()
    for der in (der for der in certificates for _ in range(_ATTEMPTS)):
        try:
            tpm.write_ak_certificate(der, has_copy=has_copy)
        except EvidenceError as error:
            failure = failure or error
        else:
            return der, failure
    if failure is None:
        raise TypeError("no certificate to write")
    if has_copy:
        failure.hint = f"A copy is in {copies.path}: the next job writes it back."
    raise failure


@contextlib.contextmanager
def _terminating_signals_blocked() -> Iterator[None]:
    """Block the signals that end this process, such as systemd's (systemd.kill(5)).

    The mask applies to this thread (pthread_sigmask(3)). The job must have started no
    other thread, because the kernel would deliver the signal there.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINATING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
