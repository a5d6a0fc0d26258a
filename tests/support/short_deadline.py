"""`skragent` with an overall deadline that a test can wait for.

The first argument is the deadline in seconds, the second is Python code that runs
before the command, such as a substitute for a directory service that hangs.
"""

from __future__ import annotations

import sys

from skragent.cli import deadline
from skragent.cli.main import main

seconds = float(sys.argv.pop(1))
code = sys.argv.pop(1)


class _Short(deadline._Deadline):
    def __init__(self, command: str, chosen: float) -> None:
        del chosen
        super().__init__(command, seconds)


deadline._Deadline = _Short  # type: ignore[misc, assignment]
deadline.allow = lambda seconds: None  # noqa: ARG005
exec(code)
sys.exit(main())
