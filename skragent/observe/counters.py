"""Counts and gauges of the agent as plain numbers; a scrape reads them.

The code that serves requests keeps a cell and adds 1 to it, without a lock, a lookup or
a library. Only the event loop's thread writes and reads the numbers.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from skragent.observe import names
from skragent.observe.internal_errors import INTERNAL_ERRORS

_RENEWAL_RESULTS = (names.RESULT_SUCCESS, names.RESULT_ERROR)


class Cell:
    """One count."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class KeySample(NamedTuple):
    """The metrics of one key."""

    alias: str
    is_available: bool
    is_stale: bool
    needs_attention: bool
    released_at: float | None
    not_after: float | None


class Counters:
    """All counts and gauges of one agent; known label sets begin at 0."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        # (socket, op, code) -> requests with a response
        self.requests: dict[tuple[str, str, str], Cell] = {}
        # socket -> open connections, and responses that the caller has not read yet
        self.connections: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()
        self.denied = Counter(dict.fromkeys(names.DENIED_REASONS, 0))
        # (result, error code) and (key, result, error code) -> attempts
        self.attestations = Counter({(result, ""): 0 for result in names.RESULTS})
        self.ak_renewals = Counter({(result, ""): 0 for result in _RENEWAL_RESULTS})
        self.releases: Counter[tuple[str, str, str]] = Counter()
        # key -> releases that do not repeat the request's nonce
        self.missing_nonces: Counter[str] = Counter()
        self.configure(keys)
        self.attested_at: float | None = None  # seconds since 1970, as the next two
        self.token_expires_at: float | None = None
        self.ak_certificate_expires_at: float | None = None
        self.is_reloaded = True  # the last configuration that was read is in force
        self.memory_kind = ""  # skragent.secretmem.Kind; empty before the first arena
        self.internal_errors = INTERNAL_ERRORS.counts  # by event, of the process
        self.step_seconds: dict[str, float] = {}  # of the last job

    def configure(self, keys: tuple[str, ...]) -> None:
        """Count releases of these keys; remove the counts of other keys."""
        for label in [label for label in self.releases if label[0] not in keys]:
            del self.releases[label]
        for key in [key for key in self.missing_nonces if key not in keys]:
            del self.missing_nonces[key]
        for key in keys:
            self.missing_nonces.setdefault(key, 0)
            for result in names.RESULTS:
                self.releases.setdefault((key, result, ""), 0)

    def requests_cell(self, socket: str, op: str, code: str) -> Cell:
        """Return the cell of one kind of response, for the caller to keep."""
        label = (socket, op, code)
        if label not in self.requests:
            self.requests[label] = Cell()
        return self.requests[label]

    def count_attestation(self, result: str, error_code: str = "") -> None:
        """Count one attestation: success, denied or error, and the error's code."""
        self.attestations[result, error_code] += 1

    def count_ak_renewal(self, result: str, error_code: str = "") -> None:
        """Count one renewal of the AK certificate: success or error, and its code."""
        self.ak_renewals[result, error_code] += 1

    def count_missing_nonce(self, key: str) -> None:
        """Count one release of a key that does not repeat the request's nonce."""
        self.missing_nonces[key] += 1

    def count_release(self, key: str, result: str, error_code: str = "") -> None:
        """Count one release of a key: success, denied or error, and its code."""
        self.releases[key, result, error_code] += 1
