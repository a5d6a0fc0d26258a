"""The environment, as far as the libraries of room 3 read it: made to say the job.

Pure but for the mapping that it is given. Must run before the Azure libraries load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# Any of these turns ManagedIdentityCredential to another service than IMDS.
_FOREIGN_ENDPOINTS = ("IDENTITY_", "MSI_", "IMDS_", "AZURE_", "ECS_", "DEFAULT_IDENT")
# And these change whom TLS trusts, or where requests looks for passwords.
_FOREIGN_TRUST = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_", "NETRC")
_DEFAULT_ENDPOINT = "http://169.254.169.254"


def settle_environment(environment: MutableMapping[str, str], endpoint: str) -> None:
    """Make the environment say what the job says, and nothing that strays in it.

    The Azure libraries read variables of a dozen names; a stray one in the unit would
    choose another identity service or other TLS roots.
    """
    for name in list(environment):
        if name.upper().startswith(_FOREIGN_ENDPOINTS + _FOREIGN_TRUST):
            del environment[name]
    if endpoint.rstrip("/") != _DEFAULT_ENDPOINT:
        environment["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = endpoint.rstrip("/")
