"""Writes the AK certificate so that no interruption leaves the vTPM without one.

Nothing but the guest would bring a lost certificate back, and without one the verifier
refuses the VM. Three things keep it:

- One TPM command that writes the index in place needs nothing else (`ak_index`).
- Before any other write the certificates are copied to disk (`ak_copy`). The next job
  that uses the certificate restores it from there.
- Signals that end this process wait until the write is verified. SIGKILL does not.

A TPM that is busy is asked again at once, and not for long: waiting is the agent's,
and the copy waits as well.
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

_TRIES: Final = 2  # of each certificate

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def replace_ak_certificate(
    tpm: Vtpm, copies: AkCopies, *, new: bytes, old: bytes
) -> None:
    """Put another certificate into the index.

    Args:
        tpm: the vTPM.
        copies: where they are kept meanwhile.
        new: in DER.
        old: the one that the index holds, in DER.

    Raises:
        EndorsementsError: endorsements.ak_copy: nothing was done.
        EvidenceError: it could not be written. The index holds the old certificate,
            or the next job restores one.
    """
    with _signals_held_back():
        if needs_copy(tpm.read_ak_index(), new):
            copies.save((new, old))
        written, error = _write_first(tpm, copies, (new, old))
        copies.discard()
    if error is not None and written != new:
        raise error


def restore_ak_certificate(job: Job) -> bool:
    """Finish what an interrupted renewal left; tell whether that took a write.

    Raises:
        EndorsementsError: endorsements.ak_copy: the copies cannot be read.
        EvidenceError: the certificate could not be written: the next job tries again.
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
        with _signals_held_back():
            if lost:
                _write_first(tpm, copies, lost)
            copies.discard()
    return bool(lost)


def _write_first(
    tpm: Vtpm, copies: AkCopies, certificates: Sequence[bytes]
) -> tuple[bytes, EvidenceError | None]:
    """Write the first of these certificates that can be written.

    Returns:
        The one that was written, and the first failure before it.

    Raises:
        EvidenceError: the first failure, where none could be written.
    """
    failure: EvidenceError | None = None
    has_copy = copies.exist()
    for der in (der for der in certificates for _ in range(_TRIES)):
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
def _signals_held_back() -> Iterator[None]:
    """Let the signals that end this process wait.

    The mask is this thread's: the job must have started no other, which would take the
    signal. The systemd unit's and the agent's SIGTERM come here (systemd.kill(5)).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
