"""Faults of released keys: signature, claims and wrapping of the response."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa

from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import RESPONSE_OPTIONS, fault
from skragent.emulator.faults.grammar import FaultSpec, Value, choice, optional
from skragent.emulator.faults.tampering import flip_signature, with_member
from skragent.emulator.keyvault.key_material import create_material
from skragent.emulator.keyvault.key_store import KeyVersion

if TYPE_CHECKING:
    from skragent.emulator.faults.context import FaultContext

_BOTH = "vault hsm"


@fault(_BOTH, "release.signature", None, RESPONSE_OPTIONS)
async def signature(context: FaultContext, spec: FaultSpec) -> None:
    """One bit of the released JWS's signature is flipped."""
    context.mutate(spec, "jws", flip_signature)


@fault(
    _BOTH,
    "release.payload.*",
    optional(grammar.JSON, grammar.MISSING),
    RESPONSE_OPTIONS,
)
async def payload(context: FaultContext, spec: FaultSpec) -> None:
    """This member of the JWS payload, such as request.nonce, is changed or missing."""
    context.mutate(spec, "payload", lambda d: with_member(d, spec.member, spec.value))


@fault(
    _BOTH, "release.header.*", optional(grammar.JSON, grammar.MISSING), RESPONSE_OPTIONS
)
async def header(context: FaultContext, spec: FaultSpec) -> None:
    """This member of the JWS header, such as x5c or alg, is changed or missing."""
    context.mutate(spec, "header", lambda d: with_member(d, spec.member, spec.value))


@fault(
    _BOTH,
    "release.key_hsm.*",
    optional(grammar.JSON, grammar.MISSING),
    RESPONSE_OPTIONS,
)
async def key_hsm(context: FaultContext, spec: FaultSpec) -> None:
    """This key_hsm member, such as header.kid or ciphertext, is changed or missing."""
    context.mutate(spec, "key_hsm", lambda d: with_member(d, spec.member, spec.value))


@fault(
    _BOTH, "release.signer", Value(choice("forged", "another_host")), RESPONSE_OPTIONS
)
async def signer(context: FaultContext, spec: FaultSpec) -> None:
    """Another key signs in the vault's name, or another host signs in its own name."""
    vault = context.vault(spec)
    identity = vault.signer
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if spec.value == "another_host":
        name = "another.vault.azure.net"
        identity = context.emulator.azure.pki.server("another-host", [name])
        key = identity.key
    context.mutate(spec, "signer", lambda _: key)
    context.mutate(spec, "header", lambda _: vault.dialect.jws_header(identity))


@fault(_BOTH, "release.wrapping_key", None, RESPONSE_OPTIONS)
async def wrapping_key(context: FaultContext, spec: FaultSpec) -> None:
    """The key is wrapped to a key other than the token's wrapping key."""
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    context.mutate(spec, "wrapping_key", lambda _: other.public_key())


@fault(_BOTH, "release.swapped", None, RESPONSE_OPTIONS)
async def swapped(context: FaultContext, spec: FaultSpec) -> None:
    """The wrapped RSA key does not match the signed public part."""
    material = create_material({"kty": "RSA"})
    version = KeyVersion(secrets.token_hex(16), material, [], created=0, updated=0)
    other = version.target
    context.mutate(spec, "target", lambda _: other)
