"""Faults of every service: wrong, late, partial or missing responses."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from support.deadlines import DEADLINE_SECONDS, takes_at_least
from support.faults import (
    AZURE_VAULT,
    IDENTITY,
    THIM,
    Broken,
)

from skragent.emulator.faults.grammar import FaultError
from skragent.emulator.service import Request, Response

SERVICES = ["imds", "maa", "entra", "vault", "hsm"]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "status", [202, 302, 400, 403, 404, 410, 429, 500, 502, 503, 504]
)
def test_status_is_the_requested_one(broken: Broken, service: str, status: int) -> None:
    broken.break_(f"{service}.status={status}")
    answer = broken.ask_one(service)
    assert answer.status_code == status
    assert "Retry-After" not in answer.headers
    answer.json()


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("after", ["5", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_status_may_have_a_retry_after(
    broken: Broken, service: str, after: str
) -> None:
    broken.break_(f"{service}.status=429,retry_after={after}")
    assert broken.ask_one(service).headers["Retry-After"] == after


@pytest.mark.parametrize(
    ("fault", "path", "body"),
    [
        ("status=404", THIM, {"error": "Not Found"}),
        (
            "status=429",
            IDENTITY + AZURE_VAULT,
            {"error": "too_many_requests", "error_description": "Too Many Requests"},
        ),
    ],
)
def test_imds_refuses_in_the_format_of_each_endpoint(
    broken: Broken, fault: str, path: str, body: object
) -> None:
    broken.break_(f"imds.{fault}")
    assert broken.ask_imds(path).json() == body


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"code": "InvalidParameter", "message": "Invalid parameter."}}),
        (
            503,
            {
                "Error": {
                    "Code": "ServiceUnavailable",
                    "Message": "Service Unavailable.",
                }
            },
        ),
    ],
)
def test_maa_uses_another_error_format_from_500_on(
    broken: Broken, status: int, body: object
) -> None:
    broken.break_(f"maa.status={status}")
    assert broken.ask_maa().json() == body


@pytest.mark.parametrize(
    ("status", "error", "numbers"),
    [
        (400, "invalid_request", [9002313]),
        (401, "invalid_client", [7000215]),
        (404, "invalid_request", []),
        (429, "temporarily_unavailable", [90055]),
        (503, "temporarily_unavailable", [90033]),
    ],
)
def test_entra_refuses_with_its_error_number(
    broken: Broken, status: int, error: str, numbers: list[int]
) -> None:
    broken.break_(f"entra.status={status}")
    body = broken.ask_entra().json()
    assert (body["error"], body["error_codes"]) == (error, numbers)


@pytest.mark.parametrize("service", ["vault", "hsm"])
def test_vaults_refuse_with_code_inner_code_and_message(
    broken: Broken, service: str
) -> None:
    words = "code=Forbidden,inner=KeyDisabled,message=No, not now"
    broken.break_(f"{service}.status=403,{words}")
    assert broken.ask_one(service).json() == {
        "error": {
            "code": "Forbidden",
            "message": "No, not now",
            "innererror": {"code": "KeyDisabled"},
        }
    }


@pytest.mark.parametrize("service", SERVICES)
def test_latency_delays_the_response(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.latency=0.2")
    with takes_at_least(0.2):
        assert broken.ask_one(service).status_code == 200


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("fault", ["hang", "latency=86400"])
def test_nothing_is_sent_until_the_reset(
    broken: Broken, service: str, fault: str
) -> None:
    is_asked, other = threading.Event(), "maa" if service == "imds" else "imds"
    azure = broken.emulator.azure

    async def tell(_: Request, answer: Response) -> Response:
        is_asked.set()
        return answer

    services = {"imds": azure.imds, "maa": azure.maa, "entra": azure.entra_id}
    asked = services.get(service) or broken.vault(service)
    asked.hook("", tell)  # before the fault's
    broken.break_(f"{service}.{fault}")
    seen = len(broken.emulator.requests)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(broken.ask_one, service)
        assert is_asked.wait(DEADLINE_SECONDS)
        assert broken.ask_one(other).status_code == 200  # in full, and meanwhile
        broken.reset()
        assert answer.result(DEADLINE_SECONDS).status_code == 200
    answered = [record.service for record in broken.emulator.requests][seen:]
    assert answered == [services[other].name, asked.name]


@pytest.mark.parametrize("service", SERVICES)
def test_reset_breaks_the_connection_within_the_body(
    broken: Broken, service: str
) -> None:
    broken.break_(f"{service}.reset")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        broken.ask_one(service)


def is_reset(broken: Broken, service: str) -> bool:
    """Send a request without an HTTP library; return whether RST ended it."""
    azure = broken.emulator.azure
    origin = azure.imds_url if service == "imds" else azure.maa.issuer
    address = ("127.0.0.1", int(origin.rpartition(":")[2]))
    connection = socket.create_connection(address, timeout=DEADLINE_SECONDS)
    if service == "maa":
        context = ssl.create_default_context(cafile=str(azure.ca_path))
        connection = context.wrap_socket(connection, server_hostname=address[0])
    connection.sendall(
        f"GET {THIM if service == 'imds' else '/certs'} HTTP/1.1\r\n"
        "Host: x\r\nMetadata: true\r\n\r\n".encode()
    )
    assert connection.recv(17).startswith(b"HTTP/1.1 200 OK")
    # Python's TLS calls a reset an end of file: what follows is read beneath it.
    with socket.socket(fileno=connection.detach()) as raw:
        raw.settimeout(DEADLINE_SECONDS)
        try:
            while raw.recv(65536):
                pass
        except ConnectionResetError:
            return True
    return False


@pytest.mark.parametrize("service", ["imds", "maa"])
def test_reset_sends_rst(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.reset")
    assert is_reset(broken, service)


def test_truncation_does_not_reset_the_connection(broken: Broken) -> None:
    broken.break_("imds.truncate")
    assert not is_reset(broken, "imds")


@pytest.mark.parametrize("service", SERVICES)
def test_truncated_body_ends_before_its_length(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.truncate")
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="Incomplete"):
        broken.ask_one(service)


@pytest.mark.parametrize("fault", ["truncate", "reset"])
def test_empty_body_is_cut_too(broken: Broken, fault: str) -> None:
    broken.break_(f"hsm.{fault}")
    with pytest.raises(requests.RequestException):
        broken.session.get(
            f"{broken.vault('hsm').url}/keys", timeout=DEADLINE_SECONDS
        )  # a challenge


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("fault", "size"), [("oversize", 16 << 20), ("oversize=5000000", 5_000_000)]
)
def test_oversized_body_is_still_json(
    broken: Broken, service: str, fault: str, size: int
) -> None:
    whole = broken.ask_one(service).json()
    broken.break_(f"{service}.{fault}")
    answer = broken.ask_one(service)
    assert len(answer.content) == size
    assert answer.json() == whole


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("fault", "media_type"),
    [("content_type", "text/html"), ("content_type=image/png", "image/png")],
)
def test_only_the_content_type_is_wrong(
    broken: Broken, service: str, fault: str, media_type: str
) -> None:
    whole = broken.ask_one(service).json()
    broken.break_(f"{service}.{fault}")
    answer = broken.ask_one(service)
    assert answer.headers["Content-Type"] == media_type
    assert answer.json() == whole


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("fault", "body"),
    [("body", "<html>it works</html>"), ("body={", "{"), ("body=", "")],
)
def test_body_is_replaced(broken: Broken, service: str, fault: str, body: str) -> None:
    broken.break_(f"{service}.{fault}")
    answer = broken.ask_one(service)
    assert (answer.status_code, answer.text) == (200, body)


def test_fault_with_a_path_does_not_affect_other_requests(broken: Broken) -> None:
    broken.break_("imds.status=410,path=/metadata/identity")
    assert broken.ask_imds(IDENTITY + AZURE_VAULT).status_code == 410
    assert broken.ask_imds(THIM).status_code == 200


def test_fault_with_a_number_of_times_ends(broken: Broken) -> None:
    broken.break_("maa.status=503,times=2")
    assert [broken.ask_maa().status_code for _ in range(3)] == [503, 503, 200]


def test_two_kinds_of_faults_are_active_at_once(broken: Broken) -> None:
    broken.break_("maa.status=503")
    broken.break_("maa.body=busy")
    answer = broken.ask_maa()
    assert (answer.status_code, answer.text) == (503, "busy")


def test_repeated_fault_replaces_the_first(broken: Broken) -> None:
    broken.break_("maa.status=503")
    broken.break_("maa.status=429")
    assert broken.ask_maa().status_code == 429


def test_faults_are_applied_and_reset_during_requests(broken: Broken) -> None:
    def ask_often() -> set[int]:
        return {
            requests.get(url, verify=ca, timeout=DEADLINE_SECONDS).status_code
            for _ in range(20)
        }

    url, ca = f"{broken.emulator.maa.issuer}/certs", str(broken.session.verify)
    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_often) for _ in range(4)]
        while not all(future.done() for future in asking):
            broken.break_("maa.status=503,times=1")
            broken.break_("maa.latency=0.001")
            broken.reset()
        assert set().union(*(future.result() for future in asking)) <= {200, 503}


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        ("imds.latency=0", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"),
        ("imds.hang", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
    ids=["within its body", "before half an answer"],
)
def test_client_that_disconnects_leaves_no_traceback(
    broken: Broken, caplog: pytest.LogCaptureFixture, fault: str, sent: bytes
) -> None:
    broken.break_(fault)
    broken.break_("imds.reset")
    port = int(broken.emulator.azure.imds_url.rpartition(":")[2])
    with socket.create_connection(
        ("127.0.0.1", port), timeout=DEADLINE_SECONDS
    ) as connection:
        connection.sendall(sent)
        assert broken.ask_maa().status_code == 200  # it is being read
    broken.reset()
    assert broken.ask_one("imds").status_code == 200
    assert caplog.records == []


def test_invalid_fault_changes_nothing(broken: Broken) -> None:
    with pytest.raises(FaultError) as caught:
        broken.break_("maa.status=9000")
    assert caught.value.code == "emulator.fault"
    assert broken.emulator.faults.applied == []
    assert broken.ask_maa().status_code == 200


def test_refused_request_has_no_effect(broken: Broken) -> None:
    broken.break_("vault.status=503")
    broken.ask_vault("vault", "POST", "/keys/new/create", {"kty": "oct"})
    broken.reset()
    assert broken.ask_vault("vault", "GET", "/keys/new").status_code == 404


def test_refused_challenge_has_a_message(broken: Broken) -> None:
    broken.break_("vault.status=401")
    answer = broken.ask_one("vault")
    assert json.loads(answer.content)["error"]["message"] == "Unauthorized."
