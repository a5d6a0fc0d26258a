"""Azure's own credentials for applications, unmodified, with the emulated Entra ID."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msal
import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import (
    CertificateCredential,
    ClientAssertionCredential,
    ClientSecretCredential,
    WorkloadIdentityCredential,
)
from azure.keyvault.keys import KeyClient
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.azure import jws_parts
from support.faults import Broken, breakable

from skragent.emulator.azure import Azure
from skragent.emulator.imds.identities import TENANT_ID

SCOPE = "https://vault.azure.net/.default"
UNKNOWN = "11111111-2222-3333-4444-555555555555"
Credential: TypeAlias = (
    ClientSecretCredential
    | CertificateCredential
    | ClientAssertionCredential
    | WorkloadIdentityCredential
)
Make: TypeAlias = Callable[..., Credential]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    with breakable(tmp_path_factory.mktemp("azure")) as broken:
        yield broken


@pytest.fixture(scope="module")
def azure(running: Broken) -> Azure:
    return running.emulator.azure


def by_secret(azure: Azure, **common: Any) -> Credential:  # noqa: ANN401 - what the SDK takes
    secret = {"client_secret": azure.application_files.secret.read_text()}
    return ClientSecretCredential(**(secret | common))


def by_certificate(azure: Azure, **common: Any) -> Credential:  # noqa: ANN401 - what the SDK takes
    path = str(azure.application_files.certificate)
    return CertificateCredential(certificate_path=path, **common)


def by_certificate_chain(azure: Azure, **common: Any) -> Credential:  # noqa: ANN401 - what the SDK takes
    path = str(azure.application_files.certificate)
    return CertificateCredential(
        certificate_path=path, send_certificate_chain=True, **common
    )


def by_assertion(azure: Azure, **common: Any) -> Credential:  # noqa: ANN401 - what the SDK takes
    read = azure.application_files.token.read_text
    return ClientAssertionCredential(func=read, **common)


def by_token_file(azure: Azure, **common: Any) -> Credential:  # noqa: ANN401 - what the SDK takes
    path = str(azure.application_files.token)
    return WorkloadIdentityCredential(token_file_path=path, **common)


KINDS = [by_secret, by_certificate, by_certificate_chain, by_assertion, by_token_file]


def common(azure: Azure, **changes: str) -> dict[str, Any]:
    """Return the arguments that all credentials take."""
    return {
        "tenant_id": TENANT_ID,
        "client_id": azure.application.client_id,
        "authority": azure.entra_id.origin,
        "disable_instance_discovery": True,
        "connection_verify": str(azure.ca_path),
        "retry_total": 0,
    } | changes


@pytest.mark.parametrize("make", KINDS)
def test_credential_gets_the_applications_token(azure: Azure, make: Make) -> None:
    with make(azure, **common(azure)) as credential:
        token = credential.get_token(SCOPE).token
    _, claims = jws_parts(token)
    assert claims["oid"] == azure.application.object_id


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["skragent-demo", "skragent-hsm"])
def test_key_client_releases_a_key_with_it(
    running: Broken, azure: Azure, make: Make, name: str
) -> None:
    url, ca = azure.vaults[name].url, str(azure.ca_path)
    with (
        make(azure, **common(azure)) as credential,
        KeyClient(url, credential, connection_verify=ca, retry_total=0) as client,
    ):
        result = client.release_key("rsa", running.token())
    _, payload = jws_parts(result.value)
    assert payload["response"]["key"]["key"]["kid"].startswith(f"{url}/keys/rsa/")


@pytest.mark.parametrize(
    ("make", "changes", "number"),
    [
        (by_secret, {"client_id": UNKNOWN}, "AADSTS700016"),
        (by_certificate, {"client_id": UNKNOWN}, "AADSTS700016"),
        (by_token_file, {"client_id": UNKNOWN}, "AADSTS700016"),
        (by_secret, {"client_secret": "wrong"}, "AADSTS7000215"),
    ],
)
def test_refusal_raises_the_sdks_error_with_entras_number(
    azure: Azure, make: Make, changes: dict[str, str], number: str
) -> None:
    with (
        make(azure, **common(azure, **changes)) as credential,
        pytest.raises(ClientAuthenticationError, match=number),
    ):
        credential.get_token(SCOPE)


def test_certificate_that_is_not_registered_is_refused(azure: Azure) -> None:
    server = azure.server_identity(
        "entra"
    ).pem_path  # a certificate of another application
    with (
        CertificateCredential(certificate_path=str(server), **common(azure)) as other,
        pytest.raises(ClientAuthenticationError, match="AADSTS700027"),
    ):
        other.get_token(SCOPE)


def test_unknown_tenant_raises_the_sdks_unknown_authority_error(azure: Azure) -> None:
    with (
        by_secret(azure, **common(azure, tenant_id=UNKNOWN)) as credential,
        pytest.raises(ClientAuthenticationError, match="double check your tenant"),
    ):
        credential.get_token(SCOPE)


def test_msal_signs_with_pss_if_it_has_the_certificate(
    running: Broken, azure: Azure
) -> None:
    pem = azure.application_files.certificate.read_bytes()
    public = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.PEM)
    application = msal.ConfidentialClientApplication(
        azure.application.client_id,
        {"private_key": pem.decode(), "public_certificate": public.decode()},
        authority=f"{azure.entra_id.origin}/{TENANT_ID}",
        instance_discovery=False,
        http_client=running.session,
    )
    answer = application.acquire_token_for_client([SCOPE])
    assert answer["token_type"] == "Bearer", answer


@pytest.mark.parametrize("fault", ["entra.status=503", "entra.truncate", "entra.body"])
def test_fault_raises_the_sdks_error(running: Broken, azure: Azure, fault: str) -> None:
    running.break_(fault)
    with (
        by_secret(azure, **common(azure)) as credential,
        pytest.raises(ClientAuthenticationError),
    ):
        credential.get_token(SCOPE)
    running.reset()
    with by_secret(azure, **common(azure)) as credential:
        assert credential.get_token(SCOPE).token
