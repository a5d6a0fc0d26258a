"""Release policies: grammar, storage and evaluation.

Azure Key Vault's policy grammar, version 1.0.0: `anyOf` of authorities, each with one
`allOf` or `anyOf` of nested conditions. The grammar lists seven operators. The text
below it says that the service supports only `equals`, and so does this module. `equals`
compares the string forms of scalars, with case. A dot in a claim's name separates the
members of nested objects. A claim that is missing or not a scalar equals nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from skragent.emulator.encoding import dump_json
from skragent.emulator.service import RefusalError

MALFORMED = "AKV.SKR.1010: The release policy is malformed"
_VERSION = "1.0.0"
_MAX_DEPTH = 16
_MAX_BYTES = 64 * 1024
_QUANTIFIERS = {"allOf": all, "anyOf": any}


@dataclass(frozen=True, slots=True)
class Condition:
    """A claim and its required value, as text."""

    claim: str
    equals: str


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions, of which all or any must hold."""

    quantifier: str
    members: tuple[Condition | Group, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy: a group of conditions for each authority, in order."""

    authorities: tuple[tuple[str, Group], ...]
    document: dict[str, Any]

    def trusts(self, issuer: str) -> bool:
        """Return whether an authority is this issuer; a trailing slash is ignored."""
        return any(_same_authority(url, issuer) for url, _ in self.authorities)

    def is_satisfied_by(self, claims: dict[str, Any]) -> bool:
        """Return whether a verified token's claims satisfy one of the authorities."""
        issuer = str(claims.get("iss"))
        return any(
            _same_authority(url, issuer) and _holds(group, claims)
            for url, group in self.authorities
        )

    def as_vault_stores_it(self) -> bytes:
        """Encode as Key Vault returns it: version first, booleans as strings."""
        return dump_json(_with_text_booleans(self.document))

    def as_hsm_stores_it(self) -> bytes:
        """Encode as Managed HSM returns it: as it was sent, with sorted members."""
        return dump_json(self.document, sort=True)


def parse_policy(data: bytes) -> Policy:
    """Parse a policy.

    Raises:
        RefusalError: 400 BadParameter, with the invalid member. The number 1010 is
            the emulator's own: Azure's texts are unknown.
    """
    try:
        # JSON between systems is UTF-8 (RFC 8259 §8.1); `json.loads` of bytes would
        # also accept UTF-16 and UTF-32.
        text = data.decode("utf-8-sig")
        document = json.loads(text) if len(data) <= _MAX_BYTES else None
    except (ValueError, RecursionError) as error:
        raise _malformed("it is not JSON in UTF-8") from error
    if not isinstance(document, dict) or document.keys() != {"version", "anyOf"}:
        raise _malformed("it must be an object of `version` and `anyOf` alone")
    if document["version"] != _VERSION:
        raise _malformed(f"its version must be {_VERSION}")
    authorities = tuple(_authority(entry) for entry in _list_of(document, "anyOf"))
    ordered = {"version": document["version"], "anyOf": document["anyOf"]}
    return Policy(authorities, ordered)


def scalar_text(value: object) -> str | None:
    """Return the string form in which scalars are compared; None for other values."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return None


def _authority(entry: object) -> tuple[str, Group]:
    if not isinstance(entry, dict) or not isinstance(entry.get("authority"), str):
        raise _malformed("each entry of `anyOf` must name an `authority`")
    if not entry["authority"].startswith("https://"):
        raise _malformed("an `authority` must be an https URL")
    rest = {name: value for name, value in entry.items() if name != "authority"}
    return entry["authority"], _group(rest, 1)


def _group(entry: dict[str, Any], depth: int) -> Group:
    if depth > _MAX_DEPTH:
        raise _malformed("its conditions nest too deeply")
    if len(entry) != 1 or next(iter(entry)) not in _QUANTIFIERS:
        raise _malformed("exactly one of `allOf` and `anyOf` must be given")
    quantifier = next(iter(entry))
    members = [_member(value, depth) for value in _list_of(entry, quantifier)]
    return Group(quantifier, tuple(members))


def _member(entry: object, depth: int) -> Condition | Group:
    if not isinstance(entry, dict):
        raise _malformed("a condition must be an object")
    if "claim" not in entry:
        return _group(entry, depth + 1)
    text = scalar_text(entry.get("equals"))
    if entry.keys() != {"claim", "equals"} or text is None:
        raise _malformed("a condition must be a `claim` and what it `equals`, a scalar")
    if not isinstance(entry["claim"], str) or not entry["claim"]:
        raise _malformed("a `claim` must be the name of a claim")
    return Condition(entry["claim"], text)


def _list_of(entry: dict[str, Any], name: str) -> list[Any]:
    value = entry[name]
    if not isinstance(value, list) or not value:
        raise _malformed(f"`{name}` must be a list that is not empty")
    return value


def _malformed(why: str) -> RefusalError:
    return RefusalError(400, "BadParameter", f"{MALFORMED}: {why}.")


def _holds(node: Condition | Group, claims: dict[str, Any]) -> bool:
    if isinstance(node, Group):
        return _QUANTIFIERS[node.quantifier](_holds(m, claims) for m in node.members)
    value: Any = claims
    for part in node.claim.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return scalar_text(value) == node.equals


def _same_authority(authority: str, issuer: str) -> bool:
    return authority.removesuffix("/") == issuer.removesuffix("/")


def _with_text_booleans(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return [_with_text_booleans(member) for member in value]
    if isinstance(value, dict):
        return {name: _with_text_booleans(member) for name, member in value.items()}
    return value
