"""Faults of the emulated attestation provider: wrong tokens.

The tests judge each token by its text, the published keys and a vault.
"""

from __future__ import annotations

import base64
import json

import pytest
import requests
from cryptography.exceptions import InvalidSignature, InvalidTag
from support.azure import jws_parts, open_sealed, verify_jws
from support.azure_vm import Json, unb64u
from support.faults import Broken, setting

from skragent.emulator.service import Response


def published(broken: Broken, token: str) -> bytes | None:
    """Return the published certificate of a token's key."""
    kid = jws_parts(token)[0]["kid"]
    for jwk in broken.ask_maa("/certs").json()["keys"]:
        if jwk["kid"] == kid:
            return base64.b64decode(jwk["x5c"][0])
    return None


def is_signed(broken: Broken, token: str) -> bool:
    """Return whether a published key verifies the signature."""
    certificate = published(broken, token)
    assert certificate is not None
    try:
        verify_jws(token, certificate)
    except InvalidSignature:
        return False
    return True


def claim_of(claims: dict[str, Json], path: str) -> Json:
    value: Json = claims
    for name in path.split("."):
        if isinstance(value, list):
            value = value[int(name)]
        else:
            value = value.get(name) if isinstance(value, dict) else None
    return value


def verdict(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("error", {}).get("message", "")


UNVERIFIED = (403, "Target environment attestation statement cannot be verified.")
UNMET = (
    403,
    "Target environment attestation does not meet key release policy requirements.",
)

CLAIMS = [
    ("iss", "https://evil.test", UNVERIFIED),
    ("jti", "again", (200, "")),
    ("x-ms-ver", "9.0", (200, "")),
    ("x-ms-attestation-type", "sgx", (200, "")),
    ("secureboot", False, (200, "")),
    ("x-ms-isolation-tee.x-ms-attestation-type", "tdxvm", UNMET),
    ("x-ms-isolation-tee.x-ms-compliance-status", "none", UNMET),
    ("x-ms-isolation-tee.x-ms-sevsnpvm-is-debuggable", True, (200, "")),
    ("x-ms-isolation-tee", None, UNMET),
    ("x-ms-runtime.client-payload.nonce", "b3RoZXI=", (200, "")),
    ("x-ms-runtime.client-payload", None, (200, "")),
    (
        "x-ms-runtime.keys",
        [],
        (400, "The attestation token has no key to encrypt to."),
    ),
    (
        "x-ms-runtime.keys.0.kty",
        "EC",
        (400, "The attestation token has no key to encrypt to."),
    ),
    ("exp", None, UNVERIFIED),
    ("x-ms-policy-hash", None, (200, "")),
]


@pytest.mark.parametrize(("claim", "value", "says"), CLAIMS)
def test_claim_is_wrong_and_signed(
    broken: Broken, claim: str, value: Json, says: tuple[int, str]
) -> None:
    broken.break_(f"maa.token.{claim}{setting(value)}")
    token = broken.token()
    assert claim_of(jws_parts(token)[1], claim) == value
    assert is_signed(broken, token)
    assert verdict(broken.release("vault", token=token)) == says


@pytest.mark.parametrize(("claim", "value", "_"), CLAIMS)
def test_claim_that_is_tampered_with_breaks_the_signature(
    broken: Broken, claim: str, value: Json, _: object
) -> None:
    broken.break_(f"maa.tamper.{claim}{setting(value)}")
    token = broken.token()
    assert claim_of(jws_parts(token)[1], claim) == value
    assert not is_signed(broken, token)
    assert verdict(broken.release("vault", token=token)) == UNVERIFIED


def test_claim_may_be_written_without_quotes(broken: Broken) -> None:
    broken.break_("maa.token.iss=https://evil.test")
    assert broken.claims()["iss"] == "https://evil.test"


@pytest.mark.parametrize(
    "fault", ["token.exp=-60", "token.nbf=600", "clock=-36000", "clock=600"]
)
def test_token_out_of_its_time_is_refused_by_the_vault(
    broken: Broken, fault: str
) -> None:
    broken.break_(f"maa.{fault}")
    token = broken.token()
    assert is_signed(broken, token)
    assert verdict(broken.release("vault", token=token)) == UNVERIFIED


@pytest.mark.parametrize(("claim", "seconds"), [("exp", -60), ("nbf", 600)])
def test_times_of_a_token_are_relative_to_now(
    broken: Broken, claim: str, seconds: int
) -> None:
    broken.break_(f"maa.token.{claim}={seconds}")
    claims = broken.claims()
    assert 0 <= claims[claim] - seconds - claims["iat"] <= 1


@pytest.mark.parametrize("value", [True, "soon", float("inf"), [1]])
def test_time_of_another_type_is_used_unchanged(broken: Broken, value: Json) -> None:
    broken.break_(f"maa.token.exp={json.dumps(value)}")
    broken.break_("maa.clock=60")
    assert broken.claims()["exp"] == value


def test_clock_of_the_provider_moves_all_three_times(broken: Broken) -> None:
    before = broken.claims()
    broken.break_("maa.clock=7200")
    claims = broken.claims()
    for name in ("iat", "nbf", "exp"):
        assert 7200 <= claims[name] - before[name] <= 7210


def test_clock_of_all_services_moves_tokens_and_vaults_alike(broken: Broken) -> None:
    before = broken.claims()["iat"]
    broken.break_("azure.clock=86400")
    token = broken.token()
    assert jws_parts(token)[1]["iat"] - before >= 86400
    assert broken.release("vault", token=token).status_code == 200


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("kid", "x"),
        ("jku", "https://evil.test/certs"),
        ("typ", "at+jwt"),
        ("kid", None),
    ],
)
def test_header_member_is_wrong(broken: Broken, member: str, value: str | None) -> None:
    broken.break_(f"maa.header.{member}" + (f"={value}" if value else ""))
    assert jws_parts(broken.token())[0].get(member) == value


@pytest.mark.parametrize(
    ("member", "value"),
    [("kid", "x"), ("alg", "RS512"), ("jku", "https://evil.test/certs"), ("typ", None)],
)
def test_header_member_that_is_tampered_with_breaks_the_signature(
    broken: Broken, member: str, value: str | None
) -> None:
    broken.break_(f"maa.tamper_header.{member}{setting(value)}")
    token = broken.token()
    assert jws_parts(token)[0].get(member) == value
    assert verdict(broken.release("vault", token=token)) == UNVERIFIED


def test_algorithm_of_the_header_is_refused_by_the_vault(broken: Broken) -> None:
    broken.break_("maa.header.alg=HS256")
    assert verdict(broken.release("vault")) == UNVERIFIED


def test_signature_of_the_token_is_wrong(broken: Broken) -> None:
    broken.break_("maa.signature")
    token = broken.token()
    assert not is_signed(broken, token)
    assert verdict(broken.release("vault", token=token)) == UNVERIFIED


def test_unsigned_token_has_the_algorithm_none(broken: Broken) -> None:
    broken.break_("maa.unsigned")
    token = broken.token()
    assert jws_parts(token)[0]["alg"] == "none"
    assert token.endswith(".")
    assert verdict(broken.release("vault", token=token)) == UNVERIFIED


def test_several_faults_of_one_token_do_not_fail(
    broken: Broken,
) -> None:
    for fault in ("unsigned", "signature", "tamper.exp", "token.exp", "clock=1"):
        broken.break_(f"maa.{fault}")
    head, payload = jws_parts(broken.token())
    assert head["alg"] == "none"
    assert "exp" not in payload


def test_unknown_key_is_not_published(broken: Broken) -> None:
    broken.break_("maa.key=unknown")
    token = broken.token()
    assert published(broken, token) is None
    assert verdict(broken.release("vault", token=token)) == UNVERIFIED


def test_forged_key_has_a_published_kid(broken: Broken) -> None:
    broken.break_("maa.key=forged")
    assert not is_signed(broken, broken.token())


@pytest.mark.parametrize(("fault", "status"), [("", 200), ("=drop", 403)])
def test_rotated_key_signs_and_old_ones_stay_or_go(
    broken: Broken, fault: str, status: int
) -> None:
    old = broken.token()
    broken.break_(f"maa.rotate{fault}")
    new = broken.token()
    assert jws_parts(new)[0]["kid"] != jws_parts(old)[0]["kid"]
    assert is_signed(broken, new)
    assert broken.release("vault", token=new).status_code == 200
    assert (published(broken, old) is None) is (status == 403)
    assert broken.release("vault", token=old).status_code == status


def test_stale_key_set_lacks_the_newest_key(broken: Broken) -> None:
    broken.break_("maa.jwks=stale")
    assert published(broken, broken.token()) is None


def test_empty_key_set_has_no_key(broken: Broken) -> None:
    broken.break_("maa.jwks=empty")
    assert broken.ask_maa("/certs").json() == {"keys": []}


@pytest.mark.parametrize("member", ["Jwt", "Iv", "AuthenticationData"])
def test_sealed_response_cannot_be_decrypted(broken: Broken, member: str) -> None:
    broken.break_(f"maa.sealed={member}")
    answer = broken.attest()
    with pytest.raises(InvalidTag):
        open_sealed(Response(answer.status_code, answer.content))


def test_inner_key_of_the_sealed_response_is_wrong(broken: Broken) -> None:
    broken.break_("maa.sealed=EncryptedInnerKey")
    answer = broken.attest()
    # OpenSSL answers bad padding with random bytes: InvalidTag, or another size.
    with pytest.raises((InvalidTag, ValueError)):
        open_sealed(Response(answer.status_code, answer.content))


def test_times_limits_the_fault_to_the_first_token(broken: Broken) -> None:
    broken.break_("maa.signature,times=1")
    assert [is_signed(broken, broken.token()) for _ in range(2)] == [False, True]


def test_reset_ends_every_fault_of_the_tokens(broken: Broken) -> None:
    for fault in ("signature", "token.iss=x", "key=unknown", "sealed=Jwt", "clock=9"):
        broken.break_(f"maa.{fault}")
    broken.reset()
    token = broken.token()
    assert is_signed(broken, token)
    assert broken.release("vault", token=token).status_code == 200


def test_sealed_response_keeps_its_other_members(broken: Broken) -> None:
    broken.break_("maa.sealed=Iv")
    members = json.loads(unb64u(broken.attest().json()["token"]))
    assert members["EncryptionParams"]["BlockMode"] == "ChainingModeGCM"
