"""The control socket for faults: DIR/faults.sock, HTTP/1.1 and JSON.

    GET    /faults    lists the applied faults and all faults
    POST   /faults    {"fault": "maa.status=503"}: applies a fault
    DELETE /faults    resets all faults

Only the emulator's user can connect. Errors are problem documents (RFC 9457) with a
stable code: emulator.fault, or emulator.request for an invalid HTTP request.
"""

from __future__ import annotations

import json
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from skragent.emulator.faults.catalogue import all_faults
from skragent.emulator.faults.grammar import FaultError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from skragent.emulator.faults.active_faults import Faults

_MAX_BODY_BYTES = 64 * 1024
_SHUTDOWN_SECONDS = 0.5


class FaultControlSocket:
    """Serves the faults of one emulator."""

    def __init__(self, faults: Faults, path: Path) -> None:
        self._faults = faults
        self._path = path
        self._runner: web.AppRunner | None = None

    async def listen(self) -> None:
        """Serve until `close` is called; replace the socket of a killed emulator."""
        app = web.Application(
            client_max_size=_MAX_BODY_BYTES, middlewares=[_report_problems]
        )
        app.router.add_get("/faults", self._list)
        app.router.add_post("/faults", self._apply)
        app.router.add_delete("/faults", self._reset)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await self._runner.setup()
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self._path))
        self._path.chmod(0o600)  # before listen(), so that no other user connects
        await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        """Stop serving and remove the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._path.unlink(missing_ok=True)
            self._runner = None

    async def _list(self, _: web.Request) -> web.Response:
        catalogue = [
            {"fault": entry.pattern, "effect": entry.summary} for entry in all_faults()
        ]
        return web.json_response(
            {"applied": self._faults.applied, "catalogue": catalogue}
        )

    async def _apply(self, request: web.Request) -> web.Response:
        await self._faults.apply(_fault_of(await request.read()))
        return web.json_response({"applied": self._faults.applied})

    async def _reset(self, _: web.Request) -> web.Response:
        await self._faults.reset()
        return web.json_response({"applied": []})


@web.middleware
async def _report_problems(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    try:
        return await handler(request)
    except FaultError as error:
        detail = f"{error.message}. {error.hint}"
        return _problem(HTTPStatus.BAD_REQUEST, error.code, detail)
    except web.HTTPException as error:  # raised by aiohttp: path, method, size
        status = HTTPStatus(error.status)
        response = _problem(status, "emulator.request", error.reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
    except ConnectionError:  # the client has disconnected
        return _problem(HTTPStatus.BAD_REQUEST, "emulator.request", "the body ends")


def _fault_of(body: bytes) -> str:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"fault": str(text), **more} if not more:
            return text
    raise FaultError('the body must be {"fault": "NAME"}')


def _problem(status: HTTPStatus, code: str, detail: str) -> web.Response:
    document = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return web.json_response(
        document, status=status, content_type="application/problem+json"
    )
