"""Faults of the emulated vaults, in both dialects."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from support.azure import API, jws_parts, unwrap, verify_jws
from support.azure_vm import Json, rsa_key, unb64u
from support.deadlines import DEADLINE_SECONDS
from support.faults import Broken, breakable, setting

from skragent.emulator.addresses import VaultPlan
from skragent.emulator.azure import Settings
from skragent.emulator.faults.grammar import FaultError
from skragent.emulator.keyvault.key_specs import parse_key_spec

BOTH = pytest.mark.parametrize("service", ["vault", "hsm"])


def refusal(answer: requests.Response) -> tuple[int, str, str]:
    error = answer.json().get("error", {})
    inner = error.get("innererror", {}).get("code", "")
    return answer.status_code, error.get("code", ""), inner


DISABLED = (403, "Forbidden", "KeyDisabled")
GONE = (404, "KeyNotFound", "")
DENIED = (403, "Forbidden", "AccessDenied")
NO_ROLE = (403, "no role", "")  # each service has its own text
NO_ROLE_OF = {"vault": DENIED, "hsm": (403, "AccessDenied", "")}

REFUSALS = [
    ("key.disabled", DISABLED),
    ("key.disabled=rsa", DISABLED),
    ("key.disabled=RSA", DISABLED),
    ("key.disabled=other", (200, "", "")),
    ("key.deleted", GONE),
    ("key.deleted=rsa", GONE),
    ("key.deleted=other", (200, "", "")),
    ("key.expired", (200, "", "")),
    ("key.early", (200, "", "")),
    ("key.policy", DENIED),
    ("key.policy=rsa", DENIED),
    ("key.policy=other", (200, "", "")),
    ("role.revoked", NO_ROLE),
    ("role.revoked=release", NO_ROLE),
    ("role.revoked=get", (200, "", "")),
    ("firewall", (403, "Forbidden", "ForbiddenByFirewall")),
    ("private", (403, "Forbidden", "ForbiddenByConnection")),
    ("unverified", DENIED),
    ("unauthorized", (401, "Unauthorized", "")),
]


@BOTH
@pytest.mark.parametrize(("fault", "says"), REFUSALS)
def test_release_gets_the_response_of_the_fault(
    broken: Broken, service: str, fault: str, says: tuple[int, str, str]
) -> None:
    broken.break_(f"{service}.{fault}")
    expected = NO_ROLE_OF[service] if says == NO_ROLE else says
    assert refusal(broken.release(service)) == expected
    other = "hsm" if service == "vault" else "vault"
    assert broken.release(other).status_code == 200


@BOTH
@pytest.mark.parametrize("fault", [fault for fault, _ in REFUSALS])
def test_reset_ends_the_fault(broken: Broken, service: str, fault: str) -> None:
    before = broken.ask_vault(service, "GET", "/keys/rsa").json()
    broken.break_(f"{service}.{fault}")
    broken.reset()
    assert broken.release(service).status_code == 200
    assert broken.ask_vault(service, "GET", "/keys/rsa").json() == before


@BOTH
def test_faults_of_two_keys_are_active_at_once(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.key.disabled=rsa")
    broken.break_(f"{service}.key.deleted=other")
    assert refusal(broken.release(service, "rsa")) == DISABLED
    assert refusal(broken.release(service, "other")) == GONE


@BOTH
@pytest.mark.parametrize(
    ("fault", "name", "side"), [("expired", "exp", -1), ("early", "nbf", 1)]
)
def test_times_of_a_key_are_in_its_release(
    broken: Broken, service: str, fault: str, name: str, side: int
) -> None:
    broken.break_(f"{service}.key.{fault}=rsa")
    _, payload = jws_parts(broken.released(service))
    now = broken.emulator.azure.clock.now()
    assert (payload["response"]["key"]["attributes"][name] - now) * side > 30


@BOTH
def test_deleted_key_is_not_listed(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.key.deleted=other")
    keys = broken.ask_vault(service, "GET", "/keys").json()["value"]
    assert [key["kid"].rpartition("/")[2] for key in keys] == ["rsa"]


@BOTH
@pytest.mark.parametrize(
    ("spec", "members"),
    [
        ("rotating-rsa:RSA-3072", ("kty", "e")),
        ("rotating-ec:P-384", ("kty", "crv")),
        ("rotating-oct:oct-192", ("kty",)),
    ],
)
def test_rotated_key_has_a_new_version_of_its_kind(
    broken: Broken, service: str, spec: str, members: tuple[str, ...]
) -> None:
    broken.emulator.create_key(parse_key_spec(spec), broken.vault(service))
    name = spec.partition(":")[0]
    bundles, sizes = [], []
    for _ in range(2):
        bundle = broken.ask_vault(service, "GET", f"/keys/{name}").json()["key"]
        released = broken.release(service, name).json()["value"]
        bundles.append(bundle)
        sizes.append(len(target_of(released)))
        broken.break_(f"{service}.key.rotated={name}")
    old, new = bundles
    assert old["kid"] != new["kid"]
    assert [old[m] for m in members] == [new[m] for m in members]
    assert abs(sizes[0] - sizes[1]) <= 8  # DER has some numbers a byte shorter
    broken.reset()
    version = new["kid"].rpartition("/")[2]
    assert broken.ask_vault(service, "GET", f"/keys/{name}/{version}").ok
    broken.vault(service).store.delete(name)


@pytest.mark.parametrize(
    "effect", ["rotated", "disabled", "expired", "early", "deleted", "policy"]
)
def test_fault_of_a_missing_key_is_refused(broken: Broken, effect: str) -> None:
    with pytest.raises(FaultError, match="has no key `none`; it has other, rsa"):
        broken.break_(f"vault.key.{effect}=none")
    assert broken.emulator.faults.applied == []


def test_rotation_keeps_changes_made_during_key_generation(
    broken: Broken,
) -> None:
    broken.emulator.create_key(parse_key_spec("busy:RSA"))

    async def change_meanwhile() -> None:
        rotation = asyncio.create_task(
            broken.emulator.faults.apply("vault.key.rotated=busy")
        )
        await asyncio.sleep(0)  # it is making the key
        broken.emulator.create_key(parse_key_spec("busy:oct"))
        await rotation

    broken.thread.call(change_meanwhile())
    store = broken.vault("vault").store
    key = store.find("busy")
    assert key
    assert [version.kty for version in key.versions] == ["RSA", "oct", "RSA"]
    store.delete("busy")


def test_fault_of_a_missing_vault_is_refused(tmp_path: Path) -> None:
    settings = Settings(vaults=(VaultPlan("only"),))
    with breakable(tmp_path, settings) as broken:
        with pytest.raises(FaultError, match="does not have the service hsm"):
            broken.break_("hsm.hang")
        assert broken.emulator.faults.applied == []


@BOTH
def test_update_does_not_store_a_fault(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.key.disabled=rsa")
    broken.ask_vault(service, "PATCH", "/keys/rsa", {"tags": {"a": "b"}})
    broken.reset()
    assert broken.release(service).status_code == 200


@pytest.mark.parametrize(
    ("service", "fault", "words"),
    [
        ("vault", "role.revoked", "does not have keys release permission on key vault"),
        ("hsm", "role.revoked", "managedHsm/keys/release/action on '/keys/rsa'"),
        ("vault", "unverified", "attestation statement cannot be verified."),
        ("vault", "key.policy", "does not meet key release policy requirements."),
        ("vault", "firewall", "caller is not a trusted service"),
    ],
)
def test_refusal_has_the_text_of_its_dialect(
    broken: Broken, service: str, fault: str, words: str
) -> None:
    broken.break_(f"{service}.{fault}")
    assert words in broken.release(service).json()["error"]["message"]


def test_rbac_denies_with_its_own_text(broken: Broken) -> None:
    broken.break_("vault.rbac")
    broken.break_("vault.role.revoked")
    assert refusal(broken.release("vault")) == (403, "Forbidden", "ForbiddenByRbac")


def test_reset_restores_access_policies(broken: Broken) -> None:
    broken.break_("vault.rbac")
    broken.reset()
    broken.break_("vault.role.revoked")
    assert refusal(broken.release("vault")) == DENIED


@BOTH
def test_access_token_that_is_refused_is_challenged_again(
    broken: Broken, service: str
) -> None:
    broken.break_(f"{service}.unauthorized")
    challenge = broken.release(service).headers["WWW-Authenticate"]
    assert challenge.endswith(f'resource="{broken.vault(service).resource}"')


@BOTH
def test_eleventh_release_at_once_is_throttled(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.throttle")
    token = broken.token()
    answers = [broken.release(service, token=token) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert answers[-1].json()["error"]["code"] == "Throttled"
    assert "Retry-After" not in answers[-1].headers


@BOTH
def test_throttle_counts_only_releases_and_creations(
    broken: Broken, service: str
) -> None:
    broken.break_(f"{service}.throttle=1,retry_after=7")
    url = f"{broken.vault(service).url}/keys/rsa/release{API}"
    assert broken.session.post(url, timeout=DEADLINE_SECONDS).status_code == 401
    assert broken.ask_vault(service, "GET", "/keys/rsa").status_code == 200
    assert broken.ask_vault(service, "GET", "/keys/release").status_code == 404
    assert broken.release(service).status_code == 200
    assert broken.ask_vault(service, "GET", "/keys/rsa").status_code == 200
    throttled = broken.release(service)
    assert (throttled.status_code, throttled.headers["Retry-After"]) == (429, "7")


def target_of(jws: str) -> bytes:
    """Unwrap a released key with the token's wrapping key."""
    _, payload = jws_parts(jws)
    key_hsm = json.loads(unb64u(payload["response"]["key"]["key"]["key_hsm"]))
    ciphertext = unb64u(key_hsm["ciphertext"])
    return unwrap(ciphertext, rsa_key("wrapping"), hashes.SHA256())


def opened(jws: str) -> rsa.RSAPrivateKey:
    key = load_der_private_key(target_of(jws), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def leaf_of(jws: str) -> bytes:
    return base64.b64decode(jws_parts(jws)[0]["x5c"][0])


@BOTH
@pytest.mark.parametrize("fault", ["release.signature", "release.signer=forged"])
def test_signature_of_a_release_does_not_hold(
    broken: Broken, service: str, fault: str
) -> None:
    broken.break_(f"{service}.{fault}")
    jws = broken.released(service)
    with pytest.raises(InvalidSignature):
        verify_jws(jws, leaf_of(jws))


@BOTH
def test_release_may_be_signed_by_another_host(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.release.signer=another_host")
    jws = broken.released(service)
    verify_jws(jws, leaf_of(jws))
    leaf = x509.load_der_x509_certificate(leaf_of(jws))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["another.vault.azure.net"]
    assert not names.get_values_for_type(x509.IPAddress)


@BOTH
def test_release_wrapped_to_another_key_does_not_open(
    broken: Broken, service: str
) -> None:
    broken.break_(f"{service}.release.wrapping_key")
    jws = broken.released(service)
    with pytest.raises(ValueError, match=r"[Dd]ecryption"):
        opened(jws)


@BOTH
def test_swapped_key_unwraps_but_does_not_match_the_signed_key(
    broken: Broken, service: str
) -> None:
    broken.break_(f"{service}.release.swapped")
    jws = broken.released(service)
    signed = jws_parts(jws)[1]["response"]["key"]["key"]["n"]
    inside = opened(jws).public_key().public_numbers().n
    assert inside != int.from_bytes(unb64u(signed))


@BOTH
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("request.nonce", "another"),
        ("request.nonce", None),
        ("request.enc", "CKM_RSA_AES_KEY_WRAP"),
        ("request.kid", "https://evil.test/keys/rsa"),
        ("response.key.key.kid", "https://evil.test/keys/rsa/0"),
        ("response.key.key.kty", "EC-HSM"),
        ("response.key.key.key_hsm", None),
        ("response.key.attributes.enabled", False),
        ("response.key", []),
    ],
)
def test_payload_of_a_release_is_wrong_and_signed(
    broken: Broken, service: str, member: str, value: Json
) -> None:
    broken.break_(f"{service}.release.payload.{member}{setting(value)}")
    jws = broken.released(service)
    verify_jws(jws, leaf_of(jws))
    node: Any = jws_parts(jws)[1]
    for name in member.split("."):
        node = node.get(name)
    assert node == value


@BOTH
@pytest.mark.parametrize(
    ("member", "value"), [("kid", "x"), ("alg", "HS256"), ("x5c", None), ("x5c", [])]
)
def test_header_of_a_release_is_wrong(
    broken: Broken, service: str, member: str, value: Json
) -> None:
    broken.break_(f"{service}.release.header.{member}{setting(value)}")
    assert jws_parts(broken.released(service))[0].get(member) == value


@BOTH
@pytest.mark.parametrize(
    ("member", "value"),
    [("header.kid", "x"), ("header.enc", "none"), ("ciphertext", "AAAA")],
)
def test_member_of_key_hsm_is_wrong(
    broken: Broken, service: str, member: str, value: str
) -> None:
    broken.break_(f"{service}.release.key_hsm.{member}={value}")
    key = jws_parts(broken.released(service))[1]["response"]["key"]["key"]
    node = json.loads(unb64u(key["key_hsm"]))
    for name in member.split("."):
        node = node[name]
    assert node == value


@BOTH
def test_release_is_valid_after_the_reset(broken: Broken, service: str) -> None:
    for fault in (
        "signature",
        "signer=another_host",
        "swapped",
        "payload.request.nonce",
    ):
        broken.break_(f"{service}.release.{fault}")
    broken.reset()
    jws = broken.released(service)
    verify_jws(jws, leaf_of(jws))
    _, payload = jws_parts(jws)
    assert payload["request"]["nonce"] == "nonce1"
    signed = int.from_bytes(unb64u(payload["response"]["key"]["key"]["n"]))
    assert opened(jws).public_key().public_numbers().n == signed
