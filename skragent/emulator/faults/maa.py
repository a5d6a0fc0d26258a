"""Faults of the attestation provider: its tokens, its keys, its clock."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, TypeGuard

from cryptography.hazmat.primitives.asymmetric import rsa

from skragent.emulator.encoding import base64std, base64url, decode_base64, dump_json
from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import OF_ANSWERS, fault
from skragent.emulator.faults.grammar import Asked, Value, choice, optional
from skragent.emulator.faults.tampering import (
    HEADER,
    PAYLOAD,
    change_part,
    flip_base64,
    flip_signature,
    with_member,
)

if TYPE_CHECKING:
    from skragent.emulator.faults.context import Site

_TIMES = ("exp", "nbf", "iat")
_Claims = dict[str, Any]


def _change(site: Site, asked: Asked, document: _Claims) -> _Claims:
    """Set or remove the member that a fault names; times are seconds from now."""
    value = asked.value
    if asked.member in _TIMES and _is_number(value):
        value = int(site.emulator.azure.clock.now() + value)
    return with_member(document, asked.member, value)


def _is_number(value: object) -> TypeGuard[int | float]:
    """Tell seconds from true and false, and from 1e999, which JSON can say."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


@fault("maa", "token.*", optional(grammar.JSON, grammar.MISSING), OF_ANSWERS)
async def token(site: Site, asked: Asked) -> None:
    """The token's claim has this value, or is missing; exp, nbf, iat: from now."""
    site.mutate(asked, "claims", lambda claims: _change(site, asked, claims))


@fault("maa", "header.*", optional(grammar.JSON, grammar.MISSING), OF_ANSWERS)
async def header(site: Site, asked: Asked) -> None:
    """The token's header member has this value, or is missing; it is signed so."""
    site.mutate(asked, "header", lambda members: _change(site, asked, members))


@fault("maa", "tamper.*", optional(grammar.JSON, grammar.MISSING), OF_ANSWERS)
async def tamper(site: Site, asked: Asked) -> None:
    """As token.NAME, but after the token was signed: its signature does not hold."""
    _tamper(site, asked, PAYLOAD)


@fault("maa", "tamper_header.*", optional(grammar.JSON, grammar.MISSING), OF_ANSWERS)
async def tamper_header(site: Site, asked: Asked) -> None:
    """As header.NAME, but after the token was signed: its signature does not hold."""
    _tamper(site, asked, HEADER)


def _tamper(site: Site, asked: Asked, part: int) -> None:
    def change(jws: str) -> str:
        return change_part(jws, part, lambda members: _change(site, asked, members))

    site.mutate(asked, "token", change)


@fault("maa", "signature", None, OF_ANSWERS)
async def signature(site: Site, asked: Asked) -> None:
    """One bit of the token's signature is wrong."""
    site.mutate(asked, "token", flip_signature)


@fault("maa", "unsigned", None, OF_ANSWERS)
async def unsigned(site: Site, asked: Asked) -> None:
    """The token says `alg: none` and has no signature."""

    def strip(jws: str) -> str:
        head, payload, _ = jws.split(".")
        members = json.loads(decode_base64(head)) | {"alg": "none"}
        return f"{base64url(dump_json(members))}.{payload}."

    site.mutate(asked, "token", strip)


@fault("maa", "key", Value(choice("unknown", "forged")), OF_ANSWERS)
async def key(site: Site, asked: Asked) -> None:
    """Tokens are signed by a key that is not published, or that takes one's name."""
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kid = {"kid": base64std(bytes(32))} if asked.value == "unknown" else {}
    site.mutate(asked, "signer", lambda _: other)
    site.mutate(asked, "header", lambda members: members | kid)


@fault("maa", "rotate", optional(choice("keep", "drop"), "keep"))
async def rotate(site: Site, asked: Asked) -> None:
    """A new key signs from now on; the old ones stay published, or not (event)."""
    site.emulator.maa.keys.rotate(keep_old=asked.value == "keep")


@fault("maa", "jwks", Value(choice("empty", "stale")), OF_ANSWERS)
async def jwks(site: Site, asked: Asked) -> None:
    """The key set at /certs is empty, or does not have the newest key yet."""

    def shorten(document: dict[str, Any]) -> dict[str, Any]:
        keys = document["keys"][:-1] if asked.value == "stale" else []
        return document | {"keys": keys}

    site.mutate(asked, "jwks", shorten)


@fault("maa", "clock", Value(grammar.SKEW), OF_ANSWERS)
async def clock(site: Site, asked: Asked) -> None:
    """The provider's clock is off: all three times of its tokens are."""

    def shift(claims: _Claims) -> _Claims:
        # Another fault may have made something else of one of them.
        times = {n: claims[n] for n in _TIMES if _is_number(claims.get(n))}
        return claims | {name: int(at + asked.value) for name, at in times.items()}

    site.mutate(asked, "claims", shift)


@fault(
    "maa",
    "sealed",
    Value(choice("Jwt", "EncryptedInnerKey", "Iv", "AuthenticationData")),
    OF_ANSWERS,
)
async def sealed(site: Site, asked: Asked) -> None:
    """One bit of this member of AzureGuest's sealed answer is wrong."""

    def spoil(members: dict[str, Any]) -> dict[str, Any]:
        if asked.value == "Iv":
            parameters = members["EncryptionParams"]
            wrong = parameters | {"Iv": flip_base64(parameters["Iv"])}
            return members | {"EncryptionParams": wrong}
        return members | {asked.value: flip_base64(members[asked.value])}

    site.mutate(asked, "sealed", spoil)


@fault("azure", "clock", Value(grammar.SKEW))
async def azure_clock(site: Site, asked: Asked) -> None:
    """The clock of all services is off by so much; negative: behind."""
    site.emulator.azure.clock.skew_seconds = asked.value
