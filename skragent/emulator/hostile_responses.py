"""Responses that never end or that exceed every client's size limit.

The functions write bytes to the connection without the HTTP server, because the bytes
are not valid HTTP. Each function ends when the client closes the connection, or after
the requested number of bytes.
"""

from __future__ import annotations

import asyncio
import itertools
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skragent.emulator.service import Response

# The parts of a response that can be sent one byte at a time.
DRIPS: Final = (
    *("status", "headers", "body", "chunks", "extension", "trailers", "continue"),
)
DRIP_SECONDS: Final = 0.1
_BLOCK_BYTES: Final = 1 << 20
# The limit of unsent bytes, so that a slow client does not fill the emulator's memory.
_HIGH_WATER_BYTES: Final = 4 << 20


async def drip(
    transport: asyncio.WriteTransport, response: Response, part: str
) -> None:
    """Send a response up to a part, then that part without end, byte by byte."""
    before, endless = _parts(response)[part]
    transport.write(before)
    for byte in endless:
        if transport.is_closing():
            return
        transport.write(byte)
        await asyncio.sleep(DRIP_SECONDS)


async def flood(
    transport: asyncio.WriteTransport, response: Response, size: int
) -> None:
    """Send a response with a chunked body of `size` bytes."""
    block = b" " * _BLOCK_BYTES
    await _send(
        transport, response, {}, itertools.repeat(block, size // _BLOCK_BYTES + 1)
    )


async def bomb(
    transport: asyncio.WriteTransport, response: Response, size: int
) -> None:
    """Send a response whose gzip body expands to `size` bytes."""
    headers = {"Content-Encoding": "gzip"}
    await _send(transport, response, headers, _deflated(size))


def _deflated(size: int) -> Iterator[bytes]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    block = bytes(_BLOCK_BYTES)
    for _ in range(size // _BLOCK_BYTES + 1):
        if packed := packer.compress(block):
            yield packed
    yield packer.flush()


async def _send(
    transport: asyncio.WriteTransport,
    response: Response,
    headers: dict[str, str],
    blocks: Iterable[bytes],
) -> None:
    headers = {**headers, "Transfer-Encoding": "chunked"}
    transport.write(_head(response, headers))
    for block in blocks:
        transport.write(b"%x\r\n%b\r\n" % (len(block), block))
        await asyncio.sleep(0)
        while True:
            # Check first: a closed TLS transport has no write buffer to measure.
            if transport.is_closing():
                return
            if transport.get_write_buffer_size() <= _HIGH_WATER_BYTES:
                break
            await asyncio.sleep(0.001)
    transport.write(b"0\r\n\r\n")


def _head(response: Response, headers: dict[str, str]) -> bytes:
    return _status_line(response) + _lines(response, headers) + b"\r\n"


def _status_line(response: Response) -> bytes:
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {response.status} {phrase}\r\n".encode()


def _lines(response: Response, headers: dict[str, str]) -> bytes:
    given = response.headers | headers
    return "".join(f"{name}: {value}\r\n" for name, value in given.items()).encode()


def _parts(response: Response) -> dict[str, tuple[bytes, Iterable[bytes]]]:
    """Return, for each part, the bytes before it and its bytes without end."""
    status = _status_line(response)
    chunked = _head(response, {"Transfer-Encoding": "chunked"})
    sized = _head(response, {"Content-Length": "100000"})
    spaces = itertools.repeat(b" ")
    headers = itertools.chain.from_iterable(
        [b"X", b"-", b"a", b":", b"b", b"\r\n"] for _ in itertools.count()
    )
    chunks = itertools.cycle([b"1", b"\r\n", b" ", b"\r\n"])
    return {
        "status": (status[:-2], itertools.repeat(b"x")),
        "headers": (status, headers),
        "body": (sized, spaces),
        "chunks": (chunked, chunks),
        "extension": (chunked + b"1;", itertools.repeat(b"x")),
        "trailers": (chunked + b"1\r\n \r\n0\r\n", headers),
        "continue": (b"", itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n")),
    }
