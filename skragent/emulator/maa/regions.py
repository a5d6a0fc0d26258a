"""The host names of the shared attestation providers of all Azure regions.

Clients may choose the provider of the VM's region, and release policies may name the
provider of another region. The region codes are Microsoft's (learn.microsoft.com:
azure/attestation, "Basic concepts").
"""

from __future__ import annotations

_PUBLIC_CODES = [
    "ate",
    "cac",
    "cae",
    "cau",
    "cau2",
    "cin",
    "clc",
    "cus",
    "cuse",
    "dewc",
    "den",
    "eau",
    "easia",
    "esc",
    "eus",
    "eus2",
    "eus2e",
    "frc",
    "frs",
    "ilc",
    "itn",
    "jinc",
    "jinw",
    "jpe",
    "jpw",
    "krc",
    "krs",
    "mxc",
    "mys",
    "ncus",
    "neu",
    "noe",
    "now",
    "nzn",
    "plc",
    "san",
    "sasia",
    "sau",
    "saw",
    "sbr",
    "scus",
    "sebr",
    "sec",
    "ses",
    "sin",
    "swn",
    "sww",
    "twn",
    "twnw",
    "uaec",
    "uaen",
    "uks",
    "ukw",
    "wcus",
    "weu",
    "win",
    "wus",
    "wus2",
    "wus3",
]
_US_GOVERNMENT_CODES = ("uga", "ugv")

ATTESTATION_HOSTS = (
    *(f"shared{code}.{code}.attest.azure.net" for code in _PUBLIC_CODES),
    *(f"shared{code}.{code}.attest.azure.us" for code in _US_GOVERNMENT_CODES),
)
