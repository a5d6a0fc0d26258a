from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.deadlines import DEADLINE_SECONDS

from skragent.agent.socket_activation import Inherited, inherited_sockets
from skragent.errors import ListenError


def test_no_descriptor_is_inherited_without_systemd() -> None:
    assert inherited_sockets({}) == Inherited({})


@pytest.mark.parametrize("value", ["", "abc", "-1", "9" * 400, "1000"])
def test_a_malformed_listen_fds_is_an_error(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    pytest.importorskip("systemd.daemon", reason="needs systemd-python")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", value)
    with pytest.raises(ListenError) as caught:
        inherited_sockets(os.environ)
    assert caught.value.code == "listen.inherited"


def test_an_inherited_file_is_closed() -> None:
    """OpenFile= in a drop-in passes such a file."""
    pytest.importorskip("systemd.daemon", reason="needs systemd-python")
    program = (
        "import os\n"
        "from skragent.agent.socket_activation import inherited_sockets\n"
        "inherited = inherited_sockets(os.environ)\n"
        "assert not inherited.listeners and not inherited.credentials\n"
        "assert not os.path.exists('/proc/self/fd/3')\n"
    )
    variables = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=extra:credential-1"
    script = f'{variables} exec "$@" 3</etc/passwd 4</etc/passwd'
    command = ["/bin/sh", "-c", script, "-", sys.executable, "-c", program]
    done = subprocess.run(command, check=False, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0
