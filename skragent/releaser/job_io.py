"""The releaser's input and output: one job from stdin, one result to stdout.

Also the parts of a result that every stage writes (failures and notes), the report of a
crash on stderr, and the environment variables that the Azure libraries read.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from skragent.errors import AgentError
from skragent.job import (
    MAX_JOB_BYTES,
    MAX_KEYS,
    MAX_NOTE_CHARACTERS,
    MAX_NOTES,
    MAX_RESULT_BYTES,
    PROTOCOL,
    Failure,
    Job,
    Result,
    arena_bytes,
)
from skragent.tracebacks import describe, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

EX_SOFTWARE: Final = 70  # sysexits.h: a bug in the releaser

_STDIN, _STDOUT, _STDERR = 0, 1, 2

# The longest message or hint of a failure: the failures of 256 keys must fit a result.
_MAX_FAILURE_CHARACTERS = 1000

# These variables make ManagedIdentityCredential use another service than IMDS.
_IDENTITY_VARIABLES = ("IDENTITY_", "MSI_", "IMDS_", "AZURE_", "ECS_", "DEFAULT_IDENT")
# These variables change the TLS roots, or the file where requests looks for passwords.
_TRUST_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_", "NETRC")
_DEFAULT_IMDS_ENDPOINT = "http://169.254.169.254"

# Places of bugs that were reported; each is reported once. `set.add` is atomic.
_reported: set[str] = set()


def clean_environment(environment: MutableMapping[str, str], endpoint: str) -> None:
    """Remove variables that would change the job, and set the endpoint of IMDS.

    The Azure libraries read variables of a dozen names. A variable of the unit could
    choose another identity service or other TLS roots. Call this before the libraries
    are imported.

    Args:
        environment: the variables, such as `os.environ`.
        endpoint: the base URL of IMDS.
    """
    for name in list(environment):
        if name.upper().startswith(_IDENTITY_VARIABLES + _TRUST_VARIABLES):
            del environment[name]
    if endpoint.rstrip("/") != _DEFAULT_IMDS_ENDPOINT:
        environment["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = endpoint.rstrip("/")


def reserve_stdout() -> int:
    """Return a descriptor for the result, and send what libraries print to stderr."""
    result_fd = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    return result_fd


def read_job(fd: int = _STDIN) -> Job:
    """Read a job of bounded length.

    Raises:
        ValueError: the input is not a job of this version's protocol.
    """
    data = bytearray()
    while chunk := os.read(fd, 64 * 1024):
        data += chunk
        if len(data) > MAX_JOB_BYTES:
            raise ValueError(f"a job of more than {MAX_JOB_BYTES} bytes")
    job = msgspec.json.decode(data, type=Job)
    if job.protocol != PROTOCOL:
        raise ValueError(f"a job of protocol {job.protocol}, not {PROTOCOL}")
    has_keys = job.purpose != "renew"
    if not has_keys <= len(job.keys) <= has_keys * MAX_KEYS:
        raise ValueError(f"a job of {len(job.keys)} keys")
    if job.arena_bytes < arena_bytes(len(job.keys)):
        raise ValueError("a job with too little secret memory")
    return job


class ResultWriter:
    """Writes the parts of a result, each on a line; the last part closes `fd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bytes = 0

    def write(self, part: Result) -> None:
        """Write one part.

        Raises:
            ValueError: the result is longer than the agent reads.
        """
        data = memoryview(msgspec.json.encode(part) + b"\n")
        self._bytes += len(data)
        if self._bytes > MAX_RESULT_BYTES:
            raise ValueError(f"a result of {self._bytes} bytes")
        while data:
            data = data[os.write(self._fd, data) :]
        if part.is_last:
            os.close(self._fd)


class Notes:
    """Findings for people that did not stop the job, in bounded number and length.

    They travel to the agent in the result, and the agent logs each note once.
    """

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def add(self, about: str, texts: Iterable[str]) -> None:
        """Add notes about one setting or file; a repeated note is kept once."""
        for text in texts:
            if len(self._texts) < MAX_NOTES:
                note = f"{about}: {text}"
                self._texts[note[:MAX_NOTE_CHARACTERS]] = None

    def all(self) -> tuple[str, ...]:
        """Return the notes in the order in which they were added."""
        return tuple(self._texts)


def describe_failure(error: AgentError) -> Failure:
    """Return an error in the form that the agent reads."""
    return Failure(
        code=error.code,
        disposition=error.disposition.value,
        message=error.message[:_MAX_FAILURE_CHARACTERS],
        hint=error.hint[:_MAX_FAILURE_CHARACTERS],
        retry_after=error.retry_after,
    )


def describe_any_failure(error: Exception) -> Failure:
    """Return the failure of one key; report an exception that is a bug on stderr.

    The message has only the type of such an exception: its text may quote a secret.
    """
    if isinstance(error, AgentError):
        return describe_failure(error)
    kind = type(error).__name__
    bug = f"{kind} at {place_of(error)}"
    if bug not in _reported:
        _reported.add(bug)
        report_crash(error)
    return describe_failure(
        AgentError(
            f"a bug prevented the release of the key: {kind}",
            hint="Report it, with the journal around it.",
        )
    )


def report_crash(error: BaseException) -> None:
    """Write the types and lines of an exception to stderr, in a few lines.

    Messages are left out: they may quote secrets of this process.
    """
    sys.stderr.write(describe(error, with_messages=False))
    sys.stderr.flush()
