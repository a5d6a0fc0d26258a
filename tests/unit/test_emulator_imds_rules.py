"""The emulated metadata service: its header rules, selection, limits and errors."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from support.azure import (
    ask,
    jws_parts,
    make_azure,
)
from support.azure_vm import (
    Json,
    SoftwareVm,
)

from skragent.emulator.service import Request, Response
from skragent.emulator.throttle import SlidingWindow, TokenBucket

if TYPE_CHECKING:
    from pathlib import Path

    from skragent.emulator.azure import Azure

_TOKEN = (
    "/metadata/identity/oauth2/token?api-version=2018-02-01"
    "&resource=https://vault.azure.net"
)
_THIM = "/metadata/THIM/amd/certification"
_LOCATION = "/metadata/instance/compute/location?api-version=2021-01-01"
_HEADERS = {"metadata": "true"}


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Azure:
    return make_azure(tmp_path_factory.mktemp("azure"))


def _get(azure: Azure, target: str, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(azure.imds, "GET", target, headers=_HEADERS | named)


def _json(answer: Response) -> Json:
    return json.loads(answer.body)


def test_token_answer_has_only_strings_and_a_jwt_of_the_vms_identity(
    azure: Azure,
) -> None:
    answer = _json(_get(azure, _TOKEN))
    assert all(isinstance(value, str) for value in answer.values())
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", "86399")
    _, claims = jws_parts(answer["access_token"])
    assert claims["aud"] == "https://vault.azure.net"
    assert claims["oid"] == azure.vm_identity.object_id
    assert claims["xms_az_rid"].startswith("/subscriptions/")


@pytest.mark.parametrize("target", [_TOKEN, _THIM, _LOCATION])
def test_request_without_the_metadata_header_is_refused(
    azure: Azure, target: str
) -> None:
    assert ask(azure.imds, "GET", target).status == 400


def test_identity_refusal_without_the_header_has_its_code(azure: Azure) -> None:
    assert _json(ask(azure.imds, "GET", _TOKEN)) == {
        "error": "bad_request_102",
        "error_description": "Required metadata header not specified",
    }


@pytest.mark.parametrize("target", [_TOKEN, _THIM, _LOCATION])
def test_request_through_a_proxy_is_refused(azure: Azure, target: str) -> None:
    assert _get(azure, target, x_forwarded_for="10.0.0.1").status == 400


def test_duplicate_parameters_are_refused(azure: Azure) -> None:
    assert _get(azure, _LOCATION + "&format=text&format=text").status == 400


@pytest.mark.parametrize("selector", ["client_id", "object_id", "msi_res_id"])
def test_identity_can_be_named_in_three_ways(azure: Azure, selector: str) -> None:
    who = azure.unprivileged_identity
    values = {
        "client_id": who.client_id,
        "object_id": who.object_id,
        "msi_res_id": who.resource_id,
    }
    answer = _json(_get(azure, f"{_TOKEN}&{selector}={values[selector]}"))
    assert answer["client_id"] == who.client_id


def test_unknown_identity_is_not_found(azure: Azure) -> None:
    answer = _get(azure, f"{_TOKEN}&client_id=nobody")
    assert answer.status == 400
    assert _json(answer) == {
        "error": "invalid_request",
        "error_description": "Identity not found",
    }


def test_several_user_assigned_identities_must_be_named(tmp_path: Path) -> None:
    azure = make_azure(tmp_path)
    azure.imds.identities = [azure.unprivileged_identity, azure.unprivileged_identity]
    answer = _get(azure, _TOKEN)
    assert (answer.status, _json(answer)["error"]) == (400, "invalid_request")


def test_token_for_an_unknown_resource_is_refused(azure: Azure) -> None:
    answer = _get(azure, _TOKEN.replace("vault.azure.net", "evil.test"))
    assert (answer.status, _json(answer)["error"]) == (400, "invalid_resource")


def test_thim_needs_no_api_version(azure: Azure) -> None:
    answer = _json(_get(azure, _THIM))
    assert set(answer) == {"vcekCert", "tcbm", "certificateChain", "cacheControl"}
    assert all(isinstance(value, str) for value in answer.values())


def test_location_is_plain_text(azure: Azure) -> None:
    answer = _get(azure, _LOCATION + "&format=text")
    assert (answer.status, answer.body) == (200, b"eastus2")
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_leaf_as_json_is_refused(azure: Azure) -> None:
    assert _get(azure, _LOCATION).status == 400


def test_compute_is_json_of_strings_with_the_security_profile(azure: Azure) -> None:
    compute = _json(_get(azure, "/metadata/instance/compute?api-version=2021-12-13"))
    assert compute["securityProfile"]["securityType"] == "ConfidentialVM"
    assert compute["azEnvironment"] == "AzurePublicCloud"
    assert compute["vmId"].upper() == SoftwareVm.vm_id


@pytest.mark.parametrize("version", ["", "?api-version=2016-01-01", "?api-version=1"])
def test_wrong_api_version_is_answered_with_the_newest(
    azure: Azure, version: str
) -> None:
    answer = _get(azure, f"/metadata/instance{version}")
    assert answer.status == 400
    assert _json(answer) == {
        "error": "Bad request. api-version is invalid or was not specified in the"
        " request. For more information refer to aka.ms/azureimds",
        "newest-versions": ["2025-04-07", "2024-07-17", "2024-03-15"],
    }


def test_unknown_path_is_not_found(azure: Azure) -> None:
    assert (
        _get(azure, "/metadata/instance/compute/x?api-version=2021-01-01").status == 404
    )


def test_sixth_request_in_an_instant_is_throttled_and_tokens_are_not(
    tmp_path: Path,
) -> None:
    azure = make_azure(tmp_path)
    azure.imds.is_limited = True
    statuses = [_get(azure, _THIM).status for _ in range(6)]
    assert statuses == [200] * 5 + [429]
    assert _get(azure, _TOKEN).status == 200


def test_bucket_refills_with_time_up_to_its_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(5, 5, lambda: now[0])
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
    now[0] = 0.2
    assert [bucket.take() for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]


def test_window_lets_no_more_through_in_any_ten_seconds() -> None:
    now = [0.0]
    window = SlidingWindow(3, 10, lambda: now[0])
    let_through = []
    for second in range(25):
        now[0] = float(second)
        if window.take():
            let_through.append(second)
    assert let_through == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_sixth_token_request_at_once_is_throttled(tmp_path: Path) -> None:
    azure = make_azure(tmp_path)
    azure.imds.is_limited = True
    held = asyncio.Event()

    async def hold(_: Request, answer: Response) -> Response:
        await held.wait()
        return answer

    async def ask_six_times() -> list[int]:
        azure.imds.before_response = hold
        request = Request("GET", _TOKEN, _HEADERS)
        asked = [asyncio.create_task(azure.imds.serve(request)) for _ in range(6)]
        await asyncio.sleep(0)
        held.set()
        return [answer.status for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask_six_times()) == [200] * 5 + [429]
