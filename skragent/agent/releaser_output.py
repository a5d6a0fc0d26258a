"""Read and check the result that a releaser writes. Pure.

The releaser is part of skragent, but it parses data from the network. So the agent
checks each part of the result before it uses an offset in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from skragent.errors import ReleaserError
from skragent.job import (
    MAX_NOTE_CHARACTERS,
    MAX_NOTES,
    MAX_RESULT_BYTES,
    MAX_TOKEN_CHARACTERS,
    PROTOCOL,
    Result,
    unique_offset,
)

if TYPE_CHECKING:
    from skragent.job import Purpose, ReleasedKey

# A key version of Key Vault and Managed HSM: 32 hexadecimal digits. The API sends it as
# the ETag.
_VERSION: Final = re.compile(r"[0-9a-f]{32}")
# The id of an order for an AK certificate, from THIM. It becomes part of a URL.
_QUERY_ID: Final = re.compile(r"[0-9A-Za-z-]{0,64}")


class _Protocol(msgspec.Struct):
    protocol: int = 0


class ResultReader:
    """Reads the parts of one job's result, one from each line.

    Args:
        aliases: of the job's keys.
        purpose: of the job.
        has_token: the job has an attestation token, so it must not attest.
    """

    def __init__(
        self,
        aliases: frozenset[str],
        *,
        purpose: Purpose = "release",
        has_token: bool = False,
    ) -> None:
        self._aliases = aliases
        self._purpose = purpose
        self._has_token = has_token
        self._has_attested = False
        self._named: set[str] = set()
        self._taken: list[tuple[int, int]] = []  # slices of the arena: from, to
        self._buffer = bytearray()
        self._bytes = 0
        self._last: Result | None = None

    def feed(self, data: bytes) -> list[Result]:
        """Read more output; return the parts that are complete now.

        Raises:
            ReleaserError: releaser.garbage; the rest of the output must be ignored.
        """
        self._bytes += len(data)
        if self._bytes > MAX_RESULT_BYTES:
            raise _garbage(f"it is longer than {MAX_RESULT_BYTES} bytes")
        # Searches only the new data, because a releaser may write single bytes.
        first, *more = data.split(b"\n")
        self._buffer += first
        parts = []
        for piece in more:
            line, self._buffer = bytes(self._buffer), bytearray(piece)
            parts.append(self._read(line))
        return parts

    def finish(self) -> Result:
        """Return the last part.

        Raises:
            ReleaserError: releaser.garbage: it is missing, or other output follows it.
        """
        if self._buffer:
            self._read(bytes(self._buffer))
        if self._last is None:
            raise _garbage("it has no end")
        return self._last

    def _read(self, line: bytes) -> Result:
        if self._last is not None:
            raise _garbage("something follows its end")
        part = _decode(line)
        self._check_purpose(part)
        self._check_attestation(part)
        self._check_aliases(part)
        self._check_slices(part)
        _check_notes(part)
        if part.is_last:
            self._last = part
        return part

    def _check_purpose(self, part: Result) -> None:
        is_release = self._purpose == "release"
        if is_release and part.versions:
            raise _garbage("it answers what was not asked")
        if not is_release and (part.released or part.attestation):
            raise _garbage("it released keys in a job that was not to")
        if self._purpose != "renew" and part.ak_query_id:
            raise _garbage("it ordered what was not asked for")
        if not _QUERY_ID.fullmatch(part.ak_query_id):
            raise _garbage("the id of a renewal has another form")
        # Empty if the identity has no permission to read the version.
        versions = [version for version in part.versions.values() if version]
        versions += [key.version for key in part.released]
        if not all(map(_VERSION.fullmatch, versions)):
            raise _garbage("a version is not 32 hexadecimal digits")

    def _check_attestation(self, part: Result) -> None:
        attests = part.attestation is not None
        if attests != bool(part.token) or len(part.token) > MAX_TOKEN_CHARACTERS:
            raise _garbage("an attestation has a token, and a token an attestation")
        if attests and (self._has_token or self._has_attested):
            raise _garbage("it attested, and was not to")
        self._has_attested = self._has_attested or attests
        if part.released and not (self._has_token or self._has_attested):
            raise _garbage("keys were released without an attestation")

    def _check_aliases(self, part: Result) -> None:
        named = [key.alias for key in part.released] + list(part.versions)
        named += [key.alias for key in part.failed]
        before = len(self._named)
        self._named.update(named)
        if part.failure is not None:
            if self._named or not part.is_last:
                raise _garbage("it answers keys of a job that failed as a whole")
            return
        if len(self._named) != before + len(named):
            raise _garbage("it answers a key twice")
        is_complete = self._named == self._aliases
        if not self._named <= self._aliases or (part.is_last and not is_complete):
            raise _garbage("it answers other keys than were asked for")

    def _check_slices(self, part: Result) -> None:
        if not all(key.forms for key in part.released):
            raise _garbage("a key was released in no form")
        self._taken = sorted(self._taken + _slices(part.released))
        end = 0
        for begin, after in self._taken:
            if after <= begin or begin < end:
                raise _garbage("two of its slices overlap, or one is empty")
            end = after
        if end > unique_offset(len(self._aliases)):
            raise _garbage("a slice lies outside the keys' secret memory")


def _decode(line: bytes) -> Result:
    try:
        protocol = msgspec.json.decode(line, type=_Protocol).protocol
        if protocol == PROTOCOL:
            return msgspec.json.decode(line, type=Result)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _garbage("it is not a result") from error
    raise _garbage(f"it speaks protocol {protocol}, this agent {PROTOCOL}")


def _check_notes(part: Result) -> None:
    if len(part.notes) > MAX_NOTES or any(
        len(note) > MAX_NOTE_CHARACTERS for note in part.notes
    ):
        raise _garbage("its notes are too many or too long")


def _slices(keys: tuple[ReleasedKey, ...]) -> list[tuple[int, int]]:
    return [
        (form.offset, form.offset + form.length)
        for key in keys
        for form in key.forms.values()
    ]


def _garbage(why: str) -> ReleaserError:
    return ReleaserError(
        f"the releaser's answer cannot be used: {why}", code="releaser.garbage"
    )
