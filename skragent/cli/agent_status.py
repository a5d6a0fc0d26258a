"""The agent's status and its changes, for the commands that wait for a change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from skragent.cli.agent_requests import pause_seconds, timeout_for
from skragent.client.exchange import (
    MOST_WAIT_SECONDS,
    Request,
    SkragentError,
    exchange,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def status_changes(path: str, ends_at: float) -> Iterator[dict[str, Any]]:
    """Yield the status at once and after each change, until the time is over.

    A request that fails with a temporary error is repeated.

    Args:
        path: path of the socket.
        ends_at: end of the time, on time.monotonic().

    Raises:
        SkragentError: the error is permanent, or the time is over.
    """
    tag = ""
    while True:
        left = max(0.0, ends_at - time.monotonic())
        request = Request(
            "/v1/status", wait=min(left, MOST_WAIT_SECONDS) if tag else 0.0, known=tag
        )
        try:
            response = exchange(path, request, timeout_for(left))
        except SkragentError as error:
            left = ends_at - time.monotonic()
            if not error.is_temporary or left <= 0:
                raise
            time.sleep(pause_seconds(error, left))  # noqa: TID251 - a command, not the agent
            continue
        if response.body:
            tag = response.headers.get("etag", "").strip('"')
            yield response.document()
        if time.monotonic() >= ends_at:
            return
