"""Create and change keys from the bodies of create, import and update requests.

The rules for exportable keys and release policies have the service's own codes
(`AKV.SKR.…`). The functions change a stored key; the vault saves it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skragent.emulator.encoding import NotBase64Error, decode_base64
from skragent.emulator.keyvault.key_material import (
    bad_parameter,
    create_material,
    default_operations,
    kind_of,
)
from skragent.emulator.keyvault.key_store import KeyVersion, StoredKey, new_version_id
from skragent.emulator.keyvault.release_policy import parse_policy

if TYPE_CHECKING:
    from skragent.emulator.keyvault.key_store import Material


def add_version(
    existing: StoredKey | None,
    name: str,
    body: dict[str, Any],
    material: Material,
    *,
    is_hsm_key: bool,
    now: float,
) -> StoredKey:
    """Add a version to a key; create the key if it does not exist."""
    attributes = _object(body, "attributes")
    exportable = _flag(attributes, "exportable", default=False)
    key = existing or StoredKey(name, exportable)
    if "exportable" in attributes and exportable != key.exportable:
        raise bad_parameter(
            "AKV.SKR.1003: The exportable attribute of a key cannot be changed."
        )
    if key.exportable and not is_hsm_key:
        raise bad_parameter(
            "AKV.SKR.1006: Exportable keys must be of an HSM-protected key type."
        )
    set_policy(key, body)
    if key.exportable and not key.policy:
        raise bad_parameter("AKV.SKR.1004: Exportable keys must have release policy.")
    version = KeyVersion(
        version=new_version_id(),
        material=material,
        key_ops=[],
        created=int(now),
        updated=int(now),
    )
    version.key_ops = _operations(body) or default_operations(version.kty)
    _set_attributes(version, attributes)
    _set_tags(version, body)
    key.versions.append(version)
    return key


def rotate_key(key: StoredKey, *, now: float) -> None:
    """Add a version of the same kind, operations and tags as the latest version.

    A rotation policy could set an expiry time; emulated keys do not have one.
    """
    last = key.latest
    material = create_material(kind_of(last.material))
    key.versions.append(
        KeyVersion(
            version=new_version_id(),
            material=material,
            key_ops=[*last.key_ops],
            created=int(now),
            updated=int(now),
            tags={**last.tags},
        )
    )


def update_version(
    key: StoredKey,
    version: KeyVersion,
    body: dict[str, Any],
    *,
    is_versioned: bool,
    now: float,
) -> None:
    """Change attributes, operations, tags or the release policy."""
    if is_versioned and body.get("release_policy") is not None:
        raise bad_parameter(
            "AKV.SKR.1016: Key Release Policy can only be set on versionless key"
        )
    attributes = _object(body, "attributes")
    if _flag(attributes, "exportable", default=key.exportable) != key.exportable:
        raise bad_parameter(
            "AKV.SKR.1003: The exportable attribute of a key cannot be changed."
        )
    set_policy(key, body)
    version.key_ops = _operations(body) or version.key_ops
    _set_attributes(version, attributes)
    _set_tags(version, body)
    version.updated = int(now)


def set_policy(key: StoredKey, body: dict[str, Any]) -> None:
    """Set a key's release policy if the body has one."""
    if body.get("release_policy") is None:
        return
    document = _object(body, "release_policy")
    if not key.exportable:
        raise bad_parameter(
            "AKV.SKR.1005: Non-exportable keys must not have release policy."
        )
    try:
        policy = decode_base64(document.get("data"))
    except NotBase64Error as error:
        raise bad_parameter("release_policy.data is not base64url.") from error
    parse_policy(policy)
    if key.policy_is_immutable:
        raise bad_parameter(
            "AKV.SKR.1020: Immutable Key Release Policy cannot be modified."
        )
    key.policy = policy
    key.policy_is_immutable = _flag(document, "immutable", default=False)


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_parameter(f"{name} must be an object.")
    return value


def _flag(document: dict[str, Any], name: str, *, default: bool) -> bool:
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad_parameter(f"{name} must be true or false.")
    return value


def _operations(body: dict[str, Any]) -> list[str]:
    value = body.get("key_ops")
    if value is None and isinstance(body.get("key"), dict):
        value = body["key"].get("key_ops")
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise bad_parameter("key_ops must be a list of strings.")
    return list(value)


def _set_attributes(version: KeyVersion, attributes: dict[str, Any]) -> None:
    version.enabled = _flag(attributes, "enabled", default=version.enabled)
    for name, member in (("nbf", "not_before"), ("exp", "expires")):
        value = attributes.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise bad_parameter(f"{name} must be seconds since 1970.")
        setattr(version, member, value)


def _set_tags(version: KeyVersion, body: dict[str, Any]) -> None:
    tags = _object(body, "tags")
    if not all(isinstance(value, str) for value in tags.values()):
        raise bad_parameter("tags must be strings.")
    version.tags = tags or version.tags
