"""Only a completely verified text becomes an attestation token."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.odd_certificates import with_version
from support.release import (
    ISSUER,
    NONCE,
    WRAPPING_KID,
    key_set,
    make_token,
    public_jwk,
    runtime,
    signing_certificate,
    token_claims,
    wrapping_key,
)
from support.release_pki import (
    NOW,
    b64,
    b64url,
    ec_key,
    make_certificate,
    rsa_key,
    x5c,
)

from skragent.attestation.token import (
    CLOCK_SKEW,
    AttestationToken,
    parse_signing_keys,
    resume_token,
    verify_token,
)
from skragent.errors import Disposition, InvalidTokenError, TokenExpiredError
from skragent.evidence.tpm_public import RsaPublic


def verify(raw: str, **changes: object) -> AttestationToken:
    numbers = wrapping_key().public_key().public_numbers()
    arguments: dict[str, Any] = {
        "signing_keys": parse_signing_keys(key_set()),
        "issuer": ISSUER,
        "now": NOW,
        "nonce": NONCE,
        "wrapping_key": RsaPublic(numbers.n, numbers.e),
    }
    arguments |= changes
    return verify_token(raw, **arguments)


def refusal(raw: str, **changes: object) -> str:
    with pytest.raises((InvalidTokenError, TokenExpiredError)) as caught:
        verify(raw, **changes)
    return caught.value.code


def our_jwk(**members: object) -> dict[str, Any]:
    return public_jwk(wrapping_key(), WRAPPING_KID, **members)


def foreign_jwk(**members: object) -> dict[str, Any]:
    return public_jwk(rsa_key("foreign"), "foreign", **members)


def test_valid_token_gives_what_was_verified() -> None:
    raw = make_token()
    token = verify(raw)
    assert token.raw == raw
    assert token.issuer == ISSUER
    assert token.issued_at == NOW
    assert token.expires_at == NOW + timedelta(hours=8)
    assert token.wrapping_key_id == WRAPPING_KID
    status = token.text_claim("x-ms-isolation-tee", "x-ms-compliance-status")
    assert status == "azure-compliant-cvm"


def test_token_is_made_by_verify_token_only() -> None:
    with pytest.raises(TypeError):
        AttestationToken("raw", ISSUER, NOW, NOW, "kid", {}, object())


def test_token_does_not_show_its_text() -> None:
    raw = make_token()
    assert raw.split(".")[1][:20] not in repr(verify(raw))


def test_claim_that_is_not_a_text_reads_as_empty() -> None:
    token = verify(make_token())
    assert token.text_claim("secureboot") == ""
    assert token.text_claim("iss", "deeper") == ""


def test_trailing_slash_of_the_configured_endpoint_does_not_matter() -> None:
    assert verify(make_token(), issuer=f"{ISSUER}/").issuer == ISSUER


@pytest.mark.parametrize("kid", ["unpublished", ""])
def test_unknown_kid_is_tried_with_every_key(kid: str) -> None:
    keys = parse_signing_keys(key_set("other", "maa"))
    assert verify(make_token(kid=kid), signing_keys=keys).raw


def test_known_kid_is_tried_with_no_other_key() -> None:
    keys = parse_signing_keys(key_set("other", "maa"))
    assert refusal(make_token(kid="other"), signing_keys=keys) == "token.signature"


def test_signature_of_another_provider_is_refused() -> None:
    assert refusal(make_token(signer="other")) == "token.signature"


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS512", "PS256", "rs256"])
def test_algorithm_other_than_rs256_is_refused(algorithm: str) -> None:
    assert refusal(make_token(alg=algorithm)) == "token.invalid"


def test_unsigned_token_is_refused() -> None:
    assert refusal(make_token().rpartition(".")[0] + ".") == "token.signature"


def test_token_signed_with_the_certificate_as_a_secret_is_refused() -> None:
    # The classic confusion: HMAC with the public key.
    raw = make_token(alg="HS256", kid="maa")
    assert refusal(raw) == "token.invalid"


def test_critical_extensions_are_refused() -> None:
    assert refusal(make_token(crit=["exp"])) == "token.invalid"


def test_key_set_elsewhere_is_refused() -> None:
    raw = make_token(jku="https://sharedweu.weu.attest.azure.net.evil.example/certs")
    assert refusal(raw) == "token.issuer"


def test_token_without_key_set_url_is_accepted() -> None:
    assert verify(make_token(jku=None)).raw


@pytest.mark.parametrize("text", ["", "a.b", "a.b.c.d", "..", "é.é.é"])
def test_malformed_token_is_refused(text: str) -> None:
    assert refusal(text) == "token.invalid"


def test_token_beyond_the_size_limit_is_refused() -> None:
    assert refusal(make_token() + "A" * 128 * 1024) == "token.invalid"


def test_issuer_other_than_the_pinned_one_is_refused() -> None:
    claims = token_claims(iss="https://sharedneu.neu.attest.azure.net")
    assert refusal(make_token(claims)) == "token.issuer"


def test_nonce_other_than_ours_is_refused() -> None:
    assert refusal(make_token(), nonce="another") == "token.nonce"


@pytest.mark.parametrize("payload", [{}, {"nonce": NONCE}, {"nonce": 1}])
def test_nonce_not_as_it_was_sent_is_refused(payload: dict[str, Any]) -> None:
    keys = token_claims()["x-ms-runtime"]["keys"]
    claims = token_claims(**{"x-ms-runtime": {"client-payload": payload, "keys": keys}})
    assert refusal(make_token(claims)) == "token.nonce"


def test_expired_token_is_refused() -> None:
    assert refusal(make_token(), now=NOW + timedelta(hours=8)) == "token.expired"


def test_token_is_good_until_its_last_second() -> None:
    assert verify(make_token(), now=NOW + timedelta(hours=8, seconds=-1)).raw


def test_token_from_the_near_future_is_accepted() -> None:
    assert verify(make_token(), now=NOW - CLOCK_SKEW).raw


def test_token_from_the_future_is_refused() -> None:
    early = NOW - CLOCK_SKEW - timedelta(seconds=1)
    assert refusal(make_token(), now=early) == "token.expired"


def test_token_that_begins_later_is_refused() -> None:
    later = int((NOW + CLOCK_SKEW).timestamp()) + 1
    assert refusal(make_token(token_claims(nbf=later))) == "token.expired"


def test_token_without_nbf_begins_when_it_was_issued() -> None:
    claims = token_claims()
    del claims["nbf"]
    assert verify(make_token(claims)).raw


@pytest.mark.parametrize("seconds", [-1, 0, 86401])
def test_lifetime_out_of_bounds_is_refused(seconds: int) -> None:
    claims = token_claims(exp=int(NOW.timestamp()) + seconds)
    assert refusal(make_token(claims)) == "token.lifetime"


def test_times_beyond_the_calendar_are_refused() -> None:
    assert refusal(make_token(token_claims(exp=10**17))) == "token.lifetime"


@pytest.mark.parametrize("name", ["iss", "iat", "exp"])
def test_missing_claim_is_refused(name: str) -> None:
    claims = token_claims()
    del claims[name]
    assert refusal(make_token(claims)) == "token.invalid"


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"key_use": "enc"},
        {"key_ops": ["encrypt"]},
        {"key_ops": ["encrypt", "verify"]},
        {"key_ops": "encrypt"},
    ],
)
def test_each_way_to_mark_a_wrapping_key_counts(members: dict[str, Any]) -> None:
    claims = token_claims(**{"x-ms-runtime": runtime(our_jwk(**members))})
    assert verify(make_token(claims)).wrapping_key_id == WRAPPING_KID


def test_token_for_another_wrapping_key_is_refused() -> None:
    claims = token_claims(**{"x-ms-runtime": runtime(foreign_jwk(use="enc"))})
    assert refusal(make_token(claims)) == "token.wrapping_key"


@pytest.mark.parametrize(
    "members", [{"use": "enc"}, {"key_use": "enc"}, {"key_ops": "encrypt"}]
)
def test_foreign_key_before_ours_is_refused(members: dict[str, Any]) -> None:
    keys = runtime(foreign_jwk(**members), our_jwk(key_ops=["encrypt"]))
    assert (
        refusal(make_token(token_claims(**{"x-ms-runtime": keys})))
        == "token.wrapping_key"
    )


@pytest.mark.parametrize("members", [{"use": "sig"}, {"key_ops": ["sign"]}, {}])
def test_unsuitable_key_before_ours_does_not_matter(members: dict[str, Any]) -> None:
    keys = runtime(foreign_jwk(**members), our_jwk(key_ops=["encrypt"]))
    assert verify(make_token(token_claims(**{"x-ms-runtime": keys}))).raw


def test_foreign_key_after_ours_does_not_matter() -> None:
    keys = runtime(our_jwk(use="enc"), foreign_jwk(use="enc"))
    assert verify(make_token(token_claims(**{"x-ms-runtime": keys}))).raw


def test_our_modulus_with_another_exponent_is_refused() -> None:
    keys = runtime(our_jwk(use="enc") | {"e": "Aw"})
    assert (
        refusal(make_token(token_claims(**{"x-ms-runtime": keys})))
        == "token.wrapping_key"
    )


def test_key_that_is_not_base64url_is_refused() -> None:
    keys = runtime(our_jwk(use="enc") | {"n": "?"})
    assert (
        refusal(make_token(token_claims(**{"x-ms-runtime": keys})))
        == "token.wrapping_key"
    )


def test_key_inside_the_isolation_claim_does_not_count() -> None:
    tee = {"x-ms-runtime": runtime(our_jwk(use="enc"))}
    claims = token_claims(
        **{"x-ms-runtime": runtime(), "x-ms-isolation-tee": tee},
    )
    assert refusal(make_token(claims)) == "token.wrapping_key"


ODD_ENTRIES: list[Any] = [
    None,
    5,
    "text",
    [],
    {},
    {"kid": 5, "x5c": x5c(signing_certificate("other"))},
    {"kid": None, "x5c": x5c(signing_certificate("other"))},
    {"kid": "k", "x5c": None},
    {"kid": "k", "x5c": {}},
    {"kid": "k", "x5c": []},
    {"kid": "k", "x5c": [None]},
    {"kid": "k", "x5c": ["no base64"]},
    {"kid": "k", "x5c": ["MAA="]},
    {"kid": "k", "x5c": ["\u2026"]},
    {"kid": "k", "x5c": [b64(with_version(signing_certificate("other"), 0x22))]},
    {"kid": "k", "x5c": x5c(make_certificate("ec", ec_key("ec", ec.SECP256R1)))},
]


@pytest.mark.parametrize("entry", ODD_ENTRIES)
@pytest.mark.parametrize("place", [0, 1])
def test_an_entry_that_cannot_be_read_is_skipped(entry: object, place: int) -> None:
    body = json.loads(key_set())
    body["keys"].insert(place, entry)
    keys = parse_signing_keys(json.dumps(body).encode())
    assert len(keys.keys) == 1
    assert verify(make_token(), signing_keys=keys).raw


@pytest.mark.parametrize("entry", ODD_ENTRIES)
def test_a_key_set_of_which_no_entry_is_left_cannot_be_used(entry: object) -> None:
    body = json.dumps({"keys": [entry]}).encode()
    with pytest.raises(InvalidTokenError) as caught:
        parse_signing_keys(body)
    assert caught.value.code == "token.signing_keys"
    assert "the first of 1: " in caught.value.message


def test_key_set_entries_without_certificate_are_skipped() -> None:
    body = json.loads(key_set())
    body["keys"].insert(0, public_jwk(rsa_key("other"), "maa"))
    keys = parse_signing_keys(json.dumps(body).encode())
    assert keys.has("maa")
    assert verify(make_token(), signing_keys=keys).raw


def test_numbers_beside_the_certificate_are_ignored() -> None:
    body = json.loads(key_set())
    body["keys"][0] |= public_jwk(rsa_key("other"), "maa")
    keys = parse_signing_keys(json.dumps(body).encode())
    assert refusal(make_token(signer="other"), signing_keys=keys) == "token.signature"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":[]}',
        b'{"keys":[{"kid":"maa","x5c":["?"]}]}',
        json.dumps({"keys": [{"x5c": [b64(b"no certificate")]}]}).encode(),
    ],
)
def test_unreadable_key_set_is_not_a_denial(body: bytes) -> None:
    with pytest.raises(InvalidTokenError) as caught:
        parse_signing_keys(body)
    assert caught.value.code == "token.signing_keys"
    assert caught.value.disposition is Disposition.REATTEST


def test_payload_that_is_not_json_is_refused() -> None:
    head, _, _ = make_token().split(".")
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - only here
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

    signed = f"{head}.{b64url(b'no json')}"
    signature = rsa_key("maa").sign(
        signed.encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    assert refusal(f"{signed}.{b64url(signature)}") == "token.invalid"


def resume(raw: str, **changes: object) -> AttestationToken:
    numbers = wrapping_key().public_key().public_numbers()
    arguments: dict[str, Any] = {
        "now": NOW,
        "wrapping_key": RsaPublic(numbers.n, numbers.e),
    }
    return resume_token(raw, **(arguments | changes))


def test_a_token_that_was_kept_is_what_it_was() -> None:
    raw = make_token()
    assert resume(raw) == verify(raw)


def test_a_token_for_another_wrapping_key_is_not_a_denial() -> None:
    numbers = rsa_key("foreign").public_key().public_numbers()
    with pytest.raises(InvalidTokenError) as caught:
        resume(make_token(), wrapping_key=RsaPublic(numbers.n, numbers.e))
    assert caught.value.code == "token.wrapping_key"
    assert caught.value.disposition is Disposition.REATTEST


def test_a_kept_token_whose_time_is_over_is_not_resumed() -> None:
    with pytest.raises(TokenExpiredError):
        resume(make_token(), now=NOW + timedelta(hours=8))


@pytest.mark.parametrize("raw", ["", "a.b.c", "e30.e30.e30"])
def test_a_malformed_token_is_not_resumed(raw: str) -> None:
    with pytest.raises(InvalidTokenError) as caught:
        resume(raw)
    assert caught.value.code == "token.invalid"
