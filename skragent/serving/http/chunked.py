"""The chunked transfer coding of RFC 9112 §7.1: bytes to a body, or an error. Pure.

Everything is limited: the body, the length of a line, and the framing (sizes,
extensions, trailers and line ends) in total. The bytes may arrive in pieces of any
size. Each byte is read a limited number of times.

The parser is strict, because a proxy that reads the same bytes in another way sees the
next request begin elsewhere (request smuggling, RFC 9112 §11.2). Lines end with CR LF,
a size is hexadecimal digits alone, and CR LF follows the data. Extensions and trailers
are checked and dropped: RFC 9112 §7.1.1, RFC 9110 §6.5.1.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from skragent.serving.http.interfaces import HttpError

MAX_TRAILERS: Final = 64
MAX_LINE_BYTES: Final = 256  # its CR LF included

_END: Final = b"\r\n"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 §5.6.2
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'  # §5.6.4
_EXTENSION: Final = (
    rb"[ \t]*;[ \t]*"
    + _TOKEN
    + rb"(?:[ \t]*=[ \t]*(?:"
    + _TOKEN
    + rb"|"
    + _QUOTED
    + rb"))?"
)
# The digits of 64 bits, with leading zeros.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*\r\n")
_TRAILER: Final = re.compile(_TOKEN + rb":[\t -~\x80-\xff]*\r\n")


class ChunkedBody:
    """One body, as its bytes arrive.

    Args:
        max_bytes: the limit of the body.
        max_framing_bytes: the limit of all other bytes.
    """

    __slots__ = (
        "_framing_left",
        "_is_in_trailers",
        "_left",
        "_max_bytes",
        "_trailers",
        "body",
        "size",
    )

    def __init__(self, max_bytes: int, max_framing_bytes: int) -> None:
        self.body = bytearray()
        self.size = 0  # the bytes of body and framing so far
        self._max_bytes = max_bytes
        self._framing_left = max_framing_bytes
        self._left = 0  # missing bytes of the current chunk, with its CR LF
        self._is_in_trailers = False
        self._trailers = 0

    def take(self, data: bytearray) -> bool:
        """Move the bytes of the body out of `data`; return whether it is complete.

        Raises:
            HttpError: the bytes are not a chunked body, or it is too large.
        """
        position = 0
        is_complete = False
        while not is_complete:
            if self._left:
                part = bytes(data[position : position + self._left])
                if not self._take_data(part):
                    break
                position += len(part)
                continue
            # Search for the first LF, so that a line does not depend on the pieces.
            end = data.find(b"\n", position, position + MAX_LINE_BYTES) + 1
            if not end:
                if len(data) - position >= MAX_LINE_BYTES:
                    raise _too_large(f"a line has more than {MAX_LINE_BYTES} bytes")
                break
            is_complete = self._take_line(bytes(data[position:end]))
            position = end
        del data[:position]
        self.size += position
        return is_complete

    def _take_data(self, part: bytes) -> bool:
        """Take data of a chunk and the CR LF after it; return whether `part` has bytes.

        The CR LF may arrive in two pieces.
        """
        data_left = self._left - len(_END)
        if data_left > 0:
            self.body += part[:data_left]
        end = part[max(data_left, 0) :]
        first = max(-data_left, 0)
        if end != _END[first : first + len(end)]:
            raise HttpError("the data of a chunk does not have the announced size")
        self._left -= len(part)
        return bool(part)

    def _take_line(self, line: bytes) -> bool:
        """Take a size or a trailer; return whether the body ends with it."""
        self._spend(len(line))
        if self._is_in_trailers:
            return self._take_trailer(line)
        found = _SIZE_LINE.fullmatch(line)
        if found is None:
            raise HttpError("the size line of a chunk is malformed")
        size = int(found[1], 16)
        if size == 0:
            self._is_in_trailers = True
            return False
        if len(self.body) + size > self._max_bytes:
            raise _too_large(f"it has more than {self._max_bytes} bytes")
        self._spend(len(_END))
        self._left = size + len(_END)
        return False

    def _take_trailer(self, line: bytes) -> bool:
        if line == _END:
            return True
        self._trailers += 1
        if self._trailers > MAX_TRAILERS:
            raise _too_large(f"there are more than {MAX_TRAILERS} trailers")
        if not _TRAILER.fullmatch(line):
            raise HttpError("a trailer of a chunked body is malformed")
        return False

    def _spend(self, count: int) -> None:
        self._framing_left -= count
        if self._framing_left < 0:
            raise _too_large("its sizes, extensions and trailers have too many bytes")


def _too_large(why: str) -> HttpError:
    return HttpError(
        f"the chunked body is too large: {why}",
        code="serve.body",
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )
