"""Azure's clouds: where vaults live and who issues access tokens.

Source: Azure's own list of clouds (azure-cli cloud.py), and azure-identity's
AzureAuthorityHosts.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Cloud(NamedTuple):
    """One of Azure's clouds."""

    authority: str  # Entra ID's origin
    suffixes: tuple[str, str]  # of vaults and of Managed HSMs


CLOUDS: Final = {
    "public": Cloud(
        "https://login.microsoftonline.com", ("vault.azure.net", "managedhsm.azure.net")
    ),
    "usgovernment": Cloud(
        "https://login.microsoftonline.us",
        ("vault.usgovcloudapi.net", "managedhsm.usgovcloudapi.net"),
    ),
    "china": Cloud(
        "https://login.chinacloudapi.cn", ("vault.azure.cn", "managedhsm.azure.cn")
    ),
}


def cloud_of(vault: str) -> str:
    """Name the cloud that a vault is of; empty where its host is nobody's here.

    Args:
        vault: https://HOST[:PORT]
    """
    host = vault.partition("://")[2].partition("/")[0].partition(":")[0].lower()
    for name, cloud in CLOUDS.items():
        if host.endswith(tuple(f".{suffix}" for suffix in cloud.suffixes)):
            return name
    return ""
