"""Every form of a released key has the same key, which is the signed one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    load_pem_public_key,
)
from support.release import KID, VERSION
from support.release_pki import (
    ec_key,
    from_b64url,
    pkcs8,
    rsa_key,
)

from skragent.errors import MalformedReleaseError
from skragent.job import ARENA_BYTES_PER_KEY
from skragent.release.envelope import KeyType, PublicNumbers, WrappedKey
from skragent.release.formats import RenderedKey, render_key

CURVES = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
    "secp256k1": ec.SECP256K1,
}


def wrapped_key(kty: KeyType, public: PublicNumbers | None = None) -> WrappedKey:
    return WrappedKey(
        kid=KID,
        version=VERSION,
        kty=kty,
        public=public,
        enc="RSA_AES_KEY_WRAP_256",
        ciphertext=b"",
        repeats_nonce=True,
    )


def render(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> RenderedKey:
    kty: KeyType = "RSA" if isinstance(key, rsa.RSAPrivateKey) else "EC"
    wrapped = wrapped_key(kty, key.public_key().public_numbers())
    return render_key(wrapped, pkcs8(key))


def number(jwk: dict[str, str], member: str) -> int:
    return int.from_bytes(from_b64url(jwk[member]), "big")


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_rsa_key_is_the_same_in_every_form(bits: int) -> None:
    key = rsa_key("released", bits)
    rendered = render(key)
    assert set(rendered.forms) == {"jwk", "pem", "der"}
    from_pem = load_pem_private_key(rendered.forms["pem"], None)
    from_der = load_der_private_key(rendered.forms["der"], None)
    assert isinstance(from_pem, rsa.RSAPrivateKey)
    assert isinstance(from_der, rsa.RSAPrivateKey)
    assert from_pem.private_numbers() == key.private_numbers()
    assert from_der.private_numbers() == key.private_numbers()
    jwk = json.loads(rendered.forms["jwk"])
    numbers = rsa.RSAPrivateNumbers(
        p=number(jwk, "p"),
        q=number(jwk, "q"),
        d=number(jwk, "d"),
        dmp1=number(jwk, "dp"),
        dmq1=number(jwk, "dq"),
        iqmp=number(jwk, "qi"),
        public_numbers=rsa.RSAPublicNumbers(number(jwk, "e"), number(jwk, "n")),
    )
    assert numbers == key.private_numbers()
    assert (jwk["kty"], jwk["kid"], len(jwk)) == ("RSA", KID, 10)


@pytest.mark.parametrize("crv", CURVES)
def test_ec_key_is_the_same_in_every_form(crv: str) -> None:
    key = ec_key("released", CURVES[crv])
    rendered = render(key)
    from_pem = load_pem_private_key(rendered.forms["pem"], None)
    from_der = load_der_private_key(rendered.forms["der"], None)
    assert isinstance(from_pem, ec.EllipticCurvePrivateKey)
    assert isinstance(from_der, ec.EllipticCurvePrivateKey)
    assert from_pem.private_numbers() == key.private_numbers()
    assert from_der.private_numbers() == key.private_numbers()
    jwk = json.loads(rendered.forms["jwk"])
    expected = key.private_numbers()
    assert number(jwk, "d") == expected.private_value
    assert number(jwk, "x") == expected.public_numbers.x
    assert number(jwk, "y") == expected.public_numbers.y
    assert (jwk["kty"], jwk["crv"], jwk["kid"]) == ("EC", crv, KID)


def test_ec_members_have_full_length() -> None:
    curve = ec.SECP521R1()
    key = ec.derive_private_key(1, curve)  # its d is 65 zeros and a one
    jwk = json.loads(render(key).forms["jwk"])
    assert [len(from_b64url(jwk[m])) for m in ("d", "x", "y")] == [66, 66, 66]


def test_oct_key_is_served_raw_and_as_jwk() -> None:
    rendered = render_key(wrapped_key("oct"), b"\xff\xfe\0")
    assert set(rendered.forms) == {"jwk", "raw"}
    assert rendered.forms["raw"] == b"\xff\xfe\0"
    assert json.loads(rendered.forms["jwk"]) == {"kty": "oct", "kid": KID, "k": "__4A"}
    assert (rendered.public_jwk, rendered.public_pem, rendered.fingerprint) == (
        "",
        "",
        "",
    )


def test_public_forms_have_nothing_private() -> None:
    key = rsa_key("released")
    rendered = render(key)
    jwk = json.loads(rendered.public_jwk)
    assert set(jwk) == {"kty", "kid", "n", "e"}
    public = load_pem_public_key(rendered.public_pem.encode())
    assert public == key.public_key()


def test_fingerprint_is_of_the_public_key_info() -> None:
    key = ec_key("released", ec.SECP256R1)
    spki = key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    assert render(key).fingerprint == hashlib.sha256(spki).hexdigest()


def test_the_largest_key_fits_its_part_of_the_arena() -> None:
    forms = render(rsa_key("released", 4096)).forms.values()
    assert sum(map(len, forms)) <= ARENA_BYTES_PER_KEY


def test_the_largest_oct_key_fits_its_part_of_the_arena() -> None:
    forms = render_key(wrapped_key("oct"), bytes(4096)).forms.values()
    assert sum(map(len, forms)) <= ARENA_BYTES_PER_KEY


def test_wipe_zeroes_every_form() -> None:
    rendered = render(rsa_key("released"))
    sizes = [len(data) for data in rendered.forms.values()]
    rendered.wipe()
    assert [bytes(n) for n in sizes] == list(rendered.forms.values())


def test_rendered_key_does_not_show_its_forms() -> None:
    assert "PRIVATE" not in repr(render(rsa_key("released")))


def refusal(wrapped: WrappedKey, plaintext: bytes) -> str:
    with pytest.raises(MalformedReleaseError) as caught:
        render_key(wrapped, plaintext)
    return caught.value.code


def test_swapped_rsa_key_is_refused() -> None:
    signed = rsa_key("released").public_key().public_numbers()
    code = refusal(wrapped_key("RSA", signed), pkcs8(rsa_key("other")))
    assert code == "release.key_mismatch"


def test_swapped_ec_key_is_refused() -> None:
    signed = ec_key("released", ec.SECP256R1).public_key().public_numbers()
    swapped = pkcs8(ec_key("other", ec.SECP256R1))
    assert refusal(wrapped_key("EC", signed), swapped) == "release.key_mismatch"


def test_key_of_another_kind_is_refused() -> None:
    signed = rsa_key("released").public_key().public_numbers()
    swapped = pkcs8(ec_key("other", ec.SECP256R1))
    assert refusal(wrapped_key("RSA", signed), swapped) == "release.key_mismatch"


def tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:  # X.690 §8.1.3: as short as it can be written
        return bytes([tag, size]) + value
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + value


def forge(**changes: int) -> bytes:
    """The PKCS#8 of a key whose numbers do not fit each other; no library makes one."""
    numbers = rsa_key("released").private_numbers()
    parts = {
        "n": numbers.public_numbers.n,
        "e": numbers.public_numbers.e,
        "d": numbers.d,
        "p": numbers.p,
        "q": numbers.q,
        "dmp1": numbers.dmp1,
        "dmq1": numbers.dmq1,
        "iqmp": numbers.iqmp,
    } | changes
    integers = [
        tlv(2, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in parts.values()
    ]
    version = bytes.fromhex("020100")
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")  # rsaEncryption
    rsa_private = tlv(0x30, version + b"".join(integers))
    return tlv(0x30, version + algorithm + tlv(4, rsa_private))


def test_an_intact_key_of_the_forger_is_served() -> None:
    signed = rsa_key("released").public_key().public_numbers()
    assert render_key(wrapped_key("RSA", signed), forge()).forms["der"]


@pytest.mark.parametrize("member", ["d", "dmp1", "dmq1", "iqmp", "p", "q", "e"])
def test_each_number_must_fit_the_others(member: str) -> None:
    signed = rsa_key("released").public_key().public_numbers()
    other = rsa_key("other").private_numbers()
    value = 3 if member == "e" else getattr(other, member)
    # The library may refuse to load it at all.
    assert refusal(wrapped_key("RSA", signed), forge(**{member: value})) in {
        "release.key_mismatch",
        "release.malformed",
    }


@pytest.mark.parametrize("bits", [1, 8 * 40_000])
def test_a_private_exponent_beyond_the_modulus_is_refused(bits: int) -> None:
    numbers = rsa_key("released").private_numbers()
    signed = numbers.public_numbers
    cycle = math.lcm(numbers.p - 1, numbers.q - 1)
    longer = numbers.d + cycle * (signed.n // cycle + 1 << bits)
    forged = forge(d=longer)
    assert refusal(wrapped_key("RSA", signed), forged) == "release.key_mismatch"


def test_a_coefficient_beyond_its_prime_is_refused() -> None:
    numbers = rsa_key("released").private_numbers()
    forged = forge(iqmp=numbers.iqmp + (numbers.p << 8 * 10_000))
    code = refusal(wrapped_key("RSA", numbers.public_numbers), forged)
    assert code == "release.key_mismatch"


def test_private_numbers_under_the_signed_modulus_are_refused() -> None:
    # All that a plain comparison of n and e would see is right.
    signed = rsa_key("released").public_key().public_numbers()
    other = rsa_key("other").private_numbers()
    forged = forge(
        d=other.d,
        p=other.p,
        q=other.q,
        dmp1=other.dmp1,
        dmq1=other.dmq1,
        iqmp=other.iqmp,
    )
    assert refusal(wrapped_key("RSA", signed), forged) in {
        "release.key_mismatch",
        "release.malformed",
    }


def test_public_part_in_pkcs8_is_not_believed() -> None:
    key = ec_key("released", ec.SECP256R1)
    der = bytearray(pkcs8(key))
    other = ec_key("other", ec.SECP256R1).public_key()
    point = other.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    der[-len(point) :] = point
    signed = other.public_numbers()
    assert refusal(wrapped_key("EC", signed), bytes(der)) in {
        "release.key_mismatch",
        "release.malformed",
    }


def test_same_point_of_another_curve_is_refused() -> None:
    key = ec_key("released", ec.SECP256R1)
    signed = key.public_key().public_numbers()
    other = ec.EllipticCurvePublicNumbers(signed.x, signed.y, ec.SECP256K1())
    assert refusal(wrapped_key("EC", other), pkcs8(key)) == "release.key_mismatch"


@pytest.mark.parametrize("plaintext", [b"", b"\x30", b"no key", bytes(1200)])
def test_bytes_that_are_not_a_key_are_refused(plaintext: bytes) -> None:
    signed = rsa_key("released").public_key().public_numbers()
    assert refusal(wrapped_key("RSA", signed), plaintext) == "release.malformed"


def test_key_that_is_neither_rsa_nor_ec_is_refused() -> None:
    der = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    assert refusal(wrapped_key("EC"), der) == "release.malformed"


def test_curve_that_is_not_served_is_refused() -> None:
    der = pkcs8(ec_key("released", ec.SECP224R1))
    assert refusal(wrapped_key("EC"), der) == "release.malformed"


def test_rsa_key_of_another_size_is_refused() -> None:
    key = rsa_key("small", 1024)
    wrapped = wrapped_key("RSA", key.public_key().public_numbers())
    assert refusal(wrapped, pkcs8(key)) == "release.malformed"


@pytest.mark.parametrize("size", [0, 4097])
def test_oct_key_of_an_impossible_length_is_refused(size: int) -> None:
    assert refusal(wrapped_key("oct"), bytes(size)) == "release.malformed"


def test_refusal_does_not_quote_the_key() -> None:
    wrapped = dataclasses.replace(wrapped_key("RSA"), public=None)
    with pytest.raises(MalformedReleaseError) as caught:
        render_key(wrapped, b"secret bytes")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
