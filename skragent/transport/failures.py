"""Every way in which requests and urllib3 fail, as a `TransportError` with its code.

Pure: an exception in, an error out. Not here: answers that arrived (`transport`).
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

# The most telling cause decides, wherever in the chain it stands.
_KINDS: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (urllib3.exceptions.NameResolutionError, socket.gaierror, UnicodeError),
        "dns",
        "has no address",
    ),
    (
        (ssl.SSLError, urllib3.exceptions.SSLError, requests.exceptions.SSLError),
        "tls",
        "is not who it should be",
    ),
    # urllib3's NewConnectionError is a ConnectTimeoutError, whatever its cause: no use.
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

# OpenSSL of a certificate's lifetime (X509_verify_cert_error_string(3)).
_BY_TIME: Final = ("not yet valid", "has expired")


def origin_of(url: str) -> str:
    """Name the origin of a URL, without path and query: those may hold ids."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # requests will say the same
        return "the URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def translate(error: Exception, where: str) -> TransportError:
    """Name what went wrong with `where`, the origin that was asked.

    Total: an exception of a kind that is not known here is `transport.unexpected`.
    """
    causes = causes_of(error)
    for cause in causes:
        if isinstance(cause, TransportError):  # the exchange's own
            return cause
    # Invalid URLs and headers: requests makes ValueErrors of them.
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return _error(f"{where} cannot be asked", "unexpected")
    for kinds, kind, said in _KINDS:
        for cause in causes:
            if isinstance(cause, kinds):
                reason = quote(str(cause))
                detail = f": {reason}" if kind == "tls" else ""
                return _error(f"{where} {said}{detail}", kind, _hint(kind, reason))
    # Every RequestException is an OSError, too: those are not of the operating system.
    if any(isinstance(c, OSError) and c.errno is not None for c in causes):
        return _error(f"{where} cannot be reached", "refused")
    return _error(f"{where} answered with what is no HTTP", "unexpected")


def _hint(kind: str, reason: str) -> str:
    """Say what to do where the library's reason tells."""
    if kind == "tls" and any(words in reason.lower() for words in _BY_TIME):
        return (
            "The certificate's time and this VM's clock differ. Compare the clock"
            " (`timedatectl`) first, then the certificate: a proxy may have made it."
        )
    return ""


def _error(message: str, kind: str, hint: str = "") -> TransportError:
    return TransportError(message, code=f"transport.{kind}", hint=hint)


def causes_of(error: BaseException) -> list[BaseException]:
    """Collect an error and what it wraps, in all the ways of requests and urllib3."""
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
