"""Proxies, with and without TLS: requests use them, within the usual limits."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS
from support.hostile_server import HostileServer, run_hostile_server
from support.release_server import make_tls
from support.tunnel_proxy import run_tunnel_proxy

from skragent.errors import TransportError
from skragent.transport import HttpClient

MIB = 1 << 20

OK = b"HTTP/1.1 200 OK\r\n"
CONNECTED = OK + b"\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
X = b"x"
# A TLS record that announces 16 kB.
RECORD = b"\x16\x03\x03\x40\x00"


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    return make_tls(tmp_path)[0]


@pytest.fixture(params=["http", "https"])
def proxy_tls(
    request: pytest.FixtureRequest, tls: ssl.SSLContext
) -> ssl.SSLContext | None:
    """How the proxy is spoken to."""
    return tls if request.param == "https" else None


@pytest.fixture
def service(tls: ssl.SSLContext) -> Iterator[HostileServer]:
    with run_hostile_server(tls) as running:
        yield running


@pytest.fixture
def ca_file(tmp_path: Path, tls: ssl.SSLContext) -> str:
    assert tls
    return str(tmp_path / "ca.pem")


def ask(ca_file: str, url: str, seconds: float = DEADLINE_SECONDS) -> bytes:
    with HttpClient(
        timeout_seconds=seconds, ca_file=ca_file, use_proxies=True
    ) as client:
        return client.request("GET", url, max_bytes=MIB).body


def failure(ca_file: str, url: str, seconds: float = DEADLINE_SECONDS) -> str:
    with pytest.raises(TransportError) as caught:
        ask(ca_file, url, seconds)
    return caught.value.code


@pytest.fixture(autouse=True)
def _no_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


def test_an_answer_comes_through_a_proxy(
    service: HostileServer,
    proxy_tls: ssl.SSLContext | None,
    ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.answer(OK + b"Content-Length: 2\r\n\r\nhi")
    with run_tunnel_proxy(proxy_tls) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin)
        assert ask(ca_file, service.url("https")) == b"hi"
        assert proxy.tunnels == 1


def test_a_client_asks_again_through_a_proxy(
    service: HostileServer,
    proxy_tls: ssl.SSLContext | None,
    ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.answer(OK + b"Content-Length: 2\r\n\r\nhi")
    with (
        run_tunnel_proxy(proxy_tls) as proxy,
        HttpClient(
            timeout_seconds=DEADLINE_SECONDS, ca_file=ca_file, use_proxies=True
        ) as client,
    ):
        monkeypatch.setenv("https_proxy", proxy.origin)
        for number in range(1, 4):
            response = client.request("GET", service.url("https"), max_bytes=9)
            assert response.body == b"hi"
            # The service ends each connection; a request must not overtake that.
            proxy.wait_for_ends(number)


def test_http_is_forwarded_by_a_proxy_with_tls(
    service: HostileServer, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", service.url("https"))
    service.answer(OK + b"Content-Length: 2\r\n\r\nhi")
    assert ask(ca_file, "http://elsewhere.invalid") == b"hi"


def test_forwarding_that_drips_ends_with_the_exchanges_time(
    service: HostileServer, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", service.url("https"))
    service.drip(OK + b"X: ", [X])
    url = "http://elsewhere.invalid"
    assert failure(ca_file, url, 8 * SHORT_SECONDS) == "transport.timeout"


def test_a_proxys_certificate_is_verified_with_the_configured_roots(
    service: HostileServer,
    ca_file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    of_another_root, other_roots = make_tls(elsewhere)
    monkeypatch.setenv("SSL_CERT_FILE", other_roots)  # the system's, for OpenSSL
    with run_tunnel_proxy(of_another_root) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin)
        assert failure(ca_file, service.url("https")) == "transport.tls"
        assert proxy.tunnels == 0


# What a proxy answers to CONNECT, at once and then slowly.
PROXY_DRIPS: dict[str, tuple[bytes, list[bytes]]] = {
    "status line": (b"HTTP/1.1 200 ", [X]),
    "header": (OK + b"X: ", [X]),
    "headers": (OK, [b"X", b":", b"y", b"\r\n"]),
    "the service's handshake": (CONNECTED + RECORD, [b"\x00"]),
}


@pytest.mark.parametrize("part", PROXY_DRIPS)
def test_a_proxy_that_drips_ends_with_the_exchanges_time(
    proxy_tls: ssl.SSLContext | None,
    ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    with run_hostile_server(proxy_tls) as proxy:
        scheme = "http" if proxy_tls is None else "https"
        monkeypatch.setenv("https_proxy", proxy.url(scheme))
        proxy.drip(*PROXY_DRIPS[part])
        url = "https://elsewhere.invalid"
        assert failure(ca_file, url, 8 * SHORT_SECONDS) in {
            "transport.timeout",
            "transport.tls",  # the record is none
        }


# What a service answers through a tunnel.
DRIPS: dict[str, tuple[bytes, list[bytes]]] = {
    "status line": (b"HTTP/1.1 200 ", [X]),
    "headers": (OK, [b"X", b":", b"y", b"\r\n"]),
    "body": (OK + b"Content-Length: 100000\r\n\r\n", [X]),
    "chunks": (CHUNKED, [b"1", b"\r\n", b"x", b"\r\n"]),
}


@pytest.mark.parametrize("part", DRIPS)
def test_an_answer_that_drips_through_a_proxy_ends_with_the_exchanges_time(
    service: HostileServer,
    proxy_tls: ssl.SSLContext | None,
    ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    service.drip(*DRIPS[part])
    with run_tunnel_proxy(proxy_tls) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin)
        url = service.url("https")
        assert failure(ca_file, url, 8 * SHORT_SECONDS) == "transport.timeout"


def test_a_huge_answer_through_a_proxy_is_not_read(
    service: HostileServer,
    proxy_tls: ssl.SSLContext | None,
    ca_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.flood(CONNECTED, 64 * MIB)
    with run_tunnel_proxy(proxy_tls) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin)
        assert failure(ca_file, service.url("https")) == "transport.oversized"


def error_of(ca_file: str, url: str) -> TransportError:
    with pytest.raises(TransportError) as caught:
        ask(ca_file, url)
    return caught.value


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize(
    "setting", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
)
def test_a_proxy_that_refuses_connections_is_named_with_its_setting(
    ca_file: str, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    port = closed_port()
    monkeypatch.setenv(setting, f"http://user:password@127.0.0.1:{port}")
    error = error_of(ca_file, "https://v.vault.azure.net")
    assert error.code == "transport.refused"
    assert error.message == (
        f"the proxy http://127.0.0.1:{port} ({setting}) refuses connections,"
        " so https://v.vault.azure.net cannot be reached"
    )
    assert "password" not in error.message
    assert "NO_PROXY" in error.hint


def test_a_proxy_without_a_scheme_is_named(
    ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
    error = error_of(ca_file, "https://v.vault.azure.net")
    assert f"the proxy http://127.0.0.1:{port} (HTTPS_PROXY)" in error.message


def test_a_proxy_without_an_address_is_the_errors_subject(
    ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://no.such.host.invalid:3128")
    error = error_of(ca_file, "https://v.vault.azure.net")
    assert error.code == "transport.dns"
    assert error.message == (
        "the proxy http://no.such.host.invalid:3128 (HTTPS_PROXY) has no address,"
        " so https://v.vault.azure.net cannot be reached"
    )


@pytest.mark.parametrize(
    "reason", ["407 Proxy Authentication Required", "403 Forbidden"]
)
def test_the_error_says_why_a_proxy_refuses_a_tunnel(
    ca_file: str, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    with run_hostile_server(None) as proxy:
        proxy.answer(f"HTTP/1.1 {reason}\r\nContent-Length: 0\r\n\r\n".encode())
        url = proxy.url("http")
        monkeypatch.setenv("HTTPS_PROXY", url)
        error = error_of(ca_file, "https://v.vault.azure.net")
    assert error.message == (
        f"the proxy {url} (HTTPS_PROXY) refuses a tunnel to"
        f" https://v.vault.azure.net: {reason}"
    )
    assert ("USER:PASSWORD@" in error.hint) == reason.startswith("407")


def test_a_services_silence_behind_a_proxy_is_the_services(
    service: HostileServer, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.drip(OK + b"X: ", [X])
    url = service.url("https")
    with run_tunnel_proxy(None) as proxy:
        monkeypatch.setenv("https_proxy", proxy.origin)
        with pytest.raises(TransportError) as caught:
            ask(ca_file, url, 8 * SHORT_SECONDS)
    assert caught.value.message == (
        f"{url} did not answer in time; the request went through the proxy"
        f" {proxy.origin} (https_proxy)"
    )


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [
        ("notaproxy:::", "the URL of the proxy in HTTPS_PROXY is malformed"),
        ("http://user:s3c/ret@p:3128", "the URL of the proxy in HTTPS_PROXY is malf"),
        ("socks5://p:1080", "HTTPS_PROXY names a SOCKS proxy, and SOCKS is not supp"),
        ("SOCKS4A://p:1080", "HTTPS_PROXY names a SOCKS proxy, and SOCKS is not supp"),
        ("ftp://p:21", "HTTPS_PROXY names a proxy of an unsupported kind"),
    ],
)
def test_an_unusable_proxy_is_named_by_its_setting(
    ca_file: str, monkeypatch: pytest.MonkeyPatch, proxy: str, problem: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    error = error_of(ca_file, "https://v.vault.azure.net")
    assert error.message.startswith(
        f"https://v.vault.azure.net cannot be reached: {problem}"
    )
    assert "ret" not in error.message
    assert "Set HTTPS_PROXY to http://HOST:PORT" in error.hint


def test_an_error_without_a_proxy_names_none(
    ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    error = error_of(ca_file, f"https://127.0.0.1:{closed_port()}")
    assert "proxy" not in error.message + error.hint
