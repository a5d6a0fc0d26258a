"""Create and import key material as Key Vault's request bodies describe it.

RSA, EC and oct keys, and private JWKs. Every kind is accepted with and without the
suffix `-HSM`: the emulated vaults are premium vaults or Managed HSMs.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from skragent.emulator.encoding import NotBase64Error, base64url_uint, decode_base64
from skragent.emulator.service import RefusalError

if TYPE_CHECKING:
    from skragent.emulator.keyvault.key_store import Material

CURVES: dict[str, type[ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
    "P-256K": ec.SECP256K1,
}
_RSA_BITS = (2048, 3072, 4096)
_OCT_BITS = (128, 192, 256)
_DEFAULT_OPS = {
    "RSA": ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
    "EC": ["sign", "verify"],
    "oct": ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
}


def bad_parameter(message: str) -> RefusalError:
    """Return the refusal of a request's body."""
    return RefusalError(400, "BadParameter", message)


def default_operations(kty: str) -> list[str]:
    """Return the default operations of a key type."""
    return list(_DEFAULT_OPS[kty])


def create_material(body: dict[str, Any]) -> Material:
    """Generate the key material of a create request."""
    kty = str(body.get("kty", "")).removesuffix("-HSM")
    size = body.get("key_size")
    if kty == "RSA":
        bits = 2048 if size is None else size
        if bits not in _RSA_BITS:
            raise bad_parameter(f"RSA keys have {_RSA_BITS} bits, not {bits!r}.")
        return rsa.generate_private_key(public_exponent=65537, key_size=bits)
    if kty == "EC":
        return ec.generate_private_key(_curve(body.get("crv", "P-256")))
    if kty == "oct":
        bits = 256 if size is None else size
        if bits not in _OCT_BITS:
            raise bad_parameter(f"oct keys have {_OCT_BITS} bits, not {bits!r}.")
        return secrets.token_bytes(bits // 8)
    raise bad_parameter(f"The key type {body.get('kty')!r} is not supported.")


def kind_of(material: Material) -> dict[str, Any]:
    """Return the create request's members for another key of the same kind."""
    if isinstance(material, bytes):
        return {"kty": "oct", "key_size": len(material) * 8}
    if isinstance(material, rsa.RSAPrivateKey):
        return {"kty": "RSA", "key_size": material.key_size}
    return {"kty": "EC", "crv": _name_of(material.curve)}


def import_material(jwk: dict[str, Any]) -> Material:
    """Import a private JWK (RFC 7518 §6)."""
    kty = str(jwk.get("kty", "")).removesuffix("-HSM")
    try:
        if kty == "RSA":
            return _rsa(jwk)
        if kty == "EC":
            curve = _curve(jwk.get("crv"))
            key = ec.derive_private_key(_uint(jwk, "d"), curve)
            numbers = key.public_key().public_numbers()
            if (numbers.x, numbers.y) != (_uint(jwk, "x"), _uint(jwk, "y")):
                raise bad_parameter("The EC key's public and private part differ.")
            return key
        material = decode_base64(jwk.get("k"))
    except (NotBase64Error, ValueError) as error:
        raise bad_parameter(f"The key is not a private {kty} JWK.") from error
    if kty != "oct" or len(material) * 8 not in _OCT_BITS:
        raise bad_parameter(
            f"The key type {jwk.get('kty')!r} or size is not supported."
        )
    return material


def public_members(material: Material, *, pad_exponent: bool) -> dict[str, str]:
    """Return the JWK members of the public part; an oct key has none.

    Key Vault encodes the exponent of HSM keys with a leading zero: `AAEAAQ`.
    """
    if isinstance(material, bytes):
        return {}
    if isinstance(material, rsa.RSAPrivateKey):
        numbers = material.public_key().public_numbers()
        exponent = base64url_uint(numbers.e, 4 if pad_exponent else 0)
        return {"n": base64url_uint(numbers.n), "e": exponent}
    point = material.public_key().public_numbers()
    size = (material.curve.key_size + 7) // 8
    return {
        "crv": _name_of(material.curve),
        "x": base64url_uint(point.x, size),
        "y": base64url_uint(point.y, size),
    }


def _rsa(jwk: dict[str, Any]) -> rsa.RSAPrivateKey:
    p, q, d = (_uint(jwk, name) for name in ("p", "q", "d"))
    public = rsa.RSAPublicNumbers(_uint(jwk, "e"), _uint(jwk, "n"))
    key = rsa.RSAPrivateNumbers(
        p,
        q,
        d,
        rsa.rsa_crt_dmp1(d, p),
        rsa.rsa_crt_dmq1(d, q),
        rsa.rsa_crt_iqmp(p, q),
        public,
    ).private_key()
    if key.key_size not in _RSA_BITS:
        raise bad_parameter(f"RSA keys have {_RSA_BITS} bits, not {key.key_size}.")
    return key


def _curve(name: object) -> ec.EllipticCurve:
    if not isinstance(name, str) or name not in CURVES:
        raise bad_parameter(f"The curve {name!r} is not supported.")
    return CURVES[name]()


def _name_of(curve: ec.EllipticCurve) -> str:
    return next(name for name, kind in CURVES.items() if isinstance(curve, kind))


def _uint(jwk: dict[str, Any], name: str) -> int:
    return int.from_bytes(decode_base64(jwk.get(name)), "big")
