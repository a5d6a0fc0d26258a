"""Managed identities, and the VM's names in Azure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

TENANT_ID = "5c0ffee0-0000-4000-8000-000000000001"
SUBSCRIPTION_ID = "5c0ffee0-0000-4000-8000-000000000002"
RESOURCE_GROUP = "skragent-emulator"
VM_NAME = "emulated-cvm"
_PROVIDERS = (
    f"/subscriptions/{SUBSCRIPTION_ID}/resourcegroups/{RESOURCE_GROUP}/providers"
)
VM_RESOURCE_ID = f"{_PROVIDERS}/Microsoft.Compute/virtualMachines/{VM_NAME}"


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """An identity that is assigned to the VM."""

    name: str
    client_id: str
    object_id: str
    is_system_assigned: bool = False

    @property
    def resource_id(self) -> str:
        """The id of the Azure resource; for a system-assigned identity, the VM."""
        if self.is_system_assigned:
            return VM_RESOURCE_ID
        return (
            f"{_PROVIDERS}/Microsoft.ManagedIdentity/userAssignedIdentities/{self.name}"
        )


def derive_id(name: str, kind: str) -> str:
    """Derive an id from a name; it is the same at every start."""
    return str(uuid.uuid5(uuid.UUID(TENANT_ID), f"{name}/{kind}"))


def make_identity(name: str, *, is_system_assigned: bool = False) -> ManagedIdentity:
    """Make an identity whose ids are derived from its name."""
    return ManagedIdentity(
        name,
        client_id=derive_id(name, "client"),
        object_id=derive_id(name, "object"),
        is_system_assigned=is_system_assigned,
    )
