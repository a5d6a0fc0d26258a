"""Faults of the attestation provider: tokens, keys, clock."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeGuard

from cryptography.hazmat.primitives.asymmetric import rsa

from skragent.emulator.encoding import base64std, base64url, decode_base64, dump_json
from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import RESPONSE_OPTIONS, fault
from skragent.emulator.faults.grammar import FaultSpec, Value, choice, optional
from skragent.emulator.faults.tampering import (
    HEADER,
    PAYLOAD,
    change_part,
    flip_base64,
    flip_signature,
    with_member,
)

if TYPE_CHECKING:
    from skragent.emulator.faults.context import FaultContext

_TIMES = ("exp", "nbf", "iat")
_Claims = dict[str, Any]


def _change(context: FaultContext, spec: FaultSpec, document: _Claims) -> _Claims:
    """Set or remove the member that a fault names; times are relative to now."""
    value = spec.value
    if spec.member in _TIMES and _is_number(value):
        value = int(context.emulator.azure.clock.now() + value)
    return with_member(document, spec.member, value)


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a finite number; true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


@fault("maa", "token.*", optional(grammar.JSON, grammar.MISSING), RESPONSE_OPTIONS)
async def token(context: FaultContext, spec: FaultSpec) -> None:
    """This claim of the token is changed or missing; exp, nbf, iat: relative to now."""
    context.mutate(spec, "claims", lambda claims: _change(context, spec, claims))


@fault("maa", "header.*", optional(grammar.JSON, grammar.MISSING), RESPONSE_OPTIONS)
async def header(context: FaultContext, spec: FaultSpec) -> None:
    """This header member of the token is changed or missing; the signature is valid."""
    context.mutate(spec, "header", lambda members: _change(context, spec, members))


@fault("maa", "tamper.*", optional(grammar.JSON, grammar.MISSING), RESPONSE_OPTIONS)
async def tamper(context: FaultContext, spec: FaultSpec) -> None:
    """Like token.NAME, but changed after signing: the signature is invalid."""
    _tamper(context, spec, PAYLOAD)


@fault(
    "maa", "tamper_header.*", optional(grammar.JSON, grammar.MISSING), RESPONSE_OPTIONS
)
async def tamper_header(context: FaultContext, spec: FaultSpec) -> None:
    """Like header.NAME, but changed after signing: the signature is invalid."""
    _tamper(context, spec, HEADER)


def _tamper(context: FaultContext, spec: FaultSpec, part: int) -> None:
    def change(jws: str) -> str:
        return change_part(jws, part, lambda members: _change(context, spec, members))

    context.mutate(spec, "token", change)


@fault("maa", "signature", None, RESPONSE_OPTIONS)
async def signature(context: FaultContext, spec: FaultSpec) -> None:
    """One bit of the token's signature is flipped."""
    context.mutate(spec, "token", flip_signature)


@fault("maa", "unsigned", None, RESPONSE_OPTIONS)
async def unsigned(context: FaultContext, spec: FaultSpec) -> None:
    """The token has `alg: none` and no signature."""

    def strip(jws: str) -> str:
        head, payload, _ = jws.split(".")
        members = json.loads(decode_base64(head)) | {"alg": "none"}
        return f"{base64url(dump_json(members))}.{payload}."

    context.mutate(spec, "token", strip)


@fault("maa", "key", Value(choice("unknown", "forged")), RESPONSE_OPTIONS)
async def key(context: FaultContext, spec: FaultSpec) -> None:
    """An unpublished key signs tokens, with an unknown kid or with a published one."""
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kid = {"kid": base64std(bytes(32))} if spec.value == "unknown" else {}
    context.mutate(spec, "signer", lambda _: other)
    context.mutate(spec, "header", lambda members: members | kid)


@fault("maa", "rotate", optional(choice("keep", "drop"), "keep"))
async def rotate(context: FaultContext, spec: FaultSpec) -> None:
    """A new key signs from now on; old keys stay published or are dropped (event)."""
    context.emulator.maa.keys.rotate(keep_old=spec.value == "keep")


@fault("maa", "jwks", Value(choice("empty", "stale")), RESPONSE_OPTIONS)
async def jwks(context: FaultContext, spec: FaultSpec) -> None:
    """The key set at /certs is empty, or lacks the newest key."""

    def shorten(document: dict[str, Any]) -> dict[str, Any]:
        keys = document["keys"][:-1] if spec.value == "stale" else []
        return document | {"keys": keys}

    context.mutate(spec, "jwks", shorten)


@fault("maa", "clock", Value(grammar.SKEW), RESPONSE_OPTIONS)
async def clock(context: FaultContext, spec: FaultSpec) -> None:
    """The provider's clock is off by this time: exp, nbf and iat are shifted."""

    def shift(claims: _Claims) -> _Claims:
        # Another fault may have replaced a time by another type.
        times = {n: claims[n] for n in _TIMES if _is_number(claims.get(n))}
        return claims | {name: int(at + spec.value) for name, at in times.items()}

    context.mutate(spec, "claims", shift)


@fault(
    "maa",
    "sealed",
    Value(choice("Jwt", "EncryptedInnerKey", "Iv", "AuthenticationData")),
    RESPONSE_OPTIONS,
)
async def sealed(context: FaultContext, spec: FaultSpec) -> None:
    """One bit of this member of AzureGuest's encrypted response is flipped."""

    def spoil(members: dict[str, Any]) -> dict[str, Any]:
        if spec.value == "Iv":
            parameters = members["EncryptionParams"]
            wrong = parameters | {"Iv": flip_base64(parameters["Iv"])}
            return members | {"EncryptionParams": wrong}
        return members | {spec.value: flip_base64(members[spec.value])}

    context.mutate(spec, "sealed", spoil)


@fault("azure", "clock", Value(grammar.SKEW))
async def azure_clock(context: FaultContext, spec: FaultSpec) -> None:
    """The clock of all services is off by this time; negative: in the past."""
    context.emulator.azure.clock.skew_seconds = spec.value
