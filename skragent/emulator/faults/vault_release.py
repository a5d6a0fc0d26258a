"""Faults of what a vault releases: the answer's signature, its claims, its wrapping."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa

from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import OF_ANSWERS, fault
from skragent.emulator.faults.grammar import Asked, Value, choice, optional
from skragent.emulator.faults.tampering import flip_signature, with_member
from skragent.emulator.keyvault.key_material import create_material
from skragent.emulator.keyvault.key_store import KeyVersion

if TYPE_CHECKING:
    from skragent.emulator.faults.context import Site

_BOTH = "vault hsm"


@fault(_BOTH, "release.signature", None, OF_ANSWERS)
async def signature(site: Site, asked: Asked) -> None:
    """One bit of the released JWS's signature is wrong."""
    site.mutate(asked, "jws", flip_signature)


@fault(_BOTH, "release.payload.*", optional(grammar.JSON, grammar.MISSING), OF_ANSWERS)
async def payload(site: Site, asked: Asked) -> None:
    """This member of the JWS's payload, such as request.nonce, is that, or missing."""
    site.mutate(asked, "payload", lambda d: with_member(d, asked.member, asked.value))


@fault(_BOTH, "release.header.*", optional(grammar.JSON, grammar.MISSING), OF_ANSWERS)
async def header(site: Site, asked: Asked) -> None:
    """This member of the JWS's header, such as x5c or alg, is that, or missing."""
    site.mutate(asked, "header", lambda d: with_member(d, asked.member, asked.value))


@fault(_BOTH, "release.key_hsm.*", optional(grammar.JSON, grammar.MISSING), OF_ANSWERS)
async def key_hsm(site: Site, asked: Asked) -> None:
    """This member of key_hsm, such as header.kid or ciphertext, is that, or missing."""
    site.mutate(asked, "key_hsm", lambda d: with_member(d, asked.member, asked.value))


@fault(_BOTH, "release.signer", Value(choice("forged", "another_host")), OF_ANSWERS)
async def signer(site: Site, asked: Asked) -> None:
    """Another key signs in the vault's name, or another host signs in its own."""
    vault = site.vault(asked)
    identity = vault.signer
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if asked.value == "another_host":
        name = "another.vault.azure.net"
        identity = site.emulator.azure.pki.server("another-host", [name])
        key = identity.key
    site.mutate(asked, "signer", lambda _: key)
    site.mutate(asked, "header", lambda _: vault.dialect.jws_header(identity))


@fault(_BOTH, "release.wrapping_key", None, OF_ANSWERS)
async def wrapping_key(site: Site, asked: Asked) -> None:
    """The key is wrapped to another wrapping key than the token's."""
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    site.mutate(asked, "wrapping_key", lambda _: other.public_key())


@fault(_BOTH, "release.swapped", None, OF_ANSWERS)
async def swapped(site: Site, asked: Asked) -> None:
    """Another RSA key lies in the wrapping than the signed public part is of."""
    material = create_material({"kty": "RSA"})
    version = KeyVersion(secrets.token_hex(16), material, [], created=0, updated=0)
    other = version.target
    site.mutate(asked, "target", lambda _: other)
