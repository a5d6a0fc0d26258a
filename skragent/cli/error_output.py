"""The one format of error messages on stderr: code, message, and a line with a hint."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skragent.errors import AgentError


def print_error(code: str, message: str, hint: str = "") -> None:
    """Print an error on stderr."""
    print(format_error(code, message, hint), file=sys.stderr)


def print_agent_error(error: AgentError) -> None:
    """Print one of the agent's own errors on stderr."""
    print_error(error.code, error.message, error.hint)


def format_error(code: str, message: str, hint: str = "") -> str:
    """Return an error as text, without a newline at the end."""
    return f"skragent: {code}: {message}" + (f"\n  {hint}" if hint else "")
