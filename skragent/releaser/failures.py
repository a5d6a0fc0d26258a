"""Our errors, as they cross the pipe to the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.job import Failure

if TYPE_CHECKING:
    from skragent.errors import SkrAgentError

_MAX_CHARS = 1000  # of each text: 256 keys that fail must fit the result


def describe_failure(error: SkrAgentError) -> Failure:
    """Describe an error by what the agent acts on and what people read."""
    return Failure(
        code=error.code,
        disposition=error.disposition.value,
        message=error.message[:_MAX_CHARS] if hasattr(error, "message") else str(error),
        hint=error.hint[:_MAX_CHARS],
        retry_after=error.retry_after,
    )
