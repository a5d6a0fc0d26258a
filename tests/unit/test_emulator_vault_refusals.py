"""Releases that the emulated vaults refuse, and their texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.azure import (
    API,
    World,
    ask,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.emulator.service import Response


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("azure"))
    for vault in (world.vault, world.hsm):
        world.create(vault, "rsa")
    return world


def _refusal(answer: Response) -> tuple[int, str, str]:
    error = json.loads(answer.body)["error"]
    return answer.status, error["code"], error.get("innererror", {}).get("code", "")


CANNOT_VERIFY = "Target environment attestation statement cannot be verified."


def _tampered(token: str) -> str:
    head, payload, signature = token.split(".")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    return f"{head}.{payload}.{flipped}"


@pytest.mark.parametrize(
    "target",
    [
        _tampered,
        lambda t: t.rpartition(".")[0],
        lambda t: t.rpartition(".")[0] + ".",
        lambda _: "garbage",
        lambda t: t.replace(".", "..", 1),
    ],
    ids=["signature", "two-parts", "unsigned", "garbage", "four-parts"],
)
def test_token_that_does_not_verify_is_refused_without_a_reason(
    world: World, target: Callable[[str], str]
) -> None:
    answer = world.release(world.vault, "/keys/rsa/release", target=target(world.token))
    assert _refusal(answer) == (403, "Forbidden", "AccessDenied")
    assert json.loads(answer.body)["error"]["message"] == CANNOT_VERIFY


@pytest.mark.parametrize("skew", [28801.0, -10.0])
def test_token_out_of_its_time_is_refused(world: World, skew: float) -> None:
    bearer = world.bearer(world.vault)  # lives longer than the attestation token
    if skew < 0:
        world.azure.clock.skew_seconds = skew
        bearer = world.bearer(world.vault)
    world.azure.clock.skew_seconds = skew
    try:
        answer = ask(
            world.vault,
            "POST",
            f"/keys/rsa/release{API}",
            {"target": world.token},
            bearer,
        )
    finally:
        world.azure.clear_hooks()
    assert answer.status == 403
    assert json.loads(answer.body)["error"]["message"] == CANNOT_VERIFY


def test_token_of_an_issuer_that_the_policy_does_not_name_is_refused(
    world: World,
) -> None:
    policy = world.azure.cvm_policy()
    policy["anyOf"][0]["authority"] = "https://other.test"
    world.create(world.vault, "other-authority", policy)
    answer = world.release(world.vault, "/keys/other-authority/release")
    assert answer.status == 403
    assert json.loads(answer.body)["error"]["message"] == CANNOT_VERIFY


def test_authority_with_a_trailing_slash_is_the_same(world: World) -> None:
    policy = world.azure.cvm_policy()
    policy["anyOf"][0]["authority"] += "/"
    world.create(world.vault, "slash", policy)
    assert world.release(world.vault, "/keys/slash/release").status == 200


def test_claims_that_do_not_satisfy_the_policy_are_refused(world: World) -> None:
    policy = world.azure.cvm_policy()
    policy["anyOf"][0]["allOf"].append({"claim": "secureboot", "equals": False})
    world.create(world.vault, "no-match", policy)
    answer = world.release(world.vault, "/keys/no-match/release")
    assert _refusal(answer)[:2] == (403, "Forbidden")
    assert "does not meet key release policy" in answer.body.decode()


def test_unknown_enc_is_a_bad_parameter(world: World) -> None:
    answer = world.release(world.vault, "/keys/rsa/release", enc="RSA-OAEP")
    assert _refusal(answer)[:2] == (400, "BadParameter")


def test_a_managed_hsm_refuses_a_caller_without_a_role_by_the_outer_code(
    world: World,
) -> None:
    world.hsm.access.suspended = frozenset({"release"})
    try:
        answer = world.release(world.hsm, "/keys/rsa/release")
    finally:
        world.hsm.clear_hooks()
    assert _refusal(answer) == (403, "AccessDenied", "")
    assert json.loads(answer.body)["error"]["message"].startswith(
        "Not authorized to access Microsoft.KeyVault/managedHsm/keys/release/action on"
        " '/keys/rsa' (Activity ID: "
    )


def test_disabled_key_is_not_released(world: World) -> None:
    world.create(world.vault, "off")
    off = {"attributes": {"enabled": False}}
    assert world.ask(world.vault, "PATCH", f"/keys/off{API}", off).status == 200
    answer = world.release(world.vault, "/keys/off/release")
    assert _refusal(answer) == (403, "Forbidden", "KeyDisabled")


@pytest.mark.parametrize(
    "path", ["/keys/none/release", f"/keys/rsa/{'0' * 32}/release"]
)
def test_unknown_key_or_version_is_not_found(world: World, path: str) -> None:
    assert _refusal(world.release(world.vault, path))[:2] == (404, "KeyNotFound")
