"""The proxy of a URL, the setting that names it, and the proxy's part in an error.

Pure but for the environment, which is given. A message never has the proxy's user and
password.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import requests.utils
import urllib3.exceptions

from skragent.errors import TransportError
from skragent.quoting import quote
from skragent.transport.failures import causes_of, origin_of, translate

if TYPE_CHECKING:
    from collections.abc import Mapping

_WHERE_SET: Final = (
    "The unit of the agent sets both (`systemctl show -p Environment skragent`;"
    " skragent.service(8), A proxy)."
)
_HINT: Final = f"Check the proxy, or except this host from it in NO_PROXY. {_WHERE_SET}"
_MALFORMED: Final = "with a malformed URL"
# The text of http.client's OSError about a response to CONNECT: status and reason.
_REFUSED_TUNNEL: Final = re.compile(
    r"Tunnel connection failed: ((\d{3})\b.*)", re.DOTALL
)
_AUTHENTICATION_REQUIRED: Final = "407"  # RFC 9110 §15.5.8
# Without a tunnel, the client resolves and connects to the proxy's name only.
_OF_CONNECTING: Final = ("transport.dns", "transport.refused")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy by its origin, and by the environment variable that names it."""

    origin: str  # or that its URL is malformed
    scheme: str
    setting: str  # empty: no variable has exactly this value

    def __str__(self) -> str:  # type: ignore[explicit-override]
        return f"{self.origin} ({self.setting})" if self.setting else self.origin

    def raise_if_unusable(self, where: str) -> None:
        """Refuse a proxy whose URL is malformed or of an unsupported kind.

        Args:
            where: the origin that the request is for.

        Raises:
            TransportError: transport.unexpected
        """
        setting = self.setting or "HTTPS_PROXY"
        if self.origin == _MALFORMED:
            problem = f"the URL of the proxy in {setting} is malformed"
        elif self.scheme.startswith("socks"):
            problem = f"{setting} names a SOCKS proxy, and SOCKS is not supported"
        elif self.scheme not in ("http", "https"):
            problem = f"{setting} names a proxy of an unsupported kind"
        else:
            return
        raise TransportError(
            f"{where} cannot be reached: {problem}",
            code="transport.unexpected",
            hint=f"Set {setting} to http://HOST:PORT or https://HOST:PORT, or name this"
            f" host in NO_PROXY. In a password, write special characters as %XX."
            f" {_WHERE_SET}",
        )


def find_proxy(
    url: str, proxies: Mapping[str, str] | None, environment: Mapping[str, str]
) -> Proxy | None:
    """Return the proxy that requests to a URL go through; None: no proxy."""
    proxy = requests.utils.select_proxy(url, dict(proxies or {}))
    if not proxy:
        return None
    scheme = url.partition(":")[0].lower()
    # urllib.request.getproxies_environment: lower case comes first.
    names = (f"{scheme}_proxy", f"{scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY")
    setting = next((name for name in names if environment.get(name) == proxy), "")
    full = proxy if "://" in proxy else f"http://{proxy}"
    return Proxy(_origin_of_proxy(full), full.partition(":")[0].lower(), setting)


def _origin_of_proxy(url: str) -> str:
    """Name the proxy's origin; quote nothing of a malformed URL.

    A password with a `/`, `#` or `?` that is not percent-encoded ends the authority
    early, and is then where the host or the port should be.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # the port must be a number
    except ValueError:
        return _MALFORMED
    # `%` is of an IPv6 address alone: RFC 6874.
    is_host = bool(host) and ("%" not in host or ":" in host)
    is_whole = "@" not in f"{parts.path}{parts.query}{parts.fragment}"
    return origin_of(url) if is_host and is_whole else _MALFORMED


def name_proxy(
    error: TransportError, cause: Exception, proxy: Proxy, where: str
) -> TransportError:
    """Name the proxy in the error of an exchange that went through it.

    The proxy is the subject if it refuses the tunnel or if the connection to the proxy
    itself failed. After that the service may be the cause, too.

    Args:
        error: what went wrong.
        cause: the library's exception, which has the proxy's response to CONNECT.
        proxy: the proxy.
        where: the origin of the request.
    """
    causes = causes_of(cause)
    texts = map(str, causes)
    refused = next(filter(None, map(_REFUSED_TUNNEL.fullmatch, texts)), None)
    hint = _HINT
    if refused:
        reason = quote(refused[1]).strip()
        message = f"the proxy {proxy} refuses a tunnel to {where}: {reason}"
        if refused[2] == _AUTHENTICATION_REQUIRED:
            hint = (
                "The proxy demands a user and a password: put USER:PASSWORD@ in front"
                f" of the host in {proxy.setting or 'the URL of the proxy'}."
                f" {_WHERE_SET.replace('both', 'it')}"
            )
    elif error.code in _OF_CONNECTING or any(
        isinstance(one, urllib3.exceptions.ProxyError) for one in causes
    ):
        failure = translate(cause, f"the proxy {proxy}")
        message = f"{failure.message}, so {where} cannot be reached"
    else:
        message = f"{error.message}; the request went through the proxy {proxy}"
    return TransportError(
        message, code=error.code, hint=hint, retry_after=error.retry_after
    )
