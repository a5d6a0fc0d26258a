"""The HTTP client against real sockets."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS
from support.evidence_http import Server, run_server

from skragent.errors import ConfigError, TransportError
from skragent.transport import HttpClient


@pytest.fixture
def server() -> Iterator[Server]:
    with run_server() as running:
        yield running


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(timeout_seconds=DEADLINE_SECONDS, use_proxies=False) as opened:
        yield opened


def refusal(client: HttpClient, url: str, max_bytes: int = 100) -> str:
    with pytest.raises(TransportError) as caught:
        client.request("GET", url, max_bytes=max_bytes)
    return caught.value.code


def test_an_answer_is_given_whole(server: Server, client: HttpClient) -> None:
    server.set(body=b"hello", headers="X-Kind: Test\r\n")
    response = client.request("GET", server.origin + "/path", max_bytes=5)
    assert (response.status, response.body) == (200, b"hello")
    assert response.headers["x-kind"] == "Test"


def test_a_refusing_status_is_an_answer(server: Server, client: HttpClient) -> None:
    server.set("400 Bad Request", b"why")
    assert client.request("GET", server.origin, max_bytes=9).status == 400


def test_what_is_posted_arrives(server: Server, client: HttpClient) -> None:
    client.request(
        "POST",
        server.origin + "/x?y=1",
        headers={"Metadata": "true"},
        body=b"the body",
        max_bytes=9,
    )
    (request,) = server.requests
    assert request.startswith(b"POST /x?y=1 HTTP/1.1\r\n")
    assert b"\r\nMetadata: true\r\n" in request
    assert request.endswith(b"\r\n\r\nthe body")


def test_a_second_request_reuses_the_connection(
    server: Server, client: HttpClient
) -> None:
    for _ in range(2):
        client.request("GET", server.origin, max_bytes=9)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_a_connection_opened_early_is_used(server: Server, client: HttpClient) -> None:
    client.connect(server.origin)
    client.connect(server.origin)  # needless: the first one stays
    client.request("GET", server.origin, max_bytes=9)
    assert len(server.requests) == 1
    assert server.requests[0].startswith(b"GET / ")


def test_connecting_early_without_a_listener_is_not_an_error(
    client: HttpClient,
) -> None:
    client.connect(f"http://127.0.0.1:{free_port()}")


def test_a_timeout_while_connecting_early_is_reported_and_not_awaited_twice() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        HttpClient(timeout_seconds=SHORT_SECONDS, use_proxies=False) as client,
        pytest.raises(TransportError) as caught,
    ):
        client.connect(f"https://127.0.0.1:{mute.getsockname()[1]}")
    assert caught.value.code == "transport.timeout"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_a_port_without_a_listener_is_refused(client: HttpClient) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert refusal(client, url) == "transport.refused"


def test_a_name_without_an_address_is_reported(client: HttpClient) -> None:
    assert refusal(client, "http://nobody.invalid") == "transport.dns"


def test_an_invalid_url_is_reported(client: HttpClient) -> None:
    assert refusal(client, "http://[::1") == "transport.unexpected"
    assert refusal(client, "ftp://host") == "transport.unexpected"


def test_silence_ends_by_time(server: Server) -> None:
    server.stays_silent = True
    with HttpClient(timeout_seconds=SHORT_SECONDS, use_proxies=False) as client:
        assert refusal(client, server.origin) == "transport.timeout"


def test_a_redirect_is_not_followed(server: Server, client: HttpClient) -> None:
    server.set("302 Found", headers=f"Location: {server.origin}/elsewhere\r\n")
    assert refusal(client, server.origin) == "transport.unexpected"
    assert len(server.requests) == 1


def test_a_long_answer_is_refused_by_its_length(
    server: Server, client: HttpClient
) -> None:
    server.set(body=bytes(101))
    assert refusal(client, server.origin) == "transport.oversized"


def test_a_long_answer_without_a_length_is_refused(
    server: Server, client: HttpClient
) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(101)
    assert refusal(client, server.origin) == "transport.oversized"


def test_an_answer_cut_short_is_a_reset(server: Server, client: HttpClient) -> None:
    """The name of the header is bent, so that the server ends the connection."""
    server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345"
    assert refusal(client, server.origin) == "transport.reset"


def test_a_response_other_than_http_is_reported(
    server: Server, client: HttpClient
) -> None:
    server.answer = b"SSH-2.0-OpenSSH\r\n\r\n"
    assert refusal(client, server.origin) == "transport.reset"


def test_a_content_length_that_is_not_a_number_is_reported(
    server: Server, client: HttpClient
) -> None:
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"
    assert refusal(client, server.origin) == "transport.unexpected"


def test_a_compressed_answer_is_refused(server: Server, client: HttpClient) -> None:
    server.set(body=b"x", headers="Content-Encoding: gzip\r\n")
    assert refusal(client, server.origin) == "transport.unexpected"
    assert b"Accept-Encoding: identity" in server.requests[0]


def test_cookies_are_not_kept(server: Server, client: HttpClient) -> None:
    server.set(headers="Set-Cookie: a=b\r\n")
    for _ in range(2):
        client.request("GET", server.origin, max_bytes=9)
    assert b"cookie" not in server.requests[1].lower()


def test_a_proxy_is_used_where_allowed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.origin)
    monkeypatch.delenv("no_proxy", raising=False)
    with HttpClient(timeout_seconds=DEADLINE_SECONDS, use_proxies=True) as client:
        client.request("GET", "http://elsewhere.invalid/x", max_bytes=9)
        client.connect("http://elsewhere.invalid")  # does nothing
    assert server.requests[0].startswith(b"GET http://elsewhere.invalid/x ")


def test_a_proxy_is_not_used_where_forbidden(
    server: Server, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.origin)
    assert refusal(client, "http://elsewhere.invalid") == "transport.dns"


def mint_tls(folder: Path, host: str) -> tuple[ssl.SSLContext, str]:
    """A server's context for `host`, and the file of roots that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36500))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "tls.pem").write_bytes(pem)
    (folder / "tls.key").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    return context, str(folder / "tls.pem")


def https(server: Server) -> str:
    return f"https://127.0.0.1:{server.port}"


def test_a_tls_connection_opened_early_is_used(tmp_path: Path) -> None:
    context, roots = mint_tls(tmp_path, "127.0.0.1")
    with (
        run_server(context) as server,
        HttpClient(
            timeout_seconds=DEADLINE_SECONDS, ca_file=roots, use_proxies=False
        ) as client,
    ):
        client.connect(https(server))
        server.set(body=b"secret")
        assert client.request("GET", https(server), max_bytes=9).body == b"secret"
        assert server.connections == 1


def test_a_connection_opened_early_and_closed_since_is_replaced(tmp_path: Path) -> None:
    context, roots = mint_tls(tmp_path, "127.0.0.1")
    with (
        run_server(context) as server,
        HttpClient(
            timeout_seconds=DEADLINE_SECONDS, ca_file=roots, use_proxies=False
        ) as client,
    ):
        server.hangs_up = True
        client.connect(https(server))
        assert server.hung_up.wait(DEADLINE_SECONDS)
        server.set(body=b"secret")
        assert client.request("GET", https(server), max_bytes=9).body == b"secret"
        assert server.connections == 2


def test_an_unknown_servers_certificate_is_refused(tmp_path: Path) -> None:
    context, _ = mint_tls(tmp_path, "127.0.0.1")
    with (
        run_server(context) as server,
        HttpClient(timeout_seconds=DEADLINE_SECONDS, use_proxies=False) as client,
    ):
        assert refusal(client, https(server)) == "transport.tls"


def test_a_trusted_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    context, roots = mint_tls(tmp_path, "127.0.0.2")
    with (
        run_server(context) as server,
        HttpClient(
            timeout_seconds=DEADLINE_SECONDS, ca_file=roots, use_proxies=False
        ) as client,
    ):
        assert refusal(client, https(server)) == "transport.tls"


def test_a_file_of_roots_that_is_not_there_is_the_configurations_fault(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "none.pem")
    with (
        HttpClient(
            timeout_seconds=DEADLINE_SECONDS, ca_file=path, use_proxies=False
        ) as client,
        pytest.raises(ConfigError) as caught,
    ):
        client.request("GET", "https://127.0.0.1", max_bytes=9)
    assert caught.value.code == "config.invalid"
