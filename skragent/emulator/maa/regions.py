"""The shared attestation providers of all of Azure's regions, by host name.

A client that finds its provider by the VM's region, or whose release policy names the
provider of another region, must find that one here. The codes are Microsoft's
(learn.microsoft.com: azure/attestation, "Basic concepts").
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
