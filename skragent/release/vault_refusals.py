"""The table of the vault's refusals with HTTP 403, and the meaning of each.

Two services, three permission models and two kinds of network rules have their own
texts. One code can stand for several refusals (`AccessDenied` is about a token or about
a permission), and some responses have no `innererror`. So a text that only one refusal
has decides first. skragent-errors(7), "What Azure says", shows this table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection


class Refusal(NamedTuple):
    """A refusal, recognised by any of its codes or any part of its message."""

    codes: tuple[str, ...]  # `error.code` or `error.innererror.code`
    words: tuple[str, ...]  # in the message, in lower case
    code: str  # ours
    hint: str


_ASK_AGAIN: Final = " `skragent refresh` asks at once."
# learn.microsoft.com: Azure RBAC limits, "Symptom - Role assignment changes are not
# being detected". Access policies and Managed HSM's local roles have no such delay.
_ROLE_TAKES_TIME: Final = (
    " It can take ten minutes to apply, or a day if a group has the role;"
    " `skragent refresh` asks at once."
)

REFUSALS: Final = (
    # The two messages about the token come first: they have `AccessDenied` as well.
    Refusal(
        codes=(),
        words=("cannot be verified",),
        code="release.unverified",
        hint="Often passes by itself: the vault could not verify the token just now. If"
        " it stays, compare `authority` in the release policy with the attestation"
        " endpoint.",
    ),
    Refusal(
        codes=(),
        words=("key release policy",),
        code="release.denied.policy",
        hint="`authority` of the key's release policy must be the attestation endpoint,"
        " and this VM must meet every claim: compare with `skragent report`. Its"
        " `vm id` in upper case is the policy's `x-ms-azurevm-vmid`; a VM that was"
        " deleted and created again has a new id.",
    ),
    Refusal(
        codes=("KeyDisabled",),
        words=("disabled key",),
        code="release.denied.disabled",
        hint="Enable the key's version in the vault, or configure another one.",
    ),
    # Azure releases keys outside `nbf` and `exp` (Microsoft, "About keys",
    # "Date-time controlled operations"). If a vault does not, that is a fault and no
    # denial: it may be about a newer version than the held one, and the held one ends
    # by its own `exp`.
    Refusal(
        codes=("KeyExpired",),
        words=("expired key",),
        code="release.expired",
        hint="The key is beyond its attribute `exp`: rotate it, or change `exp`. A"
        " held version is served until its own `exp`.",
    ),
    Refusal(
        codes=("KeyNotYetValid",),
        words=("not yet valid",),
        code="release.not_yet_valid",
        hint="The key is before its attribute `nbf`: wait, or change `nbf`. Compare"
        " this VM's clock, too.",
    ),
    # terraform-provider-azurerm and azure-cli#31406 have both messages.
    Refusal(
        codes=("ForbiddenByConnection",),
        words=("approved private link", "public network access is disabled"),
        code="release.denied.connection",
        hint="The vault admits private endpoints only. Give this VM's network an"
        " approved private endpoint of the vault, and the private DNS zone"
        " `privatelink.vaultcore.azure.net` (of a Managed HSM"
        " `privatelink.managedhsm.azure.net`): `getent ahosts VAULT` must show a"
        " private address.",
    ),
    Refusal(
        codes=("ForbiddenByFirewall",),
        words=("client address",),
        code="release.denied.firewall",
        hint="Admit this VM's network in the vault's firewall.",
    ),
    # Managed HSM: `AccessDenied` as the outer code (azure-cli#32719).
    Refusal(
        codes=(),
        words=("microsoft.keyvault/managedhsm",),
        code="release.denied.permission",
        hint="Give the identity the local role `Managed HSM Crypto Service Release"
        " User` of this HSM (`az keyvault role assignment create --hsm-name HSM"
        " --scope /keys/KEY …`)." + _ASK_AGAIN,
    ),
    Refusal(
        codes=("ForbiddenByRbac",),
        words=("caller is not authorized to perform action",),
        code="release.denied.permission",
        hint="Give the identity the role `Key Vault Crypto Service Release User` on"
        " the key or its vault (`az role assignment create …`)." + _ROLE_TAKES_TIME,
    ),
    Refusal(
        codes=("ForbiddenByPolicy",),
        words=("permission on key vault",),
        code="release.denied.permission",
        hint="Give the identity the key permission `release` in the vault's access"
        " policy (`az keyvault set-policy --key-permissions get release …`)."
        + _ASK_AGAIN,
    ),
    Refusal(
        codes=("AccessDenied",),
        words=(),
        code="release.denied.permission",
        hint="Give the identity `Key Vault Crypto Service Release User` (with access"
        " policies, the key permission `release`; on a Managed HSM, the local role"
        " `Managed HSM Crypto Service Release User`)." + _ASK_AGAIN,
    ),
)


def find_refusal(codes: Collection[str], message: str) -> Refusal | None:
    """Return the first refusal of the table that has one of these codes or words."""
    text = message.lower()
    for refusal in REFUSALS:
        if not set(refusal.codes).isdisjoint(codes):
            return refusal
        if any(words in text for words in refusal.words):
            return refusal
    return None
