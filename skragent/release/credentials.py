"""Which of azure-identity's credentials an identity is. Nothing is asked here.

A managed identity is the VM's, by IMDS. For machines that have none, Microsoft Entra ID
is asked: a service principal by its certificate or its secret, or a workload identity
by the token that its platform put into a file. Files are read by this process alone.

Its endpoints come from the process's environment, which `environment` has settled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from azure.core.pipeline.transport import RequestsTransport
from azure.identity import (
    CertificateCredential,
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

from skragent.errors import Disposition, IdentityError

if TYPE_CHECKING:
    import requests
    from azure.core.credentials import SupportsTokenInfo

    from skragent.job import Identity

MAX_SECRET_BYTES: Final = 4096


def is_managed(who: Identity) -> bool:
    """Tell whether the VM's metadata service is asked, and not Entra ID."""
    return not who.tenant_id


def make_credential(
    who: Identity,
    *,
    authority: str,
    session: requests.Session,
) -> SupportsTokenInfo:
    """Make the credential of an identity; its own retries are off.

    Args:
        who: the identity.
        authority: of the cloud: https://login.microsoftonline.com
        session: to the service that is asked; it bounds each exchange.

    Raises:
        IdentityError: identity.unreadable: of a certificate or a secret.
    """
    transport = RequestsTransport(
        session=session,
        session_owner=False,
        use_env_settings=False,
    )
    common: dict[str, Any] = {
        "transport": transport,
        "use_env_settings": False,  # a proxy would add X-Forwarded-For: IMDS refuses it
        "retry_total": 0,
    }
    if is_managed(who):
        return _managed(who, common)
    common |= {
        "tenant_id": who.tenant_id,
        "client_id": who.client_id,
        "authority": authority,
        "disable_instance_discovery": True,  # the cloud is configured, not looked up
    }
    try:
        return _of_entra(who, common)
    except (OSError, ValueError) as error:
        raise _unreadable(who, error) from error


def _managed(who: Identity, common: dict[str, Any]) -> SupportsTokenInfo:
    names = {"object_id": who.object_id, "resource_id": who.resource_id}
    return ManagedIdentityCredential(
        client_id=who.client_id or None,
        identity_config={name: value for name, value in names.items() if value} or None,
        **common,
    )


def _of_entra(who: Identity, common: dict[str, Any]) -> SupportsTokenInfo:
    if who.certificate:
        return CertificateCredential(certificate_path=who.certificate, **common)
    if who.secret_file:
        return ClientSecretCredential(client_secret=_read(who.secret_file), **common)
    return WorkloadIdentityCredential(token_file_path=who.token_file, **common)


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        raw = file.read(MAX_SECRET_BYTES + 1)
    if len(raw) > MAX_SECRET_BYTES:
        raise ValueError(f"it is longer than {MAX_SECRET_BYTES} bytes")
    return raw.decode("ascii").strip()


def _unreadable(who: Identity, error: Exception) -> IdentityError:
    """Say which file it is, and of what cannot be read only the kind of trouble."""
    path = who.certificate or who.secret_file
    why = error.strerror if isinstance(error, OSError) else "it has no such content"
    return IdentityError(
        f"{path}: {why}",
        code="identity.unreadable",
        disposition=Disposition.RETRY_SLOWLY,
        hint="It must be readable for the agent's user: a PEM file with certificate and"
        " private key, or one with the secret alone.",
    )
