"""Malformed certificates and keys: every parser returns a value or a named error."""

from __future__ import annotations

import base64
import contextlib
import json

from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import build_report
from support.evidence_amd import NOW, mint_chain, roots_of, thim_answer
from support.odd_certificates import der, pem
from support.release import Release, signing_certificate
from support.release_pki import (
    ec_key,
    pkcs8,
    root_certificate,
    rsa_key,
    vault_chain,
)

from skragent.attestation.token import parse_signing_keys
from skragent.certificates import CertificateError, load_der
from skragent.errors import (
    AgentError,
    EndorsementsError,
    InvalidTokenError,
    MalformedReleaseError,
)
from skragent.evidence.ak_certificate import (
    is_ak_certificate_provisioned,
    parse_successor,
    read_end,
)
from skragent.evidence.endorsements import (
    parse_roots,
    parse_thim_response,
    verify_endorsements,
)
from skragent.evidence.snp import parse_snp_report
from skragent.pem_bundle import load_bundle
from skragent.release.envelope import ReleaseRequest, WrappedKey, verify_release
from skragent.release.formats import render_key

CHAIN = mint_chain()
REPORT = parse_snp_report(build_report())
LEAF, INTERMEDIATE, *_ = vault_chain()
SETTINGS = settings(max_examples=150)


@st.composite
def bent(draw: st.DrawFn, *originals: bytes) -> bytes:
    """Give DER with a few bytes changed, cut or repeated."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case 1:
                data[place] = draw(st.integers(0, 255))
            case 2:
                del data[place : place + draw(st.integers(1, 8))]
                data = data or bytearray(1)
            case _:
                data[place:place] = data[place : place + draw(st.integers(1, 8))]
    return bytes(data)


@SETTINGS
@given(data=bent(der(CHAIN.signer), der(CHAIN.intermediate), der(CHAIN.root)))
def test_a_bent_chain_of_thim(data: bytes) -> None:
    answer = thim_answer(CHAIN)
    for changed in ("vcekCert", "certificateChain"):
        text = pem(data).decode()
        if changed == "certificateChain":
            text += pem(der(CHAIN.root)).decode()
        with contextlib.suppress(EndorsementsError, AgentError):
            chain = parse_thim_response(json.dumps(answer | {changed: text}).encode())
            verify_endorsements(chain, REPORT, now=NOW, roots=roots_of(CHAIN))


@SETTINGS
@given(data=bent(der(CHAIN.root), der(root_certificate())))
def test_a_bent_root(data: bytes) -> None:
    with contextlib.suppress(EndorsementsError):
        parse_roots(data)
    bundle = parse_roots(pem(data) + pem(der(CHAIN.root)))
    assert len(bundle.roots) + len(bundle.skipped) == 2
    assert roots_of(CHAIN) <= set(bundle.roots)


@SETTINGS
@given(data=st.binary(max_size=200))
def test_any_bytes_as_a_bundle(data: bytes) -> None:
    with contextlib.suppress(CertificateError):
        load_bundle(data, load_der)
    with contextlib.suppress(CertificateError):
        load_bundle(b"-----BEGIN CERTIFICATE-----" + data, load_der)
    bundle = load_bundle(data + b"\n" + pem(der(root_certificate())), load_der)
    assert root_certificate() in bundle.roots


@SETTINGS
@given(data=bent(der(signing_certificate())))
def test_a_bent_signing_key(data: bytes) -> None:
    entry = {"kid": "k", "x5c": [base64.b64encode(data).decode()]}
    with contextlib.suppress(InvalidTokenError):
        parse_signing_keys(json.dumps({"keys": [entry]}).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kid", "x5c", "keys"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@SETTINGS
@given(document=JSON)
def test_any_json_as_signing_keys(document: object) -> None:
    for body in (document, {"keys": document}, {"keys": [document]}):
        with contextlib.suppress(InvalidTokenError):
            parse_signing_keys(json.dumps(body).encode())


@SETTINGS
@given(data=bent(der(LEAF), der(INTERMEDIATE)), is_leaf=st.booleans())
def test_a_bent_certificate_of_a_release(data: bytes, *, is_leaf: bool) -> None:
    release = Release(rsa_key("released"))
    chain = [data, der(INTERMEDIATE)] if is_leaf else [der(LEAF), data]
    release.header["x5c"] = [base64.b64encode(one).decode() for one in chain]
    request = ReleaseRequest(
        "https://myvault.vault.azure.net", "mykey", "", "RSA_AES_KEY_WRAP_256", "n", "k"
    )
    with contextlib.suppress(MalformedReleaseError):
        verify_release(release.encode(), request, now=NOW, roots=[root_certificate()])


@SETTINGS
@given(data=bent(der(root_certificate())))
def test_a_bent_root_does_not_spoil_another_root_of_a_release(data: bytes) -> None:
    with contextlib.suppress(CertificateError):
        odd = load_der(data)
        release = Release(rsa_key("released"))
        request = ReleaseRequest(
            *("https://myvault.vault.azure.net", "mykey", "", "RSA_AES_KEY_WRAP_256"),
            *("n", "k"),
        )
        try:
            verify_release(
                release.encode(),
                request,
                now=NOW,
                roots=[odd, root_certificate()],
            )
        except MalformedReleaseError as error:
            # It is the answer to another request; its chain holds.
            assert error.code == "release.mismatch"  # noqa: PT017 - or it is accepted


@SETTINGS
@given(
    data=bent(pkcs8(rsa_key("released")), pkcs8(ec_key("released", ec.SECP256R1))),
    is_rsa=st.booleans(),
)
def test_a_bent_private_key(data: bytes, *, is_rsa: bool) -> None:
    key = rsa_key("released") if is_rsa else ec_key("released", ec.SECP256R1)
    wrapped = WrappedKey(
        kid="https://v/keys/k/" + "0" * 32,
        version="0" * 32,
        kty="RSA" if is_rsa else "EC",
        public=key.public_key().public_numbers(),
        enc="RSA_AES_KEY_WRAP_256",
        ciphertext=b"",
        repeats_nonce=True,
    )
    with contextlib.suppress(MalformedReleaseError):
        render_key(wrapped, data)


@SETTINGS
@given(data=bent(der(root_certificate()), der(CHAIN.root)))
def test_a_bent_ak_certificate(data: bytes) -> None:
    is_ak_certificate_provisioned(data)
    read_end(data)
    with contextlib.suppress(EndorsementsError):
        parse_successor(pem(data), der(root_certificate()), NOW)
    with contextlib.suppress(EndorsementsError):
        parse_successor(pem(der(root_certificate())), data, NOW)
