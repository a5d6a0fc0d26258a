"""Errors, as they cross the pipe to the agent."""

from __future__ import annotations

from skragent.errors import AgentError
from skragent.job import Failure
from skragent.releaser.job_io import report_crash
from skragent.tracebacks import place_of

# Where bugs were met; each is told once. A set's `add` is atomic.
_told: set[str] = set()

_MAX_CHARS = 1000  # of each text: 256 keys that fail must fit the result


def describe_failure(error: AgentError) -> Failure:
    """Describe an error by what the agent acts on and what people read."""
    return Failure(
        code=error.code,
        disposition=error.disposition.value,
        message=error.message[:_MAX_CHARS] if hasattr(error, "message") else str(error),
        hint=error.hint[:_MAX_CHARS],
        retry_after=error.retry_after,
    )


def describe_any_failure(error: Exception) -> Failure:
    """Describe an error of one key; one that is not ours is a bug, and told on stderr.

    The message has no more than the exception's type: its text may quote a secret.
    """
    if isinstance(error, AgentError):
        return describe_failure(error)
    kind = type(error).__name__
    bug = f"{kind} at {place_of(error)}"
    if bug not in _told:
        _told.add(bug)
        report_crash(error)
    return describe_failure(
        AgentError(
            f"a bug kept the key from being asked for: {kind}",
            hint="Report it, with the journal around it.",
        )
    )
