"""An emulated vault of Azure Key Vault or Managed HSM: routes, operations, release.

A request passes the bearer challenge, the api-version, the permission check and the
operation, in this order. Release verifies an attestation token against the key's
release policy, wraps the key to the token's wrapping key and signs the response with
the vault's TLS certificate.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from skragent.emulator.encoding import sign_jws
from skragent.emulator.keyvault.authentication import VaultService, api_version_of
from skragent.emulator.keyvault.key_changes import (
    add_version,
    rotate_key,
    update_version,
)
from skragent.emulator.keyvault.key_material import (
    bad_parameter,
    create_material,
    import_material,
)
from skragent.emulator.keyvault.lifecycle import KeyLifecycle, random_bytes
from skragent.emulator.keyvault.release import (
    parse_release_request,
    verify_policy,
    wrap_for_release,
)
from skragent.emulator.keyvault.release_policy import parse_policy
from skragent.emulator.service import RefusalError, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.emulator.clock import Clock
    from skragent.emulator.entra.access_tokens import AccessTokenIssuer
    from skragent.emulator.keyvault.access_control import Permission
    from skragent.emulator.keyvault.attestation_authorities import (
        AttestationAuthorities,
    )
    from skragent.emulator.keyvault.dialect import Dialect
    from skragent.emulator.keyvault.key_store import KeyStore, KeyVersion, StoredKey
    from skragent.emulator.keyvault.lifecycle import BackupSealer
    from skragent.emulator.pki import ServerIdentity

_KEY_NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
_LATEST = ""
_OPERATIONS = ("create", "versions", "release", "rotate", "backup")
# Operations that store the key again or copy it: they use the key without mutations.
_STORING = ("update", "rotate", "delete", "backup")
# Azure's operations that are not emulated: their names are not versions.
_NOT_EMULATED = ("rotationpolicy",)
_ALLOWED_WHILE_DISABLED = ("update", "list", "delete", "backup")


class Vault(VaultService):
    """A vault.

    Steps that can be mutated: `wrapping_key` and `target` (the bytes to wrap),
    `key_hsm`, `payload`, `header`, `signer` (the private key) and `jws` of a release;
    `bundle` of a get; `key` (a stored key that is read; None: not found).
    """

    steps = (
        "key",
        "wrapping_key",
        "target",
        "key_hsm",
        "payload",
        "header",
        "signer",
        "jws",
        "bundle",
    )

    def __init__(
        self,
        name: str,
        url: str,
        dialect: Dialect,
        store: KeyStore,
        sealer: BackupSealer,
        *,
        entra: AccessTokenIssuer,
        authorities: AttestationAuthorities,
        signer: ServerIdentity,
        clock: Clock,
    ) -> None:
        super().__init__(name, url, dialect, entra, clock)
        self.store = store
        self._lifecycle = KeyLifecycle(store, url, dialect, sealer)
        self.signer = signer
        self.authorities = authorities

    @override
    def respond(self, request: Request) -> Response:
        caller = self._authenticate(request)
        api_version = api_version_of(request)
        self.store.purge_expired(self._clock.now())
        collection, *parts = request.path.split("/")[1:] or [""]
        if len(parts) > 3:  # noqa: PLR2004 - name, version, operation
            raise _not_found(f"There is nothing at {request.path}.")
        name, version, operation = [*parts, "", "", ""][:3]
        if collection == "deletedkeys":
            return self._route_deleted(request, caller, name, "/".join(parts[1:]))
        if (request.method, collection, name) == ("POST", "rng", ""):
            return self._random_bytes(request, caller)
        if collection != "keys":
            raise _not_found(f"There is nothing at {request.path}.")
        if not name:
            self._authorize(caller, "list", "")
            return self._list()
        if not _KEY_NAME.fullmatch(name):
            raise bad_parameter(f"{name!r} is not the name of a key.")
        if (request.method, name, version) == ("POST", "restore", ""):
            self._authorize(caller, "restore", "")
            body = request.json_object("BadParameter")
            return Response.of_json(200, self._lifecycle.restore(body))
        if version in _NOT_EMULATED:
            raise _not_allowed()
        if version in _OPERATIONS and not operation:
            version, operation = _LATEST, version
        return self._route_key(request, caller, (name, version, operation), api_version)

    def _route_key(
        self,
        request: Request,
        caller: dict[str, Any],
        parts: tuple[str, str, str],
        api_version: str,
    ) -> Response:
        """Route a request about a key; the version may be empty."""
        name, version, operation = parts
        routes: dict[tuple[str, str], tuple[Permission, Callable[[], Response]]] = {
            ("POST", "release"): (
                "release",
                lambda: self._release(request, name, version, api_version),
            ),
            ("PATCH", ""): ("update", lambda: self._update(request, name, version)),
            ("POST", "create"): ("create", lambda: self._create(request, name)),
            ("GET", "versions"): ("list", lambda: self._list_versions(name)),
            ("GET", ""): ("get", lambda: self._bundle(*self._find(*parts[:2], "get"))),
        }
        if not version:
            routes |= {
                ("PUT", ""): ("import", lambda: self._import(request, name)),
                ("DELETE", ""): ("delete", lambda: self._delete(name)),
                ("POST", "rotate"): ("rotate", lambda: self._rotate(name)),
                ("POST", "backup"): ("backup", lambda: self._backup(name)),
            }
        if (request.method, operation) not in routes:
            raise _not_allowed()
        permission, serve = routes[request.method, operation]
        self._authorize(caller, permission, name)
        return serve()

    def _route_deleted(
        self, request: Request, caller: dict[str, Any], name: str, operation: str
    ) -> Response:
        route = (request.method, operation)
        if not name and route == ("GET", ""):
            self._authorize(caller, "list", "")
            return Response.of_json(200, self._lifecycle.list_deleted())
        if route == ("GET", ""):
            self._authorize(caller, "get", name)
            return Response.of_json(200, self._lifecycle.deleted(name))
        if route == ("DELETE", ""):
            self._authorize(caller, "purge", name)
            self._lifecycle.purge(name)
            return Response(204)
        if route == ("POST", "recover"):
            self._authorize(caller, "recover", name)
            return Response.of_json(200, self._lifecycle.recover(name))
        raise _not_allowed()

    def _authorize(
        self, caller: dict[str, Any], permission: Permission, name: str
    ) -> None:
        self.access.authorize(caller, permission, self.name, name)

    def _find(
        self, name: str, version: str, operation: str
    ) -> tuple[StoredKey, KeyVersion]:
        """Return a key's version; most operations require an enabled version."""
        key = self._stored(name, operation)
        found = key.version(version) if key else None
        if key is None or found is None:
            which = f"{name}/{version}" if version else name
            raise _not_found(
                f"A key with (name/id) {which} was not found in this key vault. If you"
                " recently deleted this key you may be able to recover it using the"
                " correct recovery command. For help resolving this issue, please see"
                " https://go.microsoft.com/fwlink/?linkid=2125182"
            )
        if not found.enabled and operation not in _ALLOWED_WHILE_DISABLED:
            raise RefusalError(
                403,
                "Forbidden",
                f"Operation {operation} is not allowed on a disabled key.",
                inner="KeyDisabled",
            )
        return key, found

    def _stored(self, name: str, operation: str) -> StoredKey | None:
        """Return a key, without mutations if the operation stores or copies it."""
        key = self.store.find(name)
        if key is None or operation in _STORING:
            return key
        changed: StoredKey | None = self._mutated("key", key)
        return changed

    def _bundle(self, key: StoredKey, version: KeyVersion) -> Response:
        bundle = self.dialect.bundle(self.url, key, version)
        return Response.of_json(200, self._mutated("bundle", bundle))

    def _create(self, request: Request, name: str) -> Response:
        body = request.json_object("BadParameter")
        return self._add(name, body, body, create=True)

    def _import(self, request: Request, name: str) -> Response:
        body = request.json_object("BadParameter")
        jwk = body.get("key")
        if not isinstance(jwk, dict):
            raise bad_parameter("The request body has no key.")
        return self._add(name, body, jwk, create=False)

    def _add(
        self, name: str, body: dict[str, Any], jwk: dict[str, Any], *, create: bool
    ) -> Response:
        is_hsm_key = (
            self.dialect.is_hsm
            or str(jwk.get("kty", "")).endswith("-HSM")
            or body.get("hsm", body.get("Hsm")) is True
        )
        self._lifecycle.verify_name(name)
        material = create_material(jwk) if create else import_material(jwk)
        key = add_version(
            self.store.find(name),
            name,
            body,
            material,
            is_hsm_key=is_hsm_key,
            now=self._clock.now(),
        )
        self.store.save(key)
        return self._bundle(key, key.latest)

    def _update(self, request: Request, name: str, version: str) -> Response:
        key, found = self._find(name, version, "update")
        body = request.json_object("BadParameter")
        now = self._clock.now()
        update_version(key, found, body, is_versioned=bool(version), now=now)
        self.store.save(key)
        return self._bundle(key, found)

    def _rotate(self, name: str) -> Response:
        key, _ = self._find(name, _LATEST, "rotate")
        rotate_key(key, now=self._clock.now())
        self.store.save(key)
        return self._bundle(key, key.latest)

    def _delete(self, name: str) -> Response:
        key, _ = self._find(name, _LATEST, "delete")
        return Response.of_json(200, self._lifecycle.delete(key, self._clock.now()))

    def _backup(self, name: str) -> Response:
        key, _ = self._find(name, _LATEST, "backup")
        return Response.of_json(200, self._lifecycle.backup(key))

    def _random_bytes(self, request: Request, caller: dict[str, Any]) -> Response:
        if not self.dialect.is_hsm:
            raise bad_parameter("The request URI contains an invalid name: rng")
        self._authorize(caller, "rng", "")
        body = request.json_object("BadParameter")
        return Response.of_json(200, random_bytes(body))

    def _list(self) -> Response:
        keys = (self._stored(name, "list") for name in self.store.names)
        return self._items([(key, key.latest, "") for key in keys if key])

    def _list_versions(self, name: str) -> Response:
        key, _ = self._find(name, _LATEST, "list")
        return self._items([(key, v, f"/{v.version}") for v in key.versions])

    def _items(self, items: list[tuple[StoredKey, KeyVersion, str]]) -> Response:
        value = [
            {
                "kid": f"{self.url}/keys/{key.name}{suffix}",
                "attributes": self.dialect.attributes(key, version),
            }
            for key, version, suffix in items
        ]
        return Response.of_json(200, {"value": value, "nextLink": None})

    def _release(
        self, request: Request, name: str, version: str, api_version: str
    ) -> Response:
        """Release a key to the bearer of an attestation token."""
        key, found = self._find(name, version, "release")
        asked = parse_release_request(request.json_object("BadParameter"))
        if not key.exportable:
            raise bad_parameter("The key is not exportable.")
        policy = parse_policy(key.policy)
        claims = self.authorities.verify(asked.token, policy, self._clock.now())
        verify_policy(policy, claims)
        key_hsm = wrap_for_release(asked, claims, found, self._mutated)
        released = self.dialect.released(
            self.url, key, found, self._mutated("key_hsm", key_hsm)
        )
        payload = {
            "request": {
                "api-version": api_version,
                "enc": asked.enc,
                "kid": f"{self.url}/keys/{name}" + (f"/{version}" if version else ""),
                **({} if asked.nonce is None else {"nonce": asked.nonce}),
            },
            "response": {"key": released},
        }
        encoded = self.dialect.encode_payload(self._mutated("payload", payload))
        header = self._mutated("header", self.dialect.jws_header(self.signer))
        token = sign_jws(header, encoded, self._mutated("signer", self.signer.key))
        return Response.of_json(200, {"value": self._mutated("jws", token)})


def _not_found(message: str) -> RefusalError:
    return RefusalError(404, "KeyNotFound", message)


def _not_allowed() -> RefusalError:
    return RefusalError(405, "MethodNotAllowed", "The method is not allowed here.")
