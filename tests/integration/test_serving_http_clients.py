"""HTTP as clients of others speak it: curl, nginx, Node, Java and Go."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.deadlines import DEADLINE_SECONDS, wait_until
from support.http_services import Services, http_services
from support.serving import ALIAS, FORMS, held_key, ring_with
from support.unix_session import unix_session

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).resolve().parents[1] / "support" / "http_clients"
KEY = f"/v1/keys/{ALIAS}"
ORDER = '{"keys": ["db"]}'
SIZE = len(FORMS["jwk"])
CLIENTS = {
    "node": ["node", str(SOURCES / "client.mjs")],
    "java": ["java", str(SOURCES / "Client.java")],
    "go": ["go", "run", str(SOURCES / "client.go")],
}

# With `proxy_pass` alone nginx speaks HTTP/1.0 and says `Connection: close`.
NGINX_CONF = """
worker_processes 1; daemon off; pid {dir}/pid; error_log {dir}/error.log;
{user}
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;
  uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
  upstream kept {{ server unix:{api}; keepalive 4; }}
  server {{
    listen unix:{dir}/nginx.sock;
    location / {{ proxy_pass http://unix:{api}; }}
    location /kept/ {{
      proxy_pass http://kept/; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
    location /admin/ {{ proxy_pass http://unix:{admin}:/; }}
    location /unbuffered/ {{
      proxy_pass http://unix:{admin}:/; proxy_http_version 1.1;
      proxy_request_buffering off;
    }}
  }}
}}
"""


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"needs {program}, which is not installed"
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Services]:
    with (
        tempfile.TemporaryDirectory() as directory,
        http_services(Path(directory), ring_with(held_key())) as services,
    ):
        yield services


@pytest.fixture
def services(running: Services) -> Services:
    running.orders.refreshed.clear()
    return running


# curl


def curl(*arguments: str, sock: Path | None = None) -> tuple[str, str]:
    """Return curl's own output, and what it says of the exchange."""
    command = ["curl", "--silent", "--show-error", "--verbose", *arguments]
    if sock is not None:
        command += ["--unix-socket", str(sock)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=True
    )
    return done.stdout, done.stderr


@needs("curl")
def test_curl_is_served_with_http_1_0(services: Services) -> None:
    body, said = curl("--http1.0", f"http://localhost{KEY}", sock=services.api)
    assert body.encode() == FORMS["jwk"]
    assert f"> GET {KEY} HTTP/1.0" in said
    assert "< Connection: close" in said


@needs("curl")
def test_curl_sends_no_host_with_http_1_0(services: Services) -> None:
    url = f"http://127.0.0.1:{services.metrics_port}/healthz"
    body, said = curl("--http1.0", "--header", "Host:", url)
    assert json.loads(body) == {"status": "ok"}
    assert "> Host:" not in said


@needs("curl")
@pytest.mark.parametrize("path", [KEY, "/v1/status", "/healthz", "/v1/keys"])
def test_curl_sends_head(services: Services, path: str) -> None:
    url = f"http://localhost{path}"
    body, _ = curl(url, sock=services.api)
    headers, _ = curl("--head", url, sock=services.api)
    assert headers.startswith("HTTP/1.1 200 OK")
    assert f"Content-Length: {len(body)}" in headers.splitlines()


@needs("curl")
@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
def test_curl_sends_head_for_metrics(services: Services, path: str) -> None:
    url = f"http://127.0.0.1:{services.metrics_port}{path}"
    headers, _ = curl("--head", url)
    assert headers.startswith("HTTP/1.1 200 OK")
    assert "\r\n\r\n" not in headers.strip()


@needs("curl")
def test_curl_sends_chunks(services: Services) -> None:
    headers = ("--header", "Transfer-Encoding: chunked")
    url = "http://localhost/v1/refresh"
    body, _ = curl(*headers, "--data", ORDER, url, sock=services.admin)
    assert json.loads(body)["refreshing"] == [ALIAS]
    assert services.orders.refreshed == [(ALIAS,)]


@needs("curl")
def test_curl_waits_for_100_continue(services: Services) -> None:
    # It would go on after that time without a 100; the test would hang.
    waits = ("--header", "Expect: 100-continue", "--expect100-timeout", "3600")
    url = "http://localhost/v1/refresh"
    body, said = curl(*waits, "--data", ORDER, url, sock=services.admin)
    assert json.loads(body)["refreshing"] == [ALIAS]
    assert "< HTTP/1.1 100 Continue" in said


@needs("curl")
def test_curl_sends_no_body_without_100_continue(services: Services) -> None:
    waits = ("--header", "Expect: 100-continue", "--expect100-timeout", "3600")
    url = f"http://localhost{KEY}"
    body, said = curl(*waits, "--data", ORDER, url, sock=services.api)
    assert json.loads(body)["code"] == "serve.method"
    assert "100 Continue" not in said


# Node, Java, Go


def answers_of(client: str, services: Services, directory: Path) -> list[Any]:
    """Run a client, and return its account of each answer."""
    ports = services.api_port, services.admin_port, services.metrics_port
    done = subprocess.run(
        [*CLIENTS[client], *map(str, ports)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},  # Go's cache: HOME
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "client", [pytest.param(client, marks=needs(client)) for client in CLIENTS]
)
def test_the_clients_of_programming_languages_are_served(
    services: Services, tmp_path: Path, client: str
) -> None:
    found = answers_of(client, services, tmp_path)
    responses = {one["name"]: one for one in found}
    for name in ("get", "get again"):
        assert (responses[name]["status"], responses[name]["body"].encode()) == (
            200,
            FORMS["jwk"],
        )
    head = responses["head"]
    assert (head["status"], head["length"], head["body"]) == (200, SIZE, "")
    for name in ("chunked", "continue"):
        assert responses[name]["status"] == 202, responses[name]
        assert responses[name].get("continued", 1) == 1
    assert services.orders.refreshed == [(ALIAS,), (ALIAS,)]
    if "no continue" in responses:  # Java's client waits for a 100 all the same
        refused = responses["no continue"]
        assert (refused["status"], refused["continued"]) == (405, 0)
    assert (responses["metrics"]["status"], responses["metrics"]["body"]) == (200, "")
    assert responses["metrics"]["length"] > 0
    assert json.loads(responses["health"]["body"]) == {"status": "ok"}


# nginx


@pytest.fixture(scope="module")
def nginx(running: Services) -> Iterator[Path]:
    """Give the socket of an nginx before api.sock and admin.sock."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        conf = directory / "nginx.conf"
        # root starts nginx, and its workers run as another user, which no rule names.
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(
            NGINX_CONF.format(
                dir=directory, api=running.api, admin=running.admin, user=user
            )
        )
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                ["nginx", "-c", str(conf), "-e", str(directory / "error.log")],
                stdout=log,
                stderr=log,
            )
        sock = directory / "nginx.sock"
        try:
            wait_until(
                lambda: process.poll() is not None or is_listening(sock),
                (directory / "log").read_text,
            )
            assert process.poll() is None, (directory / "log").read_text()
            yield sock
        finally:
            process.terminate()
            process.wait(DEADLINE_SECONDS)


def is_listening(sock: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(sock))
        return True
    return False


@needs("nginx")
@pytest.mark.parametrize("prefix", ["", "/kept"])
def test_nginx_forwards_get_and_head(nginx: Path, prefix: str) -> None:
    url = f"http://localhost{prefix}{KEY}"
    with unix_session(nginx) as session:
        for _ in range(3):
            response = session.get(url, timeout=DEADLINE_SECONDS)
            assert (response.status_code, response.content) == (200, FORMS["jwk"])
            head = session.head(url, timeout=DEADLINE_SECONDS)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["Content-Length"] == str(SIZE)
            assert head.headers["ETag"] == response.headers["ETag"]


@needs("nginx")
def test_nginx_forwards_errors(nginx: Path) -> None:
    with unix_session(nginx) as session:
        response = session.get(
            "http://localhost/v1/keys/other", timeout=DEADLINE_SECONDS
        )
    assert (response.status_code, response.json()["code"]) == (404, "serve.denied")


@needs("nginx")
@pytest.mark.parametrize("prefix", ["/admin", "/unbuffered"])
def test_nginx_forwards_chunks(services: Services, nginx: Path, prefix: str) -> None:
    pieces = iter([ORDER[:5].encode(), ORDER[5:].encode()])
    with unix_session(nginx) as session:
        response = session.post(
            f"http://localhost{prefix}/v1/refresh",
            data=pieces,
            timeout=DEADLINE_SECONDS,
        )
    assert response.status_code == 202
    assert response.json()["refreshing"] == [ALIAS]
    assert services.orders.refreshed == [(ALIAS,)]
