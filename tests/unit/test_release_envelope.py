"""Only a completely verified release gives a wrapped key."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from support.release import (
    KID,
    VAULT,
    VERSION,
    WRAPPING_KID,
    Release,
)
from support.release_pki import (
    DAY,
    NOW,
    b64url,
    ec_key,
    intermediate_certificate,
    make_certificate,
    root_certificate,
    rsa_key,
    vault_certificate,
    x5c,
)

from skragent.errors import Disposition, MalformedReleaseError
from skragent.release.envelope import ReleaseRequest, WrappedKey, verify_release

NONCE = "b nonce"


def make_question(**changes: str) -> ReleaseRequest:
    request = ReleaseRequest(
        vault=VAULT,
        name="mykey",
        version="",
        enc="RSA_AES_KEY_WRAP_256",
        nonce=NONCE,
        wrapping_key_id=WRAPPING_KID,
    )
    parts: dict[str, Any] = dict(changes)
    return dataclasses.replace(request, **parts)


def verify(
    raw: str,
    *,
    roots: tuple[x509.Certificate, ...] | None = None,
    days: float = 0,
    **changes: str,
) -> WrappedKey:
    return verify_release(
        raw,
        make_question(**changes),
        now=NOW + timedelta(days=days),
        roots=(root_certificate(),) if roots is None else roots,
    )


def refusal(raw: str, **changes: Any) -> str:  # noqa: ANN401 - what verify takes
    with pytest.raises(MalformedReleaseError) as caught:
        verify(raw, **changes)
    assert caught.value.disposition is Disposition.REATTEST
    return caught.value.code


@pytest.fixture
def release() -> Release:
    return Release(rsa_key("released"))


@pytest.mark.parametrize("is_hsm", [False, True])
def test_both_dialects_are_read(*, is_hsm: bool) -> None:
    release = Release(rsa_key("released"), is_hsm=is_hsm)
    wrapped = verify(release.encode())
    assert (wrapped.kid, wrapped.version, wrapped.kty) == (KID, VERSION, "RSA")
    assert wrapped.public == rsa_key("released").public_key().public_numbers()
    assert wrapped.enc == "RSA_AES_KEY_WRAP_256"
    assert wrapped.ciphertext == release.ciphertext
    assert wrapped.enabled


@pytest.mark.parametrize("is_hsm", [False, True])
@pytest.mark.parametrize(
    "curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1, ec.SECP256K1]
)
def test_every_curve_is_read(curve: type[ec.EllipticCurve], *, is_hsm: bool) -> None:
    key = ec_key("released", curve)
    wrapped = verify(Release(key, is_hsm=is_hsm).encode())
    assert wrapped.kty == "EC"
    assert wrapped.public == key.public_key().public_numbers()


@pytest.mark.parametrize("is_hsm", [False, True])
def test_oct_keys_are_read(*, is_hsm: bool) -> None:
    wrapped = verify(Release(bytes(32), is_hsm=is_hsm).encode())
    assert (wrapped.kty, wrapped.public) == ("oct", None)


@pytest.mark.parametrize(
    "enc", ["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"]
)
def test_every_enc_is_read_when_it_was_asked_for(enc: str) -> None:
    assert verify(Release(bytes(32), enc=enc).encode(), enc=enc).enc == enc


def test_attributes_are_returned(release: Release) -> None:
    release.attributes = {"enabled": False, "nbf": 1, "exp": 2, "key_size": 2048}
    wrapped = verify(release.encode())
    assert (wrapped.enabled, wrapped.not_before, wrapped.expires) == (False, 1, 2)


@pytest.mark.parametrize("attributes", [None, {}])
def test_missing_attributes_impose_no_restriction(
    release: Release, attributes: dict[str, Any] | None
) -> None:
    release.attributes = attributes
    wrapped = verify(release.encode())
    assert (wrapped.enabled, wrapped.not_before, wrapped.expires) == (True, None, None)


def test_version_asked_for_is_accepted(release: Release) -> None:
    release.request["kid"] = KID
    assert verify(release.encode(), version=VERSION).version == VERSION


def test_versionless_echo_of_a_versioned_request_is_accepted(release: Release) -> None:
    assert verify(release.encode(), version=VERSION).version == VERSION


def test_name_in_another_case_is_the_same_key(release: Release) -> None:
    assert verify(release.encode(), name="MyKey")


def test_nonce_brought_back_is_accepted(release: Release) -> None:
    release.request["nonce"] = NONCE
    assert verify(release.encode())


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS512", "PS256"])
def test_algorithm_other_than_rs256_is_refused(
    release: Release, algorithm: str
) -> None:
    release.header["alg"] = algorithm
    assert refusal(release.encode()) == "release.malformed"


def test_signature_of_another_key_is_refused(release: Release) -> None:
    release.signer = "other"
    assert refusal(release.encode()) == "release.signature"


def test_certificate_for_an_ec_key_is_refused(release: Release) -> None:
    issuer = ("Test Intermediate", rsa_key("intermediate"))
    leaf = make_certificate(
        "v", ec_key("v", ec.SECP256R1), issuer, hosts=("*.vault.azure.net",)
    )
    release.header["x5c"] = x5c(leaf, intermediate_certificate())
    assert refusal(release.encode()) == "release.signature"


@pytest.mark.parametrize("entries", [[], ["?"], [b64url(b"no certificate")]])
def test_chain_that_cannot_be_read_is_refused(
    release: Release, entries: list[str]
) -> None:
    release.header["x5c"] = entries
    assert refusal(release.encode()) == "release.malformed"


def test_chain_beyond_the_limit_is_refused(release: Release) -> None:
    release.header["x5c"] = release.header["x5c"] * 3
    assert refusal(release.encode()) == "release.malformed"


def test_root_need_not_be_in_the_chain(release: Release) -> None:
    release.header["x5c"].pop()
    assert verify(release.encode())


def test_chain_without_its_intermediate_is_refused(release: Release) -> None:
    release.header["x5c"] = x5c(vault_certificate())
    assert refusal(release.encode()) == "release.chain"


def test_chain_to_another_root_is_refused(release: Release) -> None:
    stranger = make_certificate("Test Root", rsa_key("other"))
    assert refusal(release.encode(), roots=(stranger,)) == "release.chain"


def test_no_roots_verify_nothing(release: Release) -> None:
    assert refusal(release.encode(), roots=()) == "release.chain"


def test_expired_certificate_is_refused(release: Release) -> None:
    leaf = vault_certificate("*.vault.azure.net", ends=NOW - timedelta(hours=1))
    release.header["x5c"] = x5c(leaf, intermediate_certificate())
    assert refusal(release.encode()) == "release.chain"


def test_certificate_from_the_future_is_refused(release: Release) -> None:
    leaf = vault_certificate("*.vault.azure.net", begins=NOW + DAY)
    release.header["x5c"] = x5c(leaf, intermediate_certificate())
    assert refusal(release.encode()) == "release.chain"


def test_certificates_are_judged_at_now(release: Release) -> None:
    assert refusal(release.encode(), days=31) == "release.chain"


def test_certificate_of_another_host_is_refused(release: Release) -> None:
    leaf = vault_certificate("*.evil.example")
    release.header["x5c"] = x5c(leaf, intermediate_certificate())
    assert refusal(release.encode()) == "release.host"


def test_wildcard_covers_one_label_only(release: Release) -> None:
    vault = "https://a.b.vault.azure.net"
    assert refusal(release.encode(), vault=vault) == "release.host"


def test_enc_other_than_asked_for_is_refused() -> None:
    raw = Release(bytes(32), enc="CKM_RSA_AES_KEY_WRAP").encode()
    assert refusal(raw) == "release.mismatch"


def test_unknown_enc_is_refused(release: Release) -> None:
    release.request["enc"] = "RSA1_5"
    assert refusal(release.encode()) == "release.malformed"


def test_wrapped_key_with_another_enc_is_refused(release: Release) -> None:
    release.key_hsm["header"]["enc"] = "CKM_RSA_AES_KEY_WRAP"
    assert refusal(release.encode()) == "release.mismatch"


def test_key_wrapped_to_another_key_is_refused(release: Release) -> None:
    release.key_hsm["header"]["kid"] = "HCLAkPub"
    assert refusal(release.encode()) == "release.mismatch"


def test_nonce_other_than_ours_is_refused(release: Release) -> None:
    release.request["nonce"] = "another"
    assert refusal(release.encode()) == "release.mismatch"


@pytest.mark.parametrize(
    "kid",
    [
        f"https://evil.vault.azure.net/keys/mykey/{VERSION}",
        f"https://myvault.vault.azure.net:8443/keys/mykey/{VERSION}",
        f"http://myvault.vault.azure.net/keys/mykey/{VERSION}",
        f"{VAULT}/keys/other/{VERSION}",
        f"{VAULT}/secrets/mykey/{VERSION}",
        f"{VAULT}/keys/mykey",
        f"{VAULT}/keys/mykey/",
    ],
)
def test_id_of_another_key_is_refused(release: Release, kid: str) -> None:
    release.jwk["kid"] = kid
    assert refusal(release.encode()) == "release.mismatch"


@pytest.mark.parametrize(
    "kid", [f"{VAULT}/keys/other", "https://evil.vault.azure.net/keys/mykey"]
)
def test_answer_to_another_request_is_refused(release: Release, kid: str) -> None:
    release.request["kid"] = kid
    assert refusal(release.encode()) == "release.mismatch"


def test_version_other_than_asked_for_is_refused(release: Release) -> None:
    assert refusal(release.encode(), version="f" * 32) == "release.mismatch"


def test_echo_of_another_version_is_refused(release: Release) -> None:
    release.request["kid"] = f"{VAULT}/keys/mykey/{'f' * 32}"
    assert refusal(release.encode(), version=VERSION) == "release.mismatch"


@pytest.mark.parametrize(
    "kid",
    [
        f"{VAULT}/keys/\tmykey/{VERSION}",
        f"{VAULT}/\r\nkeys/mykey/{VERSION}\n",
        f" \x1b\x00{VAULT}/keys/mykey/{VERSION}",
        f"{VAULT}/keys/mykey/{VERSION} ",
        f"{VAULT}/keys/mykey/\u017f{VERSION}",
        VAULT.replace("://", ":/" + "\t" * 9000 + "/") + f"/keys/mykey/{VERSION}",
        f"{VAULT}/{'x' * 600}/keys/mykey/{VERSION}",
    ],
)
@pytest.mark.parametrize("place", ["request", "jwk"])
def test_id_that_is_not_a_short_printable_text_is_refused(
    release: Release, kid: str, place: str
) -> None:
    getattr(release, place)["kid"] = kid
    assert refusal(release.encode()) == "release.malformed"


def test_id_with_an_impossible_port_is_refused(release: Release) -> None:
    release.jwk["kid"] = f"{VAULT}:port/keys/mykey/{VERSION}"
    assert refusal(release.encode()) == "release.malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "OKP"},
        {"n": ""},
        {"n": "?"},
        {"e": b64url(bytes(1025))},
        {"kty": "EC", "crv": "P-224", "x": "AA", "y": "AA"},
    ],
)
def test_public_part_that_cannot_be_read_is_refused(
    release: Release, change: dict[str, str]
) -> None:
    release.jwk |= change
    assert refusal(release.encode()) == "release.malformed"


@pytest.mark.parametrize("ciphertext", ["?", b64url(bytes(64 * 1024 + 1)), 1, "AA=="])
def test_ciphertext_that_cannot_be_read_is_refused(
    release: Release, ciphertext: object
) -> None:
    release.key_hsm["ciphertext"] = ciphertext
    assert refusal(release.encode()) == "release.malformed"


@pytest.mark.parametrize("text", ["", "a.b.c", "no jws", "A" * (512 * 1024 + 1)])
def test_malformed_release_is_refused(text: str) -> None:
    assert refusal(text) == "release.malformed"
