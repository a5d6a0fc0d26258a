"""The AzureGuest request as the reference client sends it, and the sealed answer."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.release import (
    encode_answer,
    make_token,
    seal_token,
)
from support.release_pki import (
    b64,
    b64url,
    from_b64url,
)

from skragent.attestation.guest import (
    OsInfo,
    SealedToken,
    encode_guest_request,
    open_sealed_token,
    parse_guest_response,
    parse_os_release,
)
from skragent.errors import Disposition, InvalidTokenError

if TYPE_CHECKING:
    from skragent.evidence.verification import Evidence

INNER_KEY = bytes(range(32))
# As long as the real ones, and such that both alphabets and padding show.
REPORT = b"\xff\xfe" * 592
ATTEST = b"\xffTCG\x80\x18"
PCRS = tuple(bytes([n]) * 32 for n in range(8))


def make_evidence() -> Evidence:
    """A value of the request's inputs; `evidence` defines their meaning."""
    return cast(
        "Evidence",
        SimpleNamespace(
            hcl_report=SimpleNamespace(
                snp_report=SimpleNamespace(raw=REPORT),
                runtime_data=SimpleNamespace(raw=b'{"keys":[]}?>'),
            ),
            endorsements=SimpleNamespace(pem=b"-----BEGIN CERTIFICATE-----\n>?"),
            ak_certificate=b"cert\0\0",
            ak_public=b"\x01\x18ak",
            pcrs=PCRS,
            quote=SimpleNamespace(message=ATTEST, signature=b"\xfb" * 256),
            wrapping_key_public=b"\x01\x36key",
            wrapping_key_certification=SimpleNamespace(
                message=b"\xffTCG\x80\x17", signature=b"\xfc" * 256
            ),
            tcg_log=b"log",
        ),
    )


def encode(nonce: str = "a nonce") -> dict[str, Any]:
    """Encode a request and take its outer layer off, as strictly as it is built."""
    body = encode_guest_request(
        make_evidence(), OsInfo("Debian GNU/Linux", 12, 0), nonce
    )
    outer = json.loads(body)
    assert list(outer) == ["AttestationInfo"]
    assert not set(outer["AttestationInfo"]) & set("+/=")
    info: dict[str, Any] = json.loads(from_b64url(outer["AttestationInfo"]))
    return info


def standard(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def test_request_has_the_reference_clients_members() -> None:
    assert sorted(encode()) == [
        "AttestationProtocolVersion",
        "ClientPayload",
        "IsolationInfo",
        "OSBuild",
        "OSDistro",
        "OSType",
        "OSVersionMajor",
        "OSVersionMinor",
        "TcgLogs",
        "TpmInfo",
    ]


def test_request_tells_the_operating_system() -> None:
    info = encode()
    assert info["AttestationProtocolVersion"] == "2.0"
    assert standard(info["OSType"]) == b"Linux"
    assert standard(info["OSDistro"]) == b"Debian GNU/Linux"
    assert standard(info["OSBuild"]) == b"NotApplication"
    assert (info["OSVersionMajor"], info["OSVersionMinor"]) == (12, 0)


def test_client_payload_values_are_encoded() -> None:
    assert encode("n?>~")["ClientPayload"] == {"nonce": b64(b"n?>~")}


def test_isolation_info_is_in_three_encodings() -> None:
    isolation = encode()["IsolationInfo"]
    assert isolation["Type"] == "SevSnp"
    assert standard(isolation["Evidence"]["RunTimeData"]) == b'{"keys":[]}?>'
    proof = json.loads(standard(isolation["Evidence"]["Proof"]))
    assert proof["SnpReport"] == b64url(REPORT)  # the one that is URL-safe, unpadded
    assert standard(proof["VcekCertChain"]).startswith(b"-----BEGIN CERTIFICATE-----")


def test_tpm_info_is_as_the_tpm_gave_it() -> None:
    tpm = encode()["TpmInfo"]
    assert standard(tpm["AikCert"]) == b"cert\0\0"
    assert standard(tpm["AikPub"]) == b"\x01\x18ak"
    assert standard(tpm["PcrQuote"]) == ATTEST
    assert standard(tpm["PcrSignature"]) == b"\xfb" * 256
    assert standard(tpm["EncKeyPub"]) == b"\x01\x36key"
    assert standard(tpm["EncKeyCertifyInfo"]) == b"\xffTCG\x80\x17"
    assert standard(tpm["EncKeyCertifyInfoSignature"]) == b"\xfc" * 256
    assert tpm["PcrSet"] == list(range(8))
    assert [(p["Index"], standard(p["Digest"])) for p in tpm["PCRs"]] == list(
        enumerate(PCRS)
    )
    assert len(tpm) == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('NAME="Debian GNU/Linux"\nVERSION_ID="12"\n', ("Debian GNU/Linux", 12, 0)),
        ("NAME='Ubuntu'\nVERSION_ID='24.04'", ("Ubuntu", 24, 4)),
        ("NAME=Alpine\nVERSION_ID=3.20.1", ("Alpine", 3, 20)),
        ("VERSION_ID=rolling", ("Linux", 1, 0)),
        ("#NAME=no\n\nnonsense\nNAME=", ("Linux", 1, 0)),
        ('NAME="open', ('"open', 1, 0)),
        ("", ("Linux", 1, 0)),
        (f"VERSION_ID={'9' * 5000}", ("Linux", 1, 0)),
    ],
)
def test_os_release_is_read_with_defaults(
    text: str, expected: tuple[str, int, int]
) -> None:
    assert parse_os_release(text) == OsInfo(*expected)


def refusal(body: bytes) -> InvalidTokenError:
    with pytest.raises(InvalidTokenError) as caught:
        parse_guest_response(body)
    assert caught.value.disposition is Disposition.REATTEST
    return caught.value


def test_sealed_answer_opens_with_its_inner_key() -> None:
    token = make_token()
    sealed = parse_guest_response(encode_answer(seal_token(token)))
    assert open_sealed_token(sealed, INNER_KEY) == token


@pytest.mark.parametrize("size", [16, 24, 32])
def test_each_aes_key_size_opens(size: int) -> None:
    key = bytes(range(size))
    sealed = parse_guest_response(encode_answer(seal_token("t", key)))
    assert open_sealed_token(sealed, bytearray(key)) == "t"


def test_padding_of_the_outer_token_is_tolerated() -> None:
    body = json.loads(encode_answer(seal_token("token")))
    body["token"] += "=" * (-len(body["token"]) % 4)
    assert parse_guest_response(json.dumps(body).encode())


def test_unknown_members_are_ignored() -> None:
    assert parse_guest_response(encode_answer(seal_token("t") | {"New": 1}))


@pytest.mark.parametrize(
    "name", ["Jwt", "EncryptedInnerKey", "EncryptionParams", "AuthenticationData"]
)
def test_answer_without_a_member_is_refused(name: str) -> None:
    sealed = seal_token("t")
    del sealed[name]
    assert refusal(encode_answer(sealed)).code == "token.sealed"


@pytest.mark.parametrize(
    "change",
    [
        {"Jwt": "?"},
        {"EncryptedInnerKey": b64url(b"\xff" * 256)},
        {"EncryptedInnerKey": ""},
        {"EncryptionParams": {"Iv": b64(bytes(16))}},
        {"EncryptionParams": {"Iv": 12}},
        {"AuthenticationData": b64(bytes(12))},
    ],
)
def test_answer_with_a_wrong_member_is_refused(change: dict[str, object]) -> None:
    assert refusal(encode_answer(seal_token("t") | change)).code == "token.sealed"


@pytest.mark.parametrize(
    "body", [b"", b"null", b'{"Token":""}', b'{"token":"?"}', b'{"token":""}', b"\xff"]
)
def test_malformed_response_is_refused(body: bytes) -> None:
    assert refusal(body).code == "token.sealed"


def test_answer_beyond_the_size_limit_is_refused() -> None:
    assert refusal(b" " * 256 * 1024 + b"{}").code == "token.sealed"


def open_refused(sealed: SealedToken, inner_key: bytes) -> str:
    with pytest.raises(InvalidTokenError) as caught:
        open_sealed_token(sealed, inner_key)
    return caught.value.code


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), bytes(32)])
def test_wrong_inner_key_does_not_open(key: bytes) -> None:
    sealed = parse_guest_response(encode_answer(seal_token("t")))
    assert open_refused(sealed, key) == "token.sealed"


def test_decrypted_bytes_that_are_not_text_are_refused() -> None:
    sealed = parse_guest_response(encode_answer(seal_token("é")))
    assert open_refused(sealed, INNER_KEY) == "token.sealed"


def test_each_part_of_the_sealed_answer_is_authenticated() -> None:
    good = parse_guest_response(encode_answer(seal_token("token")))
    flipped = bytes([good.ciphertext[0] ^ 1]) + good.ciphertext[1:]
    for broken in (
        SealedToken(flipped, good.encrypted_inner_key, good.iv, good.tag),
        SealedToken(good.ciphertext, good.encrypted_inner_key, b"1" * 12, good.tag),
        SealedToken(good.ciphertext, good.encrypted_inner_key, good.iv, b"1" * 16),
    ):
        assert open_refused(broken, INNER_KEY) == "token.sealed"
