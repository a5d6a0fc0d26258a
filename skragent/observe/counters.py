"""What is counted while we work: plain numbers, read only when somebody scrapes.

The socket's hot path adds 1 to a cell that it keeps; no lock, no lookup, no library.
One thread writes and reads all of this: the event loop's.
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
    """What is shown of one key."""

    alias: str
    is_available: bool
    is_stale: bool
    needs_attention: bool
    released_at: float | None
    not_after: float | None


class Counters:
    """All counts and gauges of one agent, with the label sets we can foresee at 0."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        # (socket, op, code) -> requests answered
        self.requests: dict[tuple[str, str, str], Cell] = {}
        # socket -> connections open, and requests whose answer is not taken yet
        self.connections: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()
        self.denied = Counter(dict.fromkeys(names.DENIED_REASONS, 0))
        # (result, error code) and (key, result, error code) -> attempts
        self.attestations = Counter({(result, ""): 0 for result in names.RESULTS})
        self.ak_renewals = Counter({(result, ""): 0 for result in _RENEWAL_RESULTS})
        self.releases: Counter[tuple[str, str, str]] = Counter()
        # key -> releases that do not repeat the nonce of their request
        self.missing_nonces: Counter[str] = Counter()
        self.configure(keys)
        self.attested_at: float | None = None  # seconds since 1970, like what follows
        self.token_expires_at: float | None = None
        self.ak_certificate_expires_at: float | None = None
        self.is_reloaded = True  # the file that was read last is in force
        self.memory_kind = ""  # skragent.secretmem.Kind; empty before the first arena
        self.internal_errors = INTERNAL_ERRORS.counts  # by event, of the process
        self.step_seconds: dict[str, float] = {}  # of the last job

    def configure(self, keys: tuple[str, ...]) -> None:
        """Count releases of these keys; the counts of others are forgotten."""
        for label in [label for label in self.releases if label[0] not in keys]:
            del self.releases[label]
        for key in [key for key in self.missing_nonces if key not in keys]:
            del self.missing_nonces[key]
        for key in keys:
            self.missing_nonces.setdefault(key, 0)
            for result in names.RESULTS:
                self.releases.setdefault((key, result, ""), 0)

    def requests_cell(self, socket: str, op: str, code: str) -> Cell:
        """Return the count of one kind of answer, to keep and to add to."""
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
        """Count one release of a key that does not repeat its request's nonce."""
        self.missing_nonces[key] += 1

    def count_release(self, key: str, result: str, error_code: str = "") -> None:
        """Count one release of a key: success, denied or error, and its code."""
        self.releases[key, result, error_code] += 1
