"""Which machine this is, to have a place of its own in a fleet."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FILE: Final = Path("/etc/machine-id")
_MAX_BYTES: Final = 64


def machine_id() -> str:
    """Read the machine's id: machine-id(5). Empty where there is none."""
    try:
        with _FILE.open("rb") as file:
            return file.read(_MAX_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""
