"""Map every failure of requests and urllib3 to a `TransportError` with its code.

Pure. `client` maps responses that arrived.
"""

from __future__ import annotations

import socket
import ssl
import urllib.parse
from typing import Final

import requests
import urllib3.exceptions

from skragent.errors import TransportError
from skragent.quoting import quote

# The first kind in this list decides, anywhere in the chain of causes.
_KINDS: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (urllib3.exceptions.NameResolutionError, socket.gaierror, UnicodeError),
        "dns",
        "has no address",
    ),
    (
        (ssl.SSLError, urllib3.exceptions.SSLError, requests.exceptions.SSLError),
        "tls",
        "did not prove its identity by TLS",
    ),
    # NewConnectionError of urllib3 is a ConnectTimeoutError for every cause: not here.
    ((ConnectionRefusedError,), "refused", "refuses connections"),
    (
        (requests.Timeout, TimeoutError, urllib3.exceptions.ReadTimeoutError),
        "timeout",
        "did not answer in time",
    ),
    (
        (
            ConnectionError,  # reset, aborted, broken pipe
            urllib3.exceptions.ProtocolError,
            urllib3.exceptions.IncompleteRead,
            requests.exceptions.ChunkedEncodingError,
        ),
        "reset",
        "broke the connection off",
    ),
    (
        (urllib3.exceptions.NewConnectionError, requests.ConnectionError),
        "refused",
        "cannot be reached",
    ),
)

# OpenSSL's words for a certificate's lifetime (X509_verify_cert_error_string(3)).
_BY_TIME: Final = ("not yet valid", "has expired")


def origin_of(url: str) -> str:
    """Return the origin of a URL, without path and query, which may have ids."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # requests will report it as well
        return "the URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def translate(error: Exception, where: str) -> TransportError:
    """Return the error for an exception in an exchange with the origin `where`.

    An unknown exception becomes `transport.unexpected`.
    """
    causes = causes_of(error)
    for cause in causes:
        if isinstance(cause, TransportError):  # the exchange's own
            return cause
    # Invalid URLs and headers: requests makes ValueErrors of them.
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return _error(f"a request to {where} cannot be sent", "unexpected")
    for kinds, kind, problem in _KINDS:
        for cause in causes:
            if isinstance(cause, kinds):
                reason = quote(str(cause))
                detail = f": {reason}" if kind == "tls" else ""
                return _error(f"{where} {problem}{detail}", kind, _hint(kind, reason))
    # Every RequestException is an OSError, too, but without an errno.
    if any(isinstance(c, OSError) and c.errno is not None for c in causes):
        return _error(f"{where} cannot be reached", "refused")
    return _error(f"{where} answered with something other than HTTP", "unexpected")


def _hint(kind: str, reason: str) -> str:
    """Return a remedy if the library's reason shows the cause; else empty."""
    if kind == "tls" and any(words in reason.lower() for words in _BY_TIME):
        return (
            "The certificate's time and this VM's clock differ. Compare the clock"
            " (`timedatectl`) first, then the certificate: a proxy may have made it."
        )
    return ""


def _error(message: str, kind: str, hint: str = "") -> TransportError:
    return TransportError(message, code=f"transport.{kind}", hint=hint)


def causes_of(error: BaseException) -> list[BaseException]:
    """Return an error and every error that it wraps, in the ways of these libraries."""
    found: list[BaseException] = []
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if not isinstance(item, BaseException) or item in found:
            continue
        found.append(item)
        queue += [*item.args, item.__cause__, item.__context__]
        queue.append(getattr(item, "reason", None))
    return found
