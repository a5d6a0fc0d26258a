"""Entra ID's discovery documents, which tell clients its endpoints and hosts."""

from __future__ import annotations

import urllib.parse
from typing import Any

from skragent.emulator.addresses import ENTRA_HOST
from skragent.emulator.entra.errors import bad_request
from skragent.emulator.imds.identities import TENANT_ID

# The real document lists several clouds; the emulator has the public cloud only.
_ALIASES = [ENTRA_HOST, "login.windows.net", "login.microsoft.com", "sts.windows.net"]


def openid_configuration(origin: str) -> dict[str, Any]:
    """Return the tenant's metadata (OpenID Connect Discovery 1.0 §3)."""
    start = f"{origin}/{TENANT_ID}"
    return {
        "token_endpoint": f"{start}/oauth2/v2.0/token",
        "token_endpoint_auth_methods_supported": [
            "client_secret_post",
            "private_key_jwt",
        ],
        "jwks_uri": f"{start}/discovery/v2.0/keys",
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": f"{start}/v2.0",
        "authorization_endpoint": f"{start}/oauth2/v2.0/authorize",
        "tenant_region_scope": "NA",
        "cloud_instance_name": "microsoftonline.com",
    }


def instance(authorization_endpoint: str, api_version: str) -> dict[str, Any]:
    """Return whether a host belongs to Microsoft, for MSAL's instance discovery.

    MSAL sends this request to `login.microsoftonline.com`, for any host.

    Raises:
        RefusalError: invalid_instance.
    """
    try:
        url = urllib.parse.urlsplit(authorization_endpoint)
    except ValueError:  # a bracket outside an IPv6 address
        url = urllib.parse.urlsplit("")
    if url.scheme != "https" or url.hostname not in _ALIASES:
        raise bad_request(
            "invalid_instance", "AADSTS50049: Unknown or invalid instance."
        )
    tenant = url.path.strip("/").partition("/")[0]
    version = "/v2.0" if "/v2.0/" in url.path else ""
    path = f"/{tenant}{version}/.well-known/openid-configuration"
    found: dict[str, Any] = {"tenant_discovery_endpoint": f"https://{ENTRA_HOST}{path}"}
    if api_version == "1.1":
        cloud = {
            "preferred_network": ENTRA_HOST,
            "preferred_cache": "login.windows.net",
            "aliases": _ALIASES,
        }
        found |= {"api-version": "1.1", "metadata": [cloud]}
    return found
