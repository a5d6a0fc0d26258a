"""Faults of the vaults: keys, permissions, policies, rate limits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skragent.emulator.encoding import dump_json
from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import REQUEST_OPTIONS, fault
from skragent.emulator.faults.grammar import (
    FaultError,
    FaultSpec,
    Value,
    choice,
    optional,
)
from skragent.emulator.keyvault.access_control import ALL_PERMISSIONS
from skragent.emulator.keyvault.key_changes import add_version
from skragent.emulator.keyvault.key_material import create_material, kind_of
from skragent.emulator.service import RefusalError
from skragent.emulator.throttle import SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.emulator.faults.context import FaultContext
    from skragent.emulator.keyvault.key_store import KeyVersion, StoredKey
    from skragent.emulator.keyvault.vault import Vault
    from skragent.emulator.service import Request

_BOTH = "vault hsm"
_WINDOW_SECONDS = 10
_RELEASES = 10  # HSM keys, per vault and region, in those seconds (July 2026)
_KEY = optional(grammar.KEY, "")  # default: all keys


@fault(
    _BOTH,
    "throttle",
    optional(grammar.NUMBER, _RELEASES),
    {"retry_after": grammar.TEXT},
)
async def throttle(context: FaultContext, spec: FaultSpec) -> None:
    """Only this many (10) creations and releases per 10 s are allowed; then 429."""
    vault = context.vault(spec)
    monotonic = context.emulator.azure.clock.monotonic
    window = SlidingWindow(spec.value, _WINDOW_SECONDS, monotonic)

    def count(request: Request) -> None:
        is_counted = request.path.endswith(("/release", "/create"))
        is_counted &= request.method == "POST"  # a key may have the name `release`
        # Microsoft does not document whether the challenge counts; here it does not.
        if is_counted and "authorization" in request.headers and not window.take():
            refusal = vault.refusal_of(request, 429)
            if "retry_after" in spec.options:
                refusal.headers["Retry-After"] = spec.options["retry_after"]
            raise refusal

    context.guard(spec, count)


@fault(_BOTH, "key.disabled", _KEY)
async def key_disabled(context: FaultContext, spec: FaultSpec) -> None:
    """The key, or every key, is disabled in all versions: 403 KeyDisabled."""
    _change_versions(context, spec, lambda version: replace(version, enabled=False))


@fault(_BOTH, "key.expired", _KEY)
async def key_expired(context: FaultContext, spec: FaultSpec) -> None:
    """The key's `exp` passed a minute ago; the vault still releases the key."""
    expires = int(context.emulator.azure.clock.now()) - 60
    _change_versions(context, spec, lambda version: replace(version, expires=expires))


@fault(_BOTH, "key.early", _KEY)
async def key_early(context: FaultContext, spec: FaultSpec) -> None:
    """The key becomes valid in an hour (`nbf`); it is still released."""
    begins = int(context.emulator.azure.clock.now()) + 3600
    _change_versions(context, spec, lambda version: replace(version, not_before=begins))


@fault(_BOTH, "key.deleted", _KEY)
async def key_deleted(context: FaultContext, spec: FaultSpec) -> None:
    """The key, or every key, is missing: 404 KeyNotFound."""
    _change_key(context, spec, lambda _: None)


@fault(_BOTH, "key.policy", _KEY)
async def key_policy(context: FaultContext, spec: FaultSpec) -> None:
    """The key's release policy cannot be satisfied by any VM."""
    claim = {"claim": "x-ms-compliance-status", "equals": "nothing-complies"}
    authority = {"authority": context.emulator.maa.issuer, "allOf": [claim]}
    policy = dump_json({"version": "1.0.0", "anyOf": [authority]})
    _change_key(context, spec, lambda key: replace(key, policy=policy))


@fault(_BOTH, "key.rotated", Value(grammar.KEY))
async def key_rotated(context: FaultContext, spec: FaultSpec) -> None:
    """The key has a new version of its kind; old versions stay (event)."""
    vault = context.vault(spec)
    kind = kind_of(_find_key(vault, spec.value).latest.material)
    # Generating an RSA key may take a second; the services must not wait for it.
    material = await asyncio.to_thread(create_material, kind)
    key = _find_key(vault, spec.value)  # it may have changed
    now = context.emulator.azure.clock.now()
    vault.store.save(add_version(key, key.name, {}, material, is_hsm_key=True, now=now))


@fault(
    _BOTH,
    "role.revoked",
    optional(choice("all", *sorted(ALL_PERMISSIONS)), "all"),
)
async def role_revoked(context: FaultContext, spec: FaultSpec) -> None:
    """Every identity lacks this permission (all): 403."""
    revoked = {spec.value} if spec.value != "all" else ALL_PERMISSIONS
    context.vault(spec).access.suspended |= frozenset(revoked)


@fault("vault", "rbac")
async def rbac(context: FaultContext, spec: FaultSpec) -> None:
    """The vault denies access with the texts of Azure RBAC."""
    access = context.vault(spec).access
    before = access.model

    async def restore() -> None:
        access.model = before

    context.on_reset(restore)
    access.model = "rbac"


@fault(_BOTH, "firewall", None, REQUEST_OPTIONS)
async def firewall(context: FaultContext, spec: FaultSpec) -> None:
    """The vault's firewall blocks the client: 403 ForbiddenByFirewall."""
    _forbid(
        context,
        spec,
        "Client address (127.0.0.1) is not authorized and caller is not a trusted"
        " service",
        "ForbiddenByFirewall",
    )


@fault(_BOTH, "private", None, REQUEST_OPTIONS)
async def private(context: FaultContext, spec: FaultSpec) -> None:
    """The vault allows only private endpoints: 403 ForbiddenByConnection."""
    _forbid(
        context,
        spec,
        "Public network access is disabled and request is not from a trusted service"
        " nor via an approved private link.",
        "ForbiddenByConnection",
    )


@fault(_BOTH, "unverified", None, {"times": grammar.NUMBER})
async def unverified(context: FaultContext, spec: FaultSpec) -> None:
    """Releases get 403 `cannot be verified`, as when the vault cannot reach MAA."""
    _forbid(
        context,
        replace(spec, options={"path": "/release"} | dict(spec.options)),
        "Target environment attestation statement cannot be verified.",
        "AccessDenied",
        is_authenticated=True,
    )


@fault(_BOTH, "unauthorized", None, REQUEST_OPTIONS)
async def unauthorized(context: FaultContext, spec: FaultSpec) -> None:
    """The vault rejects access tokens: 401 with the challenge."""
    vault = context.vault(spec)

    def refuse(request: Request) -> None:
        if "authorization" in request.headers:
            raise RefusalError(
                401,
                "Unauthorized",
                "[TokenExpired] Error validating token: 'S2S12086'.",
                headers=vault.challenge,
            )

    context.guard(spec, refuse)


def _forbid(
    context: FaultContext,
    spec: FaultSpec,
    message: str,
    inner: str,
    *,
    is_authenticated: bool = False,
) -> None:
    def refuse(request: Request) -> None:
        if not is_authenticated or "authorization" in request.headers:
            raise RefusalError(403, "Forbidden", message, inner=inner)

    context.guard(spec, refuse)


def _change_key(
    context: FaultContext,
    spec: FaultSpec,
    change: Callable[[StoredKey], StoredKey | None],
) -> None:
    """Change a key when it is read; the store is not changed."""
    if spec.value:
        _find_key(context.vault(spec), spec.value)

    def of_key(key: StoredKey | None) -> Any:  # noqa: ANN401 - a key, or none
        is_meant = not spec.value or (
            key is not None and key.name.lower() == spec.value.lower()
        )
        return change(key) if key is not None and is_meant else key

    # The same fault for two keys counts as two faults.
    named = replace(spec, text=f"{spec.name}:{spec.value}")
    context.mutate(named, "key", of_key)


def _find_key(vault: Vault, name: str) -> StoredKey:
    key = vault.store.find(name)
    if key is None:
        known = ", ".join(vault.store.names) or "none"
        raise FaultError(f"{vault.name} has no key `{name}`; it has {known}")
    return key


def _change_versions(
    context: FaultContext, spec: FaultSpec, change: Callable[[KeyVersion], KeyVersion]
) -> None:
    _change_key(
        context, spec, lambda k: replace(k, versions=[change(v) for v in k.versions])
    )
