"""A TPM with scripted responses: `hostile_tpm.py FILE`, for TCTI `cmd:`.

Speaks raw TPM commands on stdin and stdout. FILE has JSON: by the command code, hex of
what is answered instead of an error; `*` for all others. It ends after an answer that
is shorter or longer than it says, and for an empty text.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

FAILURE = bytes.fromhex("8001 0000000a 00000101")


def read_exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            sys.exit(0)
        data += chunk
    return data


def main() -> None:
    script = json.loads(Path(sys.argv[1]).read_text())
    while True:
        head = read_exactly(10)
        size, code = int.from_bytes(head[2:6], "big"), head[6:10].hex()
        read_exactly(max(0, size - 10))
        answer = script.get(code, script.get("*"))
        data = FAILURE if answer is None else bytes.fromhex(answer)
        if not data:
            sys.exit(0)
        is_whole = int.from_bytes(data[2:6], "big") == len(data)
        while data:
            data = data[os.write(1, data) :]
        if not is_whole:  # else the library would wait for the rest
            sys.exit(0)


main()
