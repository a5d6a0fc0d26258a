"""Faults of every HTTP service: statuses, delays, invalid bodies."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Literal

from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import REQUEST_OPTIONS, fault
from skragent.emulator.faults.grammar import FaultSpec, Value, optional

if TYPE_CHECKING:
    from skragent.emulator.faults.context import FaultContext
    from skragent.emulator.service import Request, Response

_ALL = "imds maa entra vault hsm"
_MIB = 1 << 20
_WORDS = {
    "retry_after": grammar.TEXT,
    "code": grammar.TEXT,
    "message": grammar.TEXT,
}


@fault("imds maa entra", "status", Value(grammar.STATUS), _WORDS | REQUEST_OPTIONS)
@fault(
    "vault hsm",
    "status",
    Value(grammar.STATUS),
    {"inner": grammar.TEXT} | _WORDS | REQUEST_OPTIONS,
)
async def status(context: FaultContext, spec: FaultSpec) -> None:
    """Every request gets this status, in the service's own error format."""
    service = context.service(spec)
    words = spec.options

    def refuse(request: Request) -> None:
        refusal = service.refusal_of(request, spec.value)
        refusal.code = words.get("code", refusal.code)
        refusal.inner = words.get("inner", refusal.inner)
        refusal.message = words.get("message", refusal.message)
        if "retry_after" in words:
            refusal.headers["Retry-After"] = words["retry_after"]
        raise refusal

    context.guard(spec, refuse)


@fault(_ALL, "latency", Value(grammar.DURATION), REQUEST_OPTIONS)
async def latency(context: FaultContext, spec: FaultSpec) -> None:
    """Every response is delayed by this time, or until the reset."""
    _delay_responses(context, spec, spec.value)


@fault(_ALL, "hang", None, REQUEST_OPTIONS)
async def hang(context: FaultContext, spec: FaultSpec) -> None:
    """The service does not respond until the faults are reset."""
    _delay_responses(context, spec)


@fault(_ALL, "reset", None, REQUEST_OPTIONS)
async def reset(context: FaultContext, spec: FaultSpec) -> None:
    """The connection is reset (TCP RST) in the middle of the body.

    With `--latency` it closes normally there: the relay does not pass on a reset.
    """

    async def break_off(_: Request, response: Response) -> Response:
        response.delivery = "reset"
        return response

    context.hook(spec, break_off)


@fault(_ALL, "truncate", None, REQUEST_OPTIONS)
async def truncate(context: FaultContext, spec: FaultSpec) -> None:
    """The connection ends after half of the body that Content-Length announced."""

    async def cut(_: Request, response: Response) -> Response:
        response.delivery = "cut"
        return response

    context.hook(spec, cut)


@fault(_ALL, "oversize", optional(grammar.BYTES, 16 * _MIB), REQUEST_OPTIONS)
async def oversize(context: FaultContext, spec: FaultSpec) -> None:
    """The body is padded with spaces to this size (16 MiB); it is still valid JSON."""

    async def fill(_: Request, response: Response) -> Response:
        response.body = response.body.ljust(spec.value)
        return response

    context.hook(spec, fill)


@fault(_ALL, "drip", optional(grammar.DRIP, "body"), REQUEST_OPTIONS)
async def drip(context: FaultContext, spec: FaultSpec) -> None:
    """This part of the response arrives one byte at a time, without end (body)."""
    _deliver(context, spec, "drip")


@fault(_ALL, "flood", optional(grammar.SIZE, 300 * _MIB), REQUEST_OPTIONS)
async def flood(context: FaultContext, spec: FaultSpec) -> None:
    """The body has this size (300 MiB), without a Content-Length."""
    _deliver(context, spec, "flood")


@fault(_ALL, "bomb", optional(grammar.SIZE, 600 * _MIB), REQUEST_OPTIONS)
async def bomb(context: FaultContext, spec: FaultSpec) -> None:
    """The body is gzip that the client did not accept; this size unpacked (600 MiB)."""
    _deliver(context, spec, "bomb")


def _deliver(
    context: FaultContext, spec: FaultSpec, delivery: Literal["drip", "flood", "bomb"]
) -> None:
    async def mark(_: Request, response: Response) -> Response:
        response.delivery, response.measure = delivery, spec.value
        if 300 <= response.status < 400:  # noqa: PLR2004 - RFC 9110 §15.4
            response.headers["Location"] = "/elsewhere"
        return response

    context.hook(spec, mark)


@fault(_ALL, "content_type", optional(grammar.TEXT, "text/html"), REQUEST_OPTIONS)
async def content_type(context: FaultContext, spec: FaultSpec) -> None:
    """The response has another media type (text/html)."""

    async def call(_: Request, response: Response) -> Response:
        response.headers["Content-Type"] = spec.value
        return response

    context.hook(spec, call)


@fault(
    _ALL,
    "body",
    optional(grammar.TEXT_OR_NONE, "<html>it works</html>"),
    REQUEST_OPTIONS,
)
async def body(context: FaultContext, spec: FaultSpec) -> None:
    """The body is this text (an HTML page); status and headers stay the same."""

    async def replace(_: Request, response: Response) -> Response:
        response.body = spec.value.encode()
        return response

    context.hook(spec, replace)


def _delay_responses(
    context: FaultContext, spec: FaultSpec, seconds: float | None = None
) -> None:
    """Delay responses by a time or until the reset."""
    is_over = asyncio.Event()

    async def wait(_: Request, response: Response) -> Response:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await is_over.wait()
        return response

    async def restore() -> None:
        is_over.set()

    context.hook(spec, wait)
    context.on_reset(restore)
