"""Who may do what in a vault, and the words in which it says no.

Two ways of Key Vault, access policies and RBAC, and the local roles of Managed HSM.
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
# As the local roles of Managed HSM name them.
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
    """The permissions of each identity, by its object id."""

    model: Literal["policies", "rbac", "hsm"] = "policies"
    grants: dict[str, frozenset[Permission]] = field(default_factory=dict)
    # What nobody may do for now, whatever was granted.
    suspended: frozenset[Permission] = frozenset()

    def grant(self, object_id: str, *permissions: Permission) -> None:
        """Give an identity these permissions and no others; all when none is named."""
        self.grants[object_id] = frozenset(permissions or ALL_PERMISSIONS)

    def revoke(self, object_id: str) -> None:
        """Take everything from an identity."""
        self.grants.pop(object_id, None)

    def authorize(
        self, caller: dict[str, Any], permission: Permission, vault: str, key: str
    ) -> None:
        """Let the caller pass, or refuse in the words of this model."""
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
