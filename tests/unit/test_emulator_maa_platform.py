"""Platform attestation by the emulated provider, and its plain routes."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from support.azure import (
    ask,
    jws_parts,
    make_azure,
)
from support.azure_vm import (
    SoftwareVm,
    b64,
    b64u,
)

if TYPE_CHECKING:
    from skragent.emulator.azure import Azure
    from skragent.emulator.service import Response

_PYTHON = "/attest/SevSnpVm?api-version=2022-08-01"
_GO = "/attest/SevSnpVM?api-version=2020-10-01"


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Azure:
    return make_azure(tmp_path_factory.mktemp("azure"))


def _claims(answer: Response) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    return jws_parts(json.loads(answer.body)["token"])[1]


def test_platform_token_has_its_claims_at_the_top(azure: Azure) -> None:
    claims = _claims(ask(azure.maa, "POST", _PYTHON, SoftwareVm().platform_request()))
    assert claims["x-ms-attestation-type"] == "sevsnpvm"
    assert claims["x-ms-compliance-status"] == "azure-compliant-cvm"
    assert claims["x-ms-runtime"] == SoftwareVm().runtime
    assert claims["x-ms-sevsnpvm-vmpl"] == 0
    assert "secureboot" not in claims


def test_go_spelling_is_accepted_and_its_large_nonce_comes_back(azure: Azure) -> None:
    vm = SoftwareVm(report_fields={0x0C0: hashlib.sha256(b"").digest()})
    vm.runtime = {"keys": [{"kid": "mine", "kty": "RSA", "key_ops": ["encrypt"]}]}
    report = {
        "SnpReport": base64.urlsafe_b64encode(vm.report(vm.runtime_data)).decode(),
        "VcekCertChain": base64.urlsafe_b64encode(vm.chain).decode(),
    }
    body = {
        "report": base64.urlsafe_b64encode(json.dumps(report).encode()).decode(),
        "runtimeData": {
            "data": base64.urlsafe_b64encode(vm.runtime_data).decode(),
            "dataType": "JSON",
        },
        "initTimeData": {"data": "", "dataType": ""},
        "nonce": 10831734225476867884,
    }
    claims = _claims(ask(azure.maa, "POST", _GO, body))
    assert claims["nonce"] == 10831734225476867884
    assert claims["x-ms-runtime"] == vm.runtime
    assert claims["x-ms-compliance-status"] == "azure-compliant-uvm"


def test_binary_runtime_data_is_bound_and_not_shown(azure: Azure) -> None:
    vm = SoftwareVm()
    body = vm.platform_request()
    body["runtimeData"]["dataType"] = "Binary"
    claims = _claims(ask(azure.maa, "POST", _PYTHON, body))
    assert "x-ms-runtime" not in claims
    assert "x-ms-compliance-status" not in claims


def test_init_time_data_must_be_bound_by_host_data(azure: Azure) -> None:
    data = b'{"policy":1}'
    vm = SoftwareVm(report_fields={0x0C0: hashlib.sha256(data).digest()})
    body = vm.platform_request()
    body["initTimeData"] = {"data": b64u(data), "dataType": "JSON"}
    assert _claims(ask(azure.maa, "POST", _PYTHON, body))["x-ms-inittime"] == {
        "policy": 1
    }
    body["initTimeData"]["data"] = b64u(b'{"policy":2}')
    answer = ask(azure.maa, "POST", _PYTHON, body)
    assert (answer.status, answer.headers["x-ms-error-code"]) == (
        400,
        "InvalidParameter",
    )


def test_runtime_data_that_the_report_does_not_bind_is_refused(azure: Azure) -> None:
    body = SoftwareVm().platform_request()
    body["runtimeData"]["data"] = b64u(b"{}")
    answer = ask(azure.maa, "POST", _PYTHON, body)
    assert (answer.status, answer.headers["x-ms-error-code"]) == (
        400,
        "InvalidParameter",
    )


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "ApiVersionUnspecified"),
        ("?api-version=2018-09-01", "UnsupportedApiVersion"),
        ("?api-version=x", "UnsupportedApiVersion"),
        ("?api-version=2031-01-01", "UnsupportedApiVersion"),
        ("?api-version=2025-06-01-preview", "UnsupportedApiVersion"),
    ],
)
def test_attestation_without_a_published_api_version_is_refused(
    azure: Azure, query: str, code: str
) -> None:
    answer = ask(azure.maa, "POST", f"/attest/SevSnpVm{query}", {})
    assert (answer.status, answer.headers["x-ms-error-code"]) == (400, code)


def test_certs_are_self_signed_certificates_named_after_the_issuer(
    azure: Azure,
) -> None:
    keys = json.loads(ask(azure.maa, "GET", "/certs").body)["keys"]
    assert len(keys) > 1
    for key in keys:
        assert len(base64.b64decode(key["kid"])) == 32
        cert = x509.load_der_x509_certificate(base64.b64decode(key["x5c"][0]))
        cert.verify_directly_issued_by(cert)
        assert cert.subject.rfc4514_string() == f"CN={azure.maa.issuer}"


def test_metadata_names_the_key_set(azure: Azure) -> None:
    document = json.loads(
        ask(azure.maa, "GET", "/.well-known/openid-configuration").body
    )
    assert document["jwks_uri"] == f"{azure.maa.issuer}/certs"


def test_unknown_path_is_not_found(azure: Azure) -> None:
    assert ask(azure.maa, "GET", "/attest").status == 404


def test_mutation_of_an_unknown_step_raises(azure: Azure) -> None:
    with pytest.raises(ValueError, match="no step"):
        azure.maa.mutate("clams", lambda value: value)


def test_mutated_claims_are_signed_until_hooks_are_cleared(azure: Azure) -> None:
    body = SoftwareVm().platform_request()
    azure.maa.mutate("claims", lambda claims: claims | {"iss": "https://evil.test"})
    assert _claims(ask(azure.maa, "POST", _PYTHON, body))["iss"] == "https://evil.test"
    azure.clear_hooks()
    assert _claims(ask(azure.maa, "POST", _PYTHON, body))["iss"] == azure.maa.issuer


def test_body_other_than_an_object_is_refused(azure: Azure) -> None:
    answer = ask(azure.maa, "POST", _PYTHON, [b64(b"x")])
    assert (answer.status, answer.headers["x-ms-error-code"]) == (
        400,
        "InvalidParameter",
    )
