"""Faults of the vaults: keys, roles, policies, the throttle."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skragent.emulator.encoding import dump_json
from skragent.emulator.faults import grammar
from skragent.emulator.faults.catalogue import OF_REQUESTS, fault
from skragent.emulator.faults.grammar import (
    Asked,
    FaultError,
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

    from skragent.emulator.faults.context import Site
    from skragent.emulator.keyvault.key_store import KeyVersion, StoredKey
    from skragent.emulator.keyvault.vault import Vault
    from skragent.emulator.service import Request

_BOTH = "vault hsm"
_WINDOW_SECONDS = 10
_RELEASES = 10  # HSM keys, a vault and region, in those seconds (July 2026)
_KEY = optional(grammar.KEY, "")  # by default all keys


@fault(
    _BOTH,
    "throttle",
    optional(grammar.NUMBER, _RELEASES),
    {"retry_after": grammar.TEXT},
)
async def throttle(site: Site, asked: Asked) -> None:
    """Only so many (10) creations and releases in 10 s are allowed; then it is 429."""
    vault = site.vault(asked)
    monotonic = site.emulator.azure.clock.monotonic
    window = SlidingWindow(asked.value, _WINDOW_SECONDS, monotonic)

    def count(request: Request) -> None:
        is_counted = request.path.endswith(("/release", "/create"))
        is_counted &= request.method == "POST"  # a key may be called `release`
        # Whether the challenge counts, nobody says.
        if is_counted and "authorization" in request.headers and not window.take():
            refusal = vault.refusal_of(request, 429)
            if "retry_after" in asked.options:
                refusal.headers["Retry-After"] = asked.options["retry_after"]
            raise refusal

    site.guard(asked, count)


@fault(_BOTH, "key.disabled", _KEY)
async def key_disabled(site: Site, asked: Asked) -> None:
    """The key, or each one, is disabled in all its versions: 403 KeyDisabled."""
    _change_versions(site, asked, lambda version: replace(version, enabled=False))


@fault(_BOTH, "key.expired", _KEY)
async def key_expired(site: Site, asked: Asked) -> None:
    """The key's `exp` passed a minute ago; the vault still releases the key."""
    expires = int(site.emulator.azure.clock.now()) - 60
    _change_versions(site, asked, lambda version: replace(version, expires=expires))


@fault(_BOTH, "key.early", _KEY)
async def key_early(site: Site, asked: Asked) -> None:
    """The key's `nbf` is an hour from now; it is released all the same."""
    begins = int(site.emulator.azure.clock.now()) + 3600
    _change_versions(site, asked, lambda version: replace(version, not_before=begins))


@fault(_BOTH, "key.deleted", _KEY)
async def key_deleted(site: Site, asked: Asked) -> None:
    """The key, or each one, is gone: 404 KeyNotFound."""
    _change_key(site, asked, lambda _: None)


@fault(_BOTH, "key.policy", _KEY)
async def key_policy(site: Site, asked: Asked) -> None:
    """The key's release policy was changed to one that no VM satisfies."""
    claim = {"claim": "x-ms-compliance-status", "equals": "nothing-complies"}
    authority = {"authority": site.emulator.maa.issuer, "allOf": [claim]}
    policy = dump_json({"version": "1.0.0", "anyOf": [authority]})
    _change_key(site, asked, lambda key: replace(key, policy=policy))


@fault(_BOTH, "key.rotated", Value(grammar.KEY))
async def key_rotated(site: Site, asked: Asked) -> None:
    """The key has a new version of its kind; the old ones stay (event)."""
    vault = site.vault(asked)
    kind = kind_of(_find_key(vault, asked.value).latest.material)
    # An RSA key may take a second, in which the services must go on.
    material = await asyncio.to_thread(create_material, kind)
    key = _find_key(vault, asked.value)  # as it is by now
    now = site.emulator.azure.clock.now()
    vault.store.save(add_version(key, key.name, {}, material, is_hsm_key=True, now=now))


@fault(
    _BOTH,
    "role.revoked",
    optional(choice("all", *sorted(ALL_PERMISSIONS)), "all"),
)
async def role_revoked(site: Site, asked: Asked) -> None:
    """This permission (all of them) is taken from everybody: 403."""
    revoked = {asked.value} if asked.value != "all" else ALL_PERMISSIONS
    site.vault(asked).access.suspended |= frozenset(revoked)


@fault("vault", "rbac")
async def rbac(site: Site, asked: Asked) -> None:
    """The vault says no in the words of Azure RBAC, not of access policies."""
    access = site.vault(asked).access
    before = access.model

    async def restore() -> None:
        access.model = before

    site.on_reset(restore)
    access.model = "rbac"


@fault(_BOTH, "firewall", None, OF_REQUESTS)
async def firewall(site: Site, asked: Asked) -> None:
    """The vault's firewall does not know the client: 403 ForbiddenByFirewall."""
    _forbid(
        site,
        asked,
        "Client address (127.0.0.1) is not authorized and caller is not a trusted"
        " service",
        "ForbiddenByFirewall",
    )


@fault(_BOTH, "private", None, OF_REQUESTS)
async def private(site: Site, asked: Asked) -> None:
    """The vault admits private endpoints only: 403 ForbiddenByConnection."""
    _forbid(
        site,
        asked,
        "Public network access is disabled and request is not from a trusted service"
        " nor via an approved private link.",
        "ForbiddenByConnection",
    )


@fault(_BOTH, "unverified", None, {"times": grammar.NUMBER})
async def unverified(site: Site, asked: Asked) -> None:
    """Releases are 403: the token `cannot be verified`, as when MAA is out of reach."""
    _forbid(
        site,
        replace(asked, options={"path": "/release"} | dict(asked.options)),
        "Target environment attestation statement cannot be verified.",
        "AccessDenied",
        is_authenticated=True,
    )


@fault(_BOTH, "unauthorized", None, OF_REQUESTS)
async def unauthorized(site: Site, asked: Asked) -> None:
    """The vault takes no access token: 401 with the challenge."""
    vault = site.vault(asked)

    def refuse(request: Request) -> None:
        if "authorization" in request.headers:
            raise RefusalError(
                401,
                "Unauthorized",
                "[TokenExpired] Error validating token: 'S2S12086'.",
                headers=vault.challenge,
            )

    site.guard(asked, refuse)


def _forbid(
    site: Site,
    asked: Asked,
    message: str,
    inner: str,
    *,
    is_authenticated: bool = False,
) -> None:
    def refuse(request: Request) -> None:
        if not is_authenticated or "authorization" in request.headers:
            raise RefusalError(403, "Forbidden", message, inner=inner)

    site.guard(asked, refuse)


def _change_key(
    site: Site, asked: Asked, change: Callable[[StoredKey], StoredKey | None]
) -> None:
    """Show a key otherwise than it is kept."""
    if asked.value:
        _find_key(site.vault(asked), asked.value)

    def of_key(key: StoredKey | None) -> Any:  # noqa: ANN401 - a key, or none
        is_meant = not asked.value or (
            key is not None and key.name.lower() == asked.value.lower()
        )
        return change(key) if key is not None and is_meant else key

    # The same fault of two keys is two faults.
    named = replace(asked, text=f"{asked.name}:{asked.value}")
    site.mutate(named, "key", of_key)


def _find_key(vault: Vault, name: str) -> StoredKey:
    key = vault.store.find(name)
    if key is None:
        known = ", ".join(vault.store.names) or "none"
        raise FaultError(f"{vault.name} has no key `{name}`; it has {known}")
    return key


def _change_versions(
    site: Site, asked: Asked, change: Callable[[KeyVersion], KeyVersion]
) -> None:
    _change_key(
        site, asked, lambda k: replace(k, versions=[change(v) for v in k.versions])
    )
