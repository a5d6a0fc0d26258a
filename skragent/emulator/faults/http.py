"""Faults of every service that speaks HTTP: statuses, delays, broken bodies."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Literal

from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import OF_REQUESTS, fault
from skragent.emulator.faults.grammar import Asked, Value, optional

if TYPE_CHECKING:
    from skragent.emulator.faults.context import Site
    from skragent.emulator.service import Request, Response

_ALL = "imds maa entra vault hsm"
_MIB = 1 << 20
_WORDS = {
    "retry_after": grammar.TEXT,
    "code": grammar.TEXT,
    "message": grammar.TEXT,
}


@fault("imds maa entra", "status", Value(grammar.STATUS), _WORDS | OF_REQUESTS)
@fault(
    "vault hsm",
    "status",
    Value(grammar.STATUS),
    {"inner": grammar.TEXT} | _WORDS | OF_REQUESTS,
)
async def status(site: Site, asked: Asked) -> None:
    """Every request is refused with this status, in the service's own envelope."""
    service = site.service(asked)
    words = asked.options

    def refuse(request: Request) -> None:
        refusal = service.refusal_of(request, asked.value)
        refusal.code = words.get("code", refusal.code)
        refusal.inner = words.get("inner", refusal.inner)
        refusal.message = words.get("message", refusal.message)
        if "retry_after" in words:
            refusal.headers["Retry-After"] = words["retry_after"]
        raise refusal

    site.guard(asked, refuse)


@fault(_ALL, "latency", Value(grammar.DURATION), OF_REQUESTS)
async def latency(site: Site, asked: Asked) -> None:
    """Every answer waits so long before its first byte, or until the reset."""
    _hold_answers(site, asked, asked.value)


@fault(_ALL, "hang", None, OF_REQUESTS)
async def hang(site: Site, asked: Asked) -> None:
    """No answer comes, until the faults are reset."""
    _hold_answers(site, asked)


@fault(_ALL, "reset", None, OF_REQUESTS)
async def reset(site: Site, asked: Asked) -> None:
    """The connection is reset (TCP RST) in the middle of the body.

    Behind `--latency` it only ends there: the relay does not carry a reset.
    """

    async def break_off(_: Request, response: Response) -> Response:
        response.delivery = "reset"
        return response

    site.hook(asked, break_off)


@fault(_ALL, "truncate", None, OF_REQUESTS)
async def truncate(site: Site, asked: Asked) -> None:
    """The connection ends after half of the body that Content-Length promised."""

    async def cut(_: Request, response: Response) -> Response:
        response.delivery = "cut"
        return response

    site.hook(asked, cut)


@fault(_ALL, "oversize", optional(grammar.BYTES, 16 * _MIB), OF_REQUESTS)
async def oversize(site: Site, asked: Asked) -> None:
    """The body is filled up with spaces to so many bytes (16 MiB): still good JSON."""

    async def fill(_: Request, response: Response) -> Response:
        response.body = response.body.ljust(asked.value)
        return response

    site.hook(asked, fill)


@fault(_ALL, "drip", optional(grammar.DRIP, "body"), OF_REQUESTS)
async def drip(site: Site, asked: Asked) -> None:
    """This part of the answer comes one byte at a time, and never ends (body)."""
    _deliver(site, asked, "drip")


@fault(_ALL, "flood", optional(grammar.SIZE, 300 * _MIB), OF_REQUESTS)
async def flood(site: Site, asked: Asked) -> None:
    """The body has so many bytes (300 MiB), and no length is announced."""
    _deliver(site, asked, "flood")


@fault(_ALL, "bomb", optional(grammar.SIZE, 600 * _MIB), OF_REQUESTS)
async def bomb(site: Site, asked: Asked) -> None:
    """The body is in gzip, which nobody asked for: so many bytes unpacked (600 MiB)."""
    _deliver(site, asked, "bomb")


def _deliver(
    site: Site, asked: Asked, delivery: Literal["drip", "flood", "bomb"]
) -> None:
    async def mark(_: Request, response: Response) -> Response:
        response.delivery, response.measure = delivery, asked.value
        if 300 <= response.status < 400:  # noqa: PLR2004 - RFC 9110 §15.4
            response.headers["Location"] = "/elsewhere"
        return response

    site.hook(asked, mark)


@fault(_ALL, "content_type", optional(grammar.TEXT, "text/html"), OF_REQUESTS)
async def content_type(site: Site, asked: Asked) -> None:
    """The body is called by another media type (text/html)."""

    async def call(_: Request, response: Response) -> Response:
        response.headers["Content-Type"] = asked.value
        return response

    site.hook(asked, call)


@fault(
    _ALL, "body", optional(grammar.TEXT_OR_NONE, "<html>it works</html>"), OF_REQUESTS
)
async def body(site: Site, asked: Asked) -> None:
    """The body is this text instead (a page of HTML); status and headers stay."""

    async def replace(_: Request, response: Response) -> Response:
        response.body = asked.value.encode()
        return response

    site.hook(asked, replace)


def _hold_answers(site: Site, asked: Asked, seconds: float | None = None) -> None:
    """Keep answers back; who waits is let go at the reset."""
    is_over = asyncio.Event()

    async def wait(_: Request, response: Response) -> Response:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await is_over.wait()
        return response

    async def let_go() -> None:
        is_over.set()

    site.hook(asked, wait)
    site.on_reset(let_go)
