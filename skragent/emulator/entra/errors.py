"""Entra ID's errors: OAuth 2.0 (RFC 6749 §5.2) with Microsoft's error numbers.

Clients read the number from the text, such as `AADSTS7000215: ...`. The texts beside
the checks were seen in public reports of 2023 to 2026, except where a comment says
that Azure's text is unknown.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from skragent.emulator.service import RefusalError

if TYPE_CHECKING:
    import datetime as dt

_NUMBER = re.compile(r"AADSTS(\d+):")


def bad_request(error: str, text: str) -> RefusalError:
    """Refuse a malformed request, regardless of the client."""
    return RefusalError(400, error, text)


def bad_client(text: str) -> RefusalError:
    """Refuse an application's credentials."""
    return RefusalError(401, "invalid_client", text)


def missing(parameter: str) -> RefusalError:
    """Refuse a form without a required parameter."""
    return bad_request(
        "invalid_request",
        "AADSTS900144: The request body must contain the following parameter:"
        f" '{parameter}'.",
    )


def envelope(
    refusal: RefusalError, correlation_id: str, now: dt.datetime
) -> dict[str, Any]:
    """Return the body of an error response."""
    trace_id = str(uuid.uuid4())
    timestamp = f"{now:%Y-%m-%d %H:%M:%S}Z"
    body: dict[str, Any] = {
        "error": refusal.code,
        "error_description": f"{refusal.message} Trace ID: {trace_id}"
        f" Correlation ID: {correlation_id} Timestamp: {timestamp}",
        "error_codes": [],
        "timestamp": timestamp,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
    }
    number = _NUMBER.match(refusal.message)
    if number:
        body["error_codes"] = [int(number[1])]
        body["error_uri"] = f"https://login.microsoftonline.com/error?code={number[1]}"
    return body
