"""Typed JSON, as the threads of a release read it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skragent.jose import decode_json

# msgspec alone dies of SIGSEGV in one of fifteen such runs; only a process's first use
# of its types is in danger.
AT_ONCE = """
import sys, threading
sys.setswitchinterval(1e-6)
from skragent.jose import decode_json
from skragent.release import envelope

barrier = threading.Barrier(4)

def read():
    barrier.wait()
    try:
        decode_json(b"{}", envelope._Payload)
    except ValueError:
        pass

threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
RUNS = 24


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": "x"}', b"\xff", b"[" * 5000])
def test_what_is_not_of_the_shape_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="unexpected JSON"):
        decode_json(data, dict[str, int])


def test_threads_may_read_a_type_for_the_first_time_at_once() -> None:
    for _ in range(RUNS):
        done = subprocess.run([sys.executable, "-I", "-c", AT_ONCE], check=False)
        assert done.returncode == 0
