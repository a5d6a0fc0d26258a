"""The HTTP servers of the emulated services: hosts, TLS names, limits, delays."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import requests
from support.azure import bind_unix
from support.azure_vm import (
    SoftwareVm,
)
from support.deadlines import DEADLINE_SECONDS, takes_at_least

from skragent.emulator import addresses
from skragent.emulator.azure import Azure, Settings
from skragent.emulator.maa.regions import ATTESTATION_HOSTS
from skragent.emulator.service import Request, Response
from skragent.emulator.thread import LoopThread
from skragent.errors import AgentError

_LATENCY_SECONDS = 0.06


def _running(directory: Path, settings: Settings | None = None) -> LoopThread[Azure]:
    return LoopThread(
        lambda: Azure.start(directory, SoftwareVm(), settings),
        lambda azure: azure.close(),
    )


def _origin(azure: Azure, path: str) -> str:
    return f"{azure.maa.issuer}{path}"


def test_header_without_a_space_reaches_imds(tmp_path: Path) -> None:
    with _running(tmp_path) as thread:
        port = int(thread.instance.imds_url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"GET /metadata/THIM/amd/certification HTTP/1.1\r\n"
                b"Host: 169.254.169.254\r\nAccept: */*\r\nMetadata:true\r\n\r\n"
            )
            assert connection.recv(64).startswith(b"HTTP/1.1 200 ")


def test_ports_are_the_same_after_a_restart(tmp_path: Path) -> None:
    with _running(tmp_path) as thread:
        first = (thread.instance.maa.issuer, thread.instance.imds_url)
    with _running(tmp_path) as thread:
        assert (thread.instance.maa.issuer, thread.instance.imds_url) == first


def test_port_in_use_is_an_error_with_its_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"maa": other.getsockname()[1]}
        with (
            pytest.raises(AgentError) as caught,
            _running(tmp_path, Settings(ports=ports)),
        ):
            pass
    assert caught.value.code == "emulator.address"


def test_body_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    with _running(tmp_path) as thread:
        azure = thread.instance
        url = _origin(azure, "/attest/AzureGuest?api-version=2020-10-01")
        answer = requests.post(
            url,
            data=b"x" * (5 << 20),
            verify=str(azure.ca_path),
            timeout=DEADLINE_SECONDS,
        )
        assert answer.status_code == 413


def test_hook_can_replace_a_response(tmp_path: Path) -> None:
    async def unavailable(_: Request, answer: Response) -> Response:
        answer.status = 503
        return answer

    with _running(tmp_path) as thread:
        azure = thread.instance
        azure.maa.before_response = unavailable
        url, ca = _origin(azure, "/certs"), str(azure.ca_path)
        assert requests.get(url, verify=ca, timeout=DEADLINE_SECONDS).status_code == 503
        azure.clear_hooks()
        assert requests.get(url, verify=ca, timeout=DEADLINE_SECONDS).status_code == 200
        assert [r.status for r in azure.requests] == [503, 200]


def test_each_round_trip_costs_the_latency(tmp_path: Path) -> None:
    settings = Settings(latency_seconds=_LATENCY_SECONDS)
    with _running(tmp_path, settings) as thread, requests.Session() as session:
        azure = thread.instance
        session.trust_env = False
        session.verify = str(azure.ca_path)
        for trips in (3, 1):  # TCP, TLS 1.3 and the request; then the request alone
            with takes_at_least(trips * _LATENCY_SECONDS):
                answer = session.get(_origin(azure, "/certs"), timeout=DEADLINE_SECONDS)
            assert answer.status_code == 200
        url = _origin(azure, "/attest/AzureGuest?api-version=2020-10-01")
        with takes_at_least(2 * _LATENCY_SECONDS):  # it is longer than ten segments
            session.post(url, data=b"x" * 30000, timeout=DEADLINE_SECONDS)


def test_certificate_matches_the_requested_name(tmp_path: Path) -> None:
    path = tmp_path / "tls"
    sockets = bind_unix(tmp_path / "imds"), bind_unix(path)
    settings = Settings(real_names=True, sockets=sockets)
    with _running(tmp_path, settings) as thread:
        azure = thread.instance
        context = ssl.create_default_context(cafile=str(azure.ca_path))
        vaults = [plan.host for plan in Settings().vaults]
        statuses = {addresses.MAA_HOST: b"200", addresses.ENTRA_HOST: b"404"}
        for host in (*statuses, *vaults):
            with (
                socket.socket(socket.AF_UNIX) as plain,
                context.wrap_socket(plain, server_hostname=host) as connection,
            ):
                connection.connect(str(path))
                connection.sendall(
                    f"GET /certs HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
                )
                status = connection.recv(64).split()[1]
                assert status == statuses.get(host, b"401")
        services = ["maa", "entra", *azure.vaults]
        assert [r.service for r in azure.requests] == services


def test_provider_of_every_region_attests_under_its_own_name(tmp_path: Path) -> None:
    path = tmp_path / "tls"
    sockets = bind_unix(tmp_path / "imds"), bind_unix(path)
    settings = Settings(real_names=True, sockets=sockets)
    with _running(tmp_path, settings) as thread:
        context = ssl.create_default_context(cafile=str(thread.instance.ca_path))
        for host in ATTESTATION_HOSTS:
            with (
                socket.socket(socket.AF_UNIX) as plain,
                context.wrap_socket(plain, server_hostname=host) as connection,
            ):
                connection.connect(str(path))
                connection.sendall(
                    b"GET /.well-known/openid-configuration HTTP/1.1\r\n"
                    b"Connection: close\r\nHost: " + host.encode() + b"\r\n\r\n"
                )
                with connection.makefile("rb") as answer:
                    body = answer.read().partition(b"\r\n\r\n")[2]
            assert json.loads(body)["issuer"] == f"https://{host}"


def test_missing_names_yield_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "IMDS_ADDRESS", "192.0.2.1")
    first, second = addresses.commands_for_real_names(Settings().vaults)
    assert first == "ip addr add 192.0.2.1/32 dev lo"
    assert second.endswith(" >> /etc/hosts")
    lines = subprocess.run(
        ["sh", "-c", second.removesuffix(" >> /etc/hosts")],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=True,
    ).stdout.splitlines()
    assert "127.0.0.2 login.microsoftonline.com" in lines
    assert {f"127.0.0.2 {host}" for host in ATTESTATION_HOSTS} <= {*lines}


def test_system_trust_yields_commands() -> None:
    told = dict(addresses.commands_for_system_trust(Path("/tmp/a b/ca.pem")))
    assert told == {
        "Debian, Ubuntu": "cp '/tmp/a b/ca.pem'"
        " /usr/local/share/ca-certificates/skragent-emulator.crt"
        " && update-ca-certificates",
        "Fedora, RHEL": "cp '/tmp/a b/ca.pem'"
        " /etc/pki/ca-trust/source/anchors/skragent-emulator.pem"
        " && update-ca-trust",
    }
