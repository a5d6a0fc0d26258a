"""The shared provider of Microsoft Azure Attestation for each Azure region.

A provider's URL is the `iss` of its tokens and the `authority` of a release policy. So
an unknown region is an error: no policy would name the provider of another region. The
names are those of `shared<code>.<code>.attest.azure.net` in Microsoft's
documentation (learn.microsoft.com: azure/attestation, "Basic concepts").
"""

from __future__ import annotations

from skragent.errors import AttestationError

_PUBLIC = "attest.azure.net"
_US_GOVERNMENT = "attest.azure.us"

_PUBLIC_CODES = {
    "australiacentral": "cau",
    "australiacentral2": "cau2",
    "australiaeast": "eau",
    "australiasoutheast": "sau",
    "austriaeast": "ate",
    "brazilsouth": "sbr",
    "brazilsoutheast": "sebr",
    "canadacentral": "cac",
    "canadaeast": "cae",
    "centralindia": "cin",
    "centralus": "cus",
    "centraluseuap": "cuse",
    "chilecentral": "clc",
    "eastasia": "easia",
    "eastus": "eus",
    "eastus2": "eus2",
    "eastus2euap": "eus2e",
    "francecentral": "frc",
    "francesouth": "frs",
    "germanynorth": "den",
    "germanywestcentral": "dewc",
    "israelcentral": "ilc",
    "italynorth": "itn",
    "japaneast": "jpe",
    "japanwest": "jpw",
    "jioindiacentral": "jinc",
    "jioindiawest": "jinw",
    "koreacentral": "krc",
    "koreasouth": "krs",
    "malaysiasouth": "mys",
    "mexicocentral": "mxc",
    "newzealandnorth": "nzn",
    "northcentralus": "ncus",
    "northeurope": "neu",
    "norwayeast": "noe",
    "norwaywest": "now",
    "polandcentral": "plc",
    "southafricanorth": "san",
    "southafricawest": "saw",
    "southcentralus": "scus",
    "southindia": "sin",
    "southeastasia": "sasia",
    "spaincentral": "esc",
    "swedencentral": "sec",
    "swedensouth": "ses",
    "switzerlandnorth": "swn",
    "switzerlandwest": "sww",
    "taiwannorth": "twn",
    "taiwannorthwest": "twnw",
    "uaecentral": "uaec",
    "uaenorth": "uaen",
    "uksouth": "uks",
    "ukwest": "ukw",
    "westcentralus": "wcus",
    "westeurope": "weu",
    "westindia": "win",
    "westus": "wus",
    "westus2": "wus2",
    "westus3": "wus3",
}
_US_GOVERNMENT_CODES = {
    "usgovvirginia": "ugv",
    "usgovarizona": "uga",
    "usgovtexas": "uga",
}


def shared_endpoint(location: str) -> str:
    """Return the URL of a region's shared provider.

    Args:
        location: the region in the spelling of IMDS or of the portal.

    Raises:
        AttestationError: token.endpoint, for a region that is not in the table.
    """
    region = location.lower().replace(" ", "")
    if code := _PUBLIC_CODES.get(region):
        return f"https://shared{code}.{code}.{_PUBLIC}"
    if code := _US_GOVERNMENT_CODES.get(region):
        return f"https://shared{code}.{code}.{_US_GOVERNMENT}"
    raise AttestationError(
        f"no shared attestation provider is known for the region {location[:64]!r}",
        code="token.endpoint",
        hint="Set attestation.endpoint to the provider that the release policy names.",
    )
