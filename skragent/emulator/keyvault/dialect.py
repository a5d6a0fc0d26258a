"""The differences between Key Vault and Managed HSM in bundles, releases and headers.

The order of members, the spellings and the missing fields are those of recordings of
the live services (2022) and of the clients' tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from skragent.emulator.encoding import base64std, base64url, dump_json
from skragent.emulator.keyvault.key_material import public_members
from skragent.emulator.keyvault.key_store import RECOVERABLE_DAYS
from skragent.emulator.keyvault.release_policy import parse_policy

if TYPE_CHECKING:
    from skragent.emulator.keyvault.key_store import KeyVersion, StoredKey
    from skragent.emulator.pki import ServerIdentity

_POLICY_TYPE = "application/json; charset=utf-8"
_RECOVERY = {
    "recoveryLevel": "CustomizedRecoverable+Purgeable",
    "recoverableDays": RECOVERABLE_DAYS,
}
_UNAUTHENTICATED = {
    "error": {
        "code": "Unauthorized",
        "message": "AKV10000: Request is missing a Bearer or PoP token.",
    }
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """The dialect of Key Vault or of Managed HSM."""

    kind: Literal["vault", "hsm"]

    @property
    def is_hsm(self) -> bool:
        """Whether this is Managed HSM's dialect."""
        return self.kind == "hsm"

    @property
    def unauthenticated_body(self) -> bytes:
        """The body of a 401 to a request without a token."""
        return b"" if self.is_hsm else dump_json(_UNAUTHENTICATED)

    def bundle(self, base: str, key: StoredKey, version: KeyVersion) -> dict[str, Any]:
        """Return a KeyBundle, the response to create, import and get."""
        bundle: dict[str, Any] = {
            "key": self._jwk(base, key, version, hsm_suffix=True),
            "attributes": self.attributes(key, version),
        }
        if version.tags:
            bundle["tags"] = version.tags
        if key.policy:
            bundle["release_policy"] = self._policy(key, content_type=True)
        return bundle

    def deletion(self, base: str, key: StoredKey) -> dict[str, Any]:
        """Return the additional members of a deleted key's bundle and list entry."""
        return {
            "recoveryId": f"{base}/deletedkeys/{key.name}",
            "deletedDate": key.deleted,
            "scheduledPurgeDate": key.purge_time,
        }

    def attributes(self, key: StoredKey, version: KeyVersion) -> dict[str, Any]:
        """Return the attributes of a version."""
        times = {"nbf": version.not_before, "exp": version.expires}
        return {
            "enabled": version.enabled,
            **{name: value for name, value in times.items() if value is not None},
            "created": version.created,
            "updated": version.updated,
            **_RECOVERY,
            "exportable": key.exportable,
        }

    def released(
        self, base: str, key: StoredKey, version: KeyVersion, key_hsm: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the released key of a release payload."""
        jwk = self._jwk(base, key, version, hsm_suffix=not self.is_hsm)
        jwk["key_hsm"] = base64url(dump_json(key_hsm, sort=self.is_hsm))
        released = {"key": jwk, "attributes": self.attributes(key, version)}
        if version.tags:
            released["tags"] = version.tags
        released["release_policy"] = self._policy(key, content_type=self.is_hsm)
        return released

    def encode_payload(self, payload: dict[str, Any]) -> bytes:
        """Encode a release payload; Managed HSM sorts its members."""
        return dump_json(payload, sort=self.is_hsm)

    def jws_header(self, signer: ServerIdentity) -> dict[str, Any]:
        """Return the header of a release JWS, signed with the TLS certificate."""
        sha1 = signer.leaf.fingerprint(hashes.SHA1())
        sha256 = base64url(signer.leaf.fingerprint(hashes.SHA256()))
        x5c = [base64std(c.public_bytes(Encoding.DER)) for c in signer.chain]
        if self.is_hsm:
            return {"alg": "RS256", "kid": sha256, "x5c": x5c, "x5t#S256": sha256}
        return {
            "alg": "RS256",
            "kid": sha1.hex().upper(),
            "x5t": base64url(sha1),
            "typ": "JWT",
            "x5t#S256": sha256,
            "x5c": x5c,
        }

    def headers(self, latency_ms: int) -> dict[str, str]:
        """Return the headers that identify the service."""
        if self.is_hsm:
            return {
                "x-ms-server-latency": str(latency_ms),
                "x-ms-build-version": "1.0.20260101-1-emulator",
                "x-ms-keyvault-network-info": "conn_type=Ipv4;addr=127.0.0.1",
                "x-ms-keyvault-region": "eastus2",
            }
        return {
            "x-ms-keyvault-region": "eastus2",
            "x-ms-keyvault-service-version": "1.9.0",
            "x-ms-keyvault-network-info": (
                "conn_type=Ipv4;addr=127.0.0.1;act_addr_fam=InterNetwork;"
            ),
            "x-ms-keyvault-rbac-assignment-id": "(not found)",
            "x-ms-keyvault-rbac-cache": "ra_age=0;da_age=0;rd_age=0;tg_notap=1;",
        }

    def _jwk(
        self, base: str, key: StoredKey, version: KeyVersion, *, hsm_suffix: bool
    ) -> dict[str, Any]:
        """Return a public JWK; in releases, Managed HSM omits the suffix `-HSM`."""
        return {
            "kid": f"{base}/keys/{key.name}/{version.version}",
            "kty": version.kty + ("-HSM" if hsm_suffix else ""),
            "key_ops": version.key_ops,
            **public_members(version.material, pad_exponent=not self.is_hsm),
        }

    def _policy(self, key: StoredKey, *, content_type: bool) -> dict[str, Any]:
        policy = parse_policy(key.policy)
        data = policy.as_hsm_stores_it() if self.is_hsm else policy.as_vault_stores_it()
        head = {"contentType": _POLICY_TYPE} if content_type else {}
        return {**head, "data": base64url(data), "immutable": key.policy_is_immutable}
