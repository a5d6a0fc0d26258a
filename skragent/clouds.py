"""Azure's clouds: the domains of vaults, and the issuer of access tokens.

Source: Azure's own list of clouds (azure-cli cloud.py), and azure-identity's
AzureAuthorityHosts. Names of private endpoints: Microsoft, "Azure Private Endpoint
private DNS zone values".
"""

from __future__ import annotations

import difflib
import ipaddress
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


# Key Vault's DNS zones of private endpoints differ from the domain of its URLs.
_PRIVATE_LABEL: Final = "privatelink"
_PRIVATE_VAULT: Final = "vaultcore."


def cloud_of(vault: str) -> str:
    """Return the name of a vault's cloud; empty if no cloud has its domain.

    Args:
        vault: https://HOST[:PORT]
    """
    host = _host_of(vault)
    for name, cloud in CLOUDS.items():
        if host.endswith(tuple(f".{suffix}" for suffix in cloud.suffixes)):
            return name
    return ""


def judge_vault_host(vault: str, *, cloud: str, path: str = "") -> str:
    """Return a warning about a vault's host with the remedy; empty: nothing is odd.

    An IP address or a name without a dot belongs to an emulator: no warning.

    Args:
        vault: https://HOST[:PORT]
        cloud: one of CLOUDS.
        path: of the setting's value, behind the vault's URL: /keys/NAME[/VERSION].
    """
    host = _host_of(vault)
    if public := _name_without_private_link(host):
        return (
            f"`{host}` is the DNS name of a private endpoint: write"
            f" https://{public}{path},"
            " which resolves to the private endpoint inside its network"
        )
    if "." not in host or _is_address(host) or cloud_of(vault):
        return ""
    suffixes = CLOUDS[cloud].suffixes
    every = [suffix for one in CLOUDS.values() for suffix in one.suffixes]
    if host in every:
        return f"the vault's name is missing: write https://NAME.{host}{path}"
    name, _, suffix = host.partition(".")
    # A misspelt suffix may be as near to that of another cloud.
    near = difflib.get_close_matches(suffix, suffixes, 1)
    if near := near or difflib.get_close_matches(suffix, every, 1):
        return (
            f"no cloud of Azure has vaults under `{suffix}`: write"
            f" https://{name}.{near[0]}{path}"
        )
    return (
        f"no cloud of Azure has vaults under `{suffix}`: write"
        f" https://NAME.{suffixes[0]}{path} or https://NAME.{suffixes[1]}{path}"
    )


def _host_of(vault: str) -> str:
    return vault.partition("://")[2].partition("/")[0].partition(":")[0].lower()


def _name_without_private_link(host: str) -> str:
    """Return the vault's own name for that of its private endpoint; else empty."""
    name, *rest = host.split(".")
    if rest[:1] == [_PRIVATE_LABEL]:
        rest = rest[1:]
    elif rest[:1] != [_PRIVATE_VAULT.rstrip(".")]:
        return ""
    suffix = ".".join(rest)
    if suffix.startswith(_PRIVATE_VAULT):
        suffix = f"vault.{suffix.removeprefix(_PRIVATE_VAULT)}"
    public = f"{name}.{suffix}"
    return public if cloud_of(f"https://{public}") else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
