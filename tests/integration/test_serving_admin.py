"""admin.sock, a real one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from support.serving import ReceivedResponse, get, held_key, ring_with, split_responses

from skragent.observe import Counters
from skragent.serving import AdminServer, Limits
from skragent.serving.admin import ReloadOutcome


class NoAgent:
    """Takes no orders."""

    def refresh(self, aliases: Sequence[str]) -> None:
        pytest.fail(f"refresh of {aliases}")

    def reload(self, listener: Callable[[ReloadOutcome], None]) -> None:
        pytest.fail(f"reload for {listener}")

    def drop(self, alias: str) -> None:
        pytest.fail(f"drop of {alias}")

    def describe(self) -> Mapping[str, object]:
        return {}

    def describe_key(self, alias: str) -> Mapping[str, object]:  # noqa: ARG002
        return {}


def ask(directory: Path, request: bytes, limits: Limits) -> ReceivedResponse:
    async def run() -> bytes:
        path = str(directory / "admin.sock")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        ring = ring_with(held_key())
        server = AdminServer(sock, ring, Counters(), NoAgent(), limits=limits)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request)
        writer.write_eof()
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        await server.close(0)
        return data

    (response,) = split_responses(asyncio.run(run()))
    return response


@pytest.mark.parametrize(("size", "status"), [(100, 200), (400, 431)])
def test_limits_apply_to_admin_sock_as_well(
    tmp_path: Path, size: int, status: int
) -> None:
    request = get("/v1/status", f"X: {'x' * size}")
    assert ask(tmp_path, request, Limits(head_bytes=300)).status == status
