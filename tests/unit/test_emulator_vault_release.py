"""Release by the emulated vaults: wrapping, both dialects, paths, kinds of keys."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from support.azure import (
    API,
    HSM,
    VAULT,
    World,
    attest_guest,
    jws_parts,
    open_sealed,
    unwrap,
    verify_jws,
)
from support.azure_vm import (
    Json,
    SoftwareVm,
    b64u,
    rsa_key,
    unb64u,
)

if TYPE_CHECKING:
    pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("azure"))
    for vault in (world.vault, world.hsm):
        world.create(vault, "rsa")
    return world


def _wrapped(payload: Json) -> Json:
    return json.loads(unb64u(payload["response"]["key"]["key"]["key_hsm"]))


@pytest.mark.parametrize(
    ("enc", "algorithm"),
    [
        (None, hashes.SHA1()),
        ("CKM_RSA_AES_KEY_WRAP", hashes.SHA1()),
        ("RSA_AES_KEY_WRAP_256", hashes.SHA256()),
        ("RSA_AES_KEY_WRAP_384", hashes.SHA384()),
    ],
)
def test_each_enc_unwraps_to_the_private_key_of_the_signed_public_part(
    world: World, enc: str | None, algorithm: hashes.HashAlgorithm
) -> None:
    body = {} if enc is None else {"enc": enc}
    _, payload = world.released(world.vault, "/keys/rsa/release", **body)
    envelope = _wrapped(payload)
    target = unwrap(unb64u(envelope["ciphertext"]), rsa_key("wrapping"), algorithm)
    key = load_der_private_key(target, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    modulus = key.public_key().public_numbers().n
    assert payload["response"]["key"]["key"]["n"] == b64u(modulus.to_bytes(256, "big"))
    assert payload["request"]["enc"] == (enc or "CKM_RSA_AES_KEY_WRAP")
    assert envelope["header"]["enc"] == payload["request"]["enc"]
    assert envelope["header"]["kid"] == "TpmEphemeralEncryptionKey"


def test_vault_dialect_has_the_recorded_members_in_their_order(world: World) -> None:
    header, payload = world.released(world.vault, "/keys/rsa/release", nonce="n1")
    assert list(header) == ["alg", "kid", "x5t", "typ", "x5t#S256", "x5c"]
    assert header["kid"] == unb64u(header["x5t"]).hex().upper()
    assert list(payload["request"]) == ["api-version", "enc", "kid", "nonce"]
    assert payload["request"]["kid"] == f"{VAULT}/keys/rsa"
    assert payload["request"]["nonce"] == "n1"
    released = payload["response"]["key"]
    assert list(released) == ["key", "attributes", "release_policy"]
    assert list(released["key"]) == ["kid", "kty", "key_ops", "n", "e", "key_hsm"]
    assert (released["key"]["kty"], released["key"]["e"]) == ("RSA-HSM", "AAEAAQ")
    assert list(released["release_policy"]) == ["data", "immutable"]
    assert list(_wrapped(payload)) == ["schema_version", "header", "ciphertext"]


def test_hsm_dialect_has_the_recorded_members_in_their_order(world: World) -> None:
    header, payload = world.released(world.hsm, "/keys/rsa/release")
    assert list(header) == ["alg", "kid", "x5c", "x5t#S256"]
    assert header["kid"] == header["x5t#S256"]
    assert payload["request"]["kid"] == f"{HSM}/keys/rsa"
    released = payload["response"]["key"]
    assert list(released) == ["attributes", "key", "release_policy"]
    assert (released["key"]["kty"], released["key"]["e"]) == ("RSA", "AQAB")
    assert list(released["release_policy"]) == ["contentType", "data", "immutable"]
    assert list(_wrapped(payload)) == ["ciphertext", "header", "schema_version"]


def test_release_is_signed_by_the_leaf_of_a_chain_that_ends_with_the_root(
    world: World,
) -> None:
    answer = world.release(world.vault, "/keys/rsa/release")
    token = json.loads(answer.body)["value"]
    chain = jws_parts(token)[0]["x5c"]
    verify_jws(token, base64.b64decode(chain[0]))
    assert len(chain) == 3
    root = base64.b64decode(chain[2])
    assert root == world.azure.pki.root.public_bytes(Encoding.DER)


def test_three_spellings_of_the_path_release_the_same_version(world: World) -> None:
    version = world.version("rsa")
    kids = [
        world.released(world.vault, path)[1]["response"]["key"]["key"]["kid"]
        for path in (
            "/keys/rsa/release",
            "/keys/rsa//release",
            f"/keys/rsa/{version}/release",
        )
    ]
    assert kids == [f"{VAULT}/keys/rsa/{version}"] * 3


def test_request_names_the_version_when_asked_with_one(world: World) -> None:
    version = world.version("rsa")
    _, payload = world.released(world.vault, f"/keys/rsa/{version}/release")
    assert payload["request"]["kid"] == f"{VAULT}/keys/rsa/{version}"


def test_older_versions_stay_releasable(world: World) -> None:
    old = world.create(world.vault, "twice")["key"]["kid"]
    new = world.create(world.vault, "twice")["key"]["kid"]
    path = old.removeprefix(VAULT) + "/release"
    _, payload = world.released(world.vault, path)
    assert payload["response"]["key"]["key"]["kid"] == old
    _, payload = world.released(world.vault, "/keys/twice/release")
    assert payload["response"]["key"]["key"]["kid"] == new


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521", "P-256K"])
def test_ec_keys_are_released_as_pkcs8(world: World, curve: str) -> None:
    world.create(world.vault, f"ec-{curve}", kty="EC-HSM", crv=curve)
    _, payload = world.released(world.vault, f"/keys/ec-{curve}/release")
    jwk = payload["response"]["key"]["key"]
    assert (jwk["kty"], jwk["crv"]) == ("EC-HSM", curve)
    ciphertext = unb64u(_wrapped(payload)["ciphertext"])
    target = unwrap(ciphertext, rsa_key("wrapping"), hashes.SHA1())
    key = load_der_private_key(target, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key().public_numbers().x == int.from_bytes(unb64u(jwk["x"]))


def test_oct_keys_are_released_raw(world: World) -> None:
    key = {"kty": "oct", "k": b64u(bytes(range(32)))}
    policy = {"data": b64u(json.dumps(world.azure.cvm_policy()).encode())}
    body = {
        "key": key,
        "hsm": True,
        "attributes": {"exportable": True},
        "release_policy": policy,
    }
    assert world.ask(world.hsm, "PUT", f"/keys/oct{API}", body).status == 200
    _, payload = world.released(world.hsm, "/keys/oct/release")
    jwk = payload["response"]["key"]["key"]
    assert set(jwk) == {"kid", "kty", "key_ops", "key_hsm"}
    ciphertext = unb64u(_wrapped(payload)["ciphertext"])
    target = unwrap(ciphertext, rsa_key("wrapping"), hashes.SHA1())
    assert target == bytes(range(32))


def test_first_suitable_key_of_the_token_wins(world: World) -> None:
    numbers = rsa_key("foreign").public_key().public_numbers()
    foreign = {
        "kty": "RSA",
        "kid": "foreign",
        "key_ops": "encrypt",
        "n": b64u(numbers.n.to_bytes(256, "big")),
        "e": "AQAB",
    }
    unsuitable = [{"kty": "EC", "kid": "x", "use": "enc"}, {"kty": "RSA", "kid": "y"}]

    def put_first(claims: dict[str, Any]) -> dict[str, Any]:
        claims["x-ms-runtime"]["keys"][:0] = [*unsuitable, foreign]
        return claims

    world.azure.maa.mutate("claims", put_first)
    info = SoftwareVm().attestation_info()
    token = open_sealed(attest_guest(world.azure, info))
    world.azure.clear_hooks()
    _, payload = world.released(world.vault, "/keys/rsa/release", target=token)
    envelope = _wrapped(payload)
    assert envelope["header"]["kid"] == "foreign"
    unwrap(unb64u(envelope["ciphertext"]), rsa_key("foreign"), hashes.SHA1())
