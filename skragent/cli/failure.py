"""How a command that failed says so."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skragent.errors import AgentError


def tell(error: AgentError) -> None:
    """Say on stderr what happened, and what to do."""
    print(f"skragent: {error.code}: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
