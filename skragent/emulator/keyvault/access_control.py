"""Permissions in a vault, and the texts of denials.

Key Vault has two models, access policies and RBAC; Managed HSM has local roles.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from skragent.emulator.service import RefusalError

Permission = Literal[
    "get",
    "list",
    "create",
    "import",
    "update",
    "release",
    "rotate",
    "delete",
    "recover",
    "purge",
    "backup",
    "restore",
    "rng",
]
ALL_PERMISSIONS: frozenset[Permission] = frozenset(get_args(Permission))
_HELP = "https://go.microsoft.com/fwlink/?linkid=2125287"
_ACTIONS: dict[Permission, str] = {
    "get": "read",
    "list": "read",
    "create": "create/action",
    "import": "import/action",
    "update": "update/action",
    "release": "release/action",
    "rotate": "rotate/action",
    "delete": "delete",
    "recover": "recover/action",
    "purge": "purge/action",
    "backup": "backup/action",
    "restore": "restore/action",
    "rng": "rng/action",
}
# The names in Managed HSM's local roles.
_HSM_ACTIONS: dict[Permission, str] = {
    "get": "read/action",
    "list": "read/action",
    "create": "create",
    "import": "import/action",
    "update": "write/action",
    "release": "release/action",
}


@dataclass(slots=True)
class AccessControl:
    """The permissions of each identity, by object id."""

    model: Literal["policies", "rbac", "hsm"] = "policies"
    grants: dict[str, frozenset[Permission]] = field(default_factory=dict)
    # Permissions that every identity lacks for now, regardless of its grants.
    suspended: frozenset[Permission] = frozenset()

    def grant(self, object_id: str, *permissions: Permission) -> None:
        """Grant an identity exactly these permissions; none listed means all."""
        self.grants[object_id] = frozenset(permissions or ALL_PERMISSIONS)

    def authorize(
        self, caller: dict[str, Any], permission: Permission, vault: str, key: str
    ) -> None:
        """Return if the caller has a permission; otherwise deny the request."""
        granted = self.grants.get(str(caller.get("oid")), frozenset())
        if permission in granted - self.suspended:
            return
        who = f"appid={caller['appid']};oid={caller['oid']};iss={caller['iss']}"
        if self.model == "policies":
            raise RefusalError(
                403,
                "Forbidden",
                f"The user, group or application '{who}' does not have keys"
                f" {permission} permission on key vault '{vault};location=eastus2'."
                f" For help resolving this issue, please see {_HELP}",
                inner="AccessDenied",
            )
        if self.model == "hsm":
            # `AccessDenied` is the outer code: azure-cli#32719.
            raise RefusalError(
                403,
                "AccessDenied",
                "Not authorized to access Microsoft.KeyVault/managedHsm/keys/"
                f"{_HSM_ACTIONS[permission]} on '/keys{f'/{key}' if key else ''}'"
                f" (Activity ID: {uuid.UUID(bytes=secrets.token_bytes(16))})",
            )
        raise RefusalError(
            403,
            "Forbidden",
            "Caller is not authorized to perform action on resource.\r\n"
            "If role assignments, deny assignments or role definitions were changed"
            " recently, please observe propagation time.\r\n"
            f"Caller: {who}\r\n"
            f"Action: 'Microsoft.KeyVault/vaults/keys/{_ACTIONS[permission]}'\r\n"
            f"Resource: '/vaults/{vault}/keys/{key}'\r\n"
            "Assignment: (not found)\r\nDenyAssignmentId: null\r\n"
            f"DecisionReason: null \r\nVault: {vault};location=eastus2\r\n",
            inner="ForbiddenByRbac",
        )
