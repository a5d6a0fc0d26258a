"""How long a test waits for another process: never used up, also on a busy machine."""

from __future__ import annotations

DEADLINE_SECONDS = 120.0
