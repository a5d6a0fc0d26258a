"""Typed JSON, as the threads of a release read it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skragent.jose import decode_json

# msgspec alone dies of SIGSEGV in nearly every such run.
AT_ONCE = """
import sys, threading
import msgspec
from skragent.jose import decode_json

sys.setswitchinterval(1e-6)
kinds = []
for i in range(300):
    inner = msgspec.defstruct(f"Inner{i}", [(f"m{j}", int, 0) for j in range(20)])
    kinds.append(msgspec.defstruct(f"Outer{i}", [("a", inner), ("b", list[inner])]))
barrier = threading.Barrier(4)

def read():
    for kind in kinds:
        barrier.wait()
        try:
            decode_json(b"{}", kind)
        except ValueError:
            pass

threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": "x"}', b"\xff", b"[" * 5000])
def test_what_is_not_of_the_shape_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="unexpected JSON"):
        decode_json(data, dict[str, int])


def test_threads_may_read_a_type_for_the_first_time_at_once() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", AT_ONCE], check=False)
    assert done.returncode == 0
