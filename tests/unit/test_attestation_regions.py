"""Regions and their shared providers."""

from __future__ import annotations

import pytest

from skragent.attestation.regions import shared_endpoint
from skragent.errors import AttestationError, Disposition


@pytest.mark.parametrize(
    ("location", "endpoint"),
    [
        ("westeurope", "https://sharedweu.weu.attest.azure.net"),
        ("eastus2", "https://sharedeus2.eus2.attest.azure.net"),
        ("West Europe", "https://sharedweu.weu.attest.azure.net"),
        ("USGovVirginia", "https://sharedugv.ugv.attest.azure.us"),
        ("usgovtexas", "https://shareduga.uga.attest.azure.us"),
    ],
)
def test_region_has_its_shared_provider(location: str, endpoint: str) -> None:
    assert shared_endpoint(location) == endpoint


@pytest.mark.parametrize("location", ["", "atlantis", "chinanorth3", "westeurope/"])
def test_unknown_region_says_what_to_configure(location: str) -> None:
    with pytest.raises(AttestationError) as caught:
        shared_endpoint(location)
    assert caught.value.code == "token.endpoint"
    assert caught.value.disposition is Disposition.RETRY_SLOWLY
    assert "attestation.endpoint" in caught.value.hint
