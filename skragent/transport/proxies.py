"""Which proxy stands between, and which setting names it: for an error's message.

Pure but for the environment, which is given. Never the proxy's user and password.
"""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING, Final

import requests.utils

from skragent.errors import TransportError
from skragent.quoting import quote
from skragent.transport.failures import causes_of, origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_HINT: Final = (
    "Check the proxy, or except this host from it in NO_PROXY. The unit of the agent"
    " sets both (`systemctl show -p Environment skragent`; skragent.service(8), A"
    " proxy)."
)
_MALFORMED: Final = "with a malformed URL"
# What http.client says of an answer to CONNECT.
_REFUSED_TUNNEL: Final = re.compile(r"Tunnel connection failed: (.*)", re.DOTALL)


def find_proxy(
    url: str, proxies: Mapping[str, str] | None, environment: Mapping[str, str]
) -> str:
    """Describe the proxy of a URL, with the variable that names it; empty: none."""
    proxy = requests.utils.select_proxy(url, dict(proxies or {}))
    if not proxy:
        return ""
    origin = _origin_of_proxy(proxy)
    scheme = url.partition(":")[0].lower()
    # urllib.request.getproxies_environment: lower case comes first.
    names = (f"{scheme}_proxy", f"{scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY")
    setting = next((name for name in names if environment.get(name) == proxy), "")
    return f"{origin} ({setting})" if setting else origin


def _origin_of_proxy(proxy: str) -> str:
    """Name the proxy's origin; quote nothing of a malformed URL.

    A password with a `/`, `#` or `?` that is not percent-encoded ends the authority
    early, and is then where the host or the port should be.
    """
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # the port must be a number
    except ValueError:
        return _MALFORMED
    # `%` is of an IPv6 address alone: RFC 6874.
    is_host = bool(host) and ("%" not in host or ":" in host)
    is_whole = "@" not in f"{parts.path}{parts.query}{parts.fragment}"
    return origin_of(url) if is_host and is_whole else _MALFORMED


def name_proxy(error: TransportError, cause: Exception, proxy: str) -> TransportError:
    """Name the proxy in the error of an exchange that went through it.

    Args:
        error: what went wrong.
        cause: the library's exception, which knows what a proxy answered to CONNECT.
        proxy: as `find_proxy` describes it.
    """
    message = f"{error.message}; it was asked through the proxy {proxy}"
    for one in causes_of(cause):
        if refused := _REFUSED_TUNNEL.search(str(one)):
            message += f", which refuses: {quote(refused[1])}"
            break
    return TransportError(
        message, code=error.code, hint=_HINT, retry_after=error.retry_after
    )
