"""The ordinary memory of the agent has no copy of a key."""

from __future__ import annotations

import secrets
import socket
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.serving import ALIAS, get, split_responses
from support.serving_server import count_in_memory, read_all, serving_child

if TYPE_CHECKING:
    from pathlib import Path

PEM = get(f"/v1/keys/{ALIAS}", "Accept: application/x-pem-file")
LAST_PEM = get(
    f"/v1/keys/{ALIAS}", "Accept: application/x-pem-file", "Connection: close"
)
STALLED = 8
REQUESTS = 400  # 1.6 MB of answers to each; a socket holds 0.2 MB


@pytest.mark.root
def test_stalled_readers_leave_no_copy_on_the_heap(tmp_path: Path) -> None:
    content = secrets.token_hex(2000).encode()
    canary = secrets.token_hex(32)
    needle = content[1000:1032]
    with serving_child(tmp_path, content, canary) as (pid, path):
        readers = [connect(path) for _ in range(STALLED)]
        for reader in readers:
            reader.sendall(PEM * REQUESTS)
        with connect(path) as other:  # answered: so the others were, up to the stall
            other.sendall(LAST_PEM)
            (response,) = split_responses(read_all(other))
            assert response.body == content
        assert count_in_memory(pid, canary.encode()) > 0  # the scanner does see
        assert count_in_memory(pid, needle) == 0
        for reader in readers:
            with reader:
                reader.sendall(LAST_PEM)
                bodies = [a.body for a in split_responses(read_all(reader))]
            assert bodies == [content] * (REQUESTS + 1)
        assert count_in_memory(pid, needle) == 0


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(DEADLINE_SECONDS)
    connection.connect(str(path))
    return connection
