"""Make the credential of azure-identity for an identity. No request is sent here.

A managed identity belongs to the VM and is served by IMDS. An application is known to
Microsoft Entra ID by a certificate or a secret, or as a workload identity by the token
that its platform writes into a file. Only the releaser reads these files.

The library takes its endpoints from the environment, which
`releaser.job_io.clean_environment` prepares.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Any, Final

from azure.core.pipeline.transport import RequestsTransport
from azure.identity import (
    CertificateCredential,
    ClientAssertionCredential,
    ClientSecretCredential,
    ManagedIdentityCredential,
)

from skragent.certificates import CertificateError, reading
from skragent.errors import IdentityError
from skragent.files import read_regular
from skragent.release.identity_certificate import (
    judge_lifetime,
    require_identity_certificate,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import requests
    from azure.core.credentials import SupportsTokenInfo

    from skragent.identity import Identity

MAX_SECRET_BYTES: Final = 4096
MAX_CERTIFICATE_BYTES: Final = 65536
MAX_TOKEN_BYTES: Final = 65536


def is_managed(identity: Identity) -> bool:
    """Return whether IMDS serves the identity, and not Entra ID."""
    return not identity.tenant_id


def make_credential(
    identity: Identity,
    *,
    authority: str,
    session: requests.Session,
) -> SupportsTokenInfo:
    """Make the credential of an identity; its own retries are off.

    Args:
        identity: the identity.
        authority: Entra ID of the cloud, such as https://login.microsoftonline.com
        session: a session to IMDS or Entra ID; it bounds each exchange.

    Raises:
        IdentityError: identity.unreadable: a file cannot be used.
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
    if is_managed(identity):
        return _managed(identity, common)
    common |= {
        "tenant_id": identity.tenant_id,
        "client_id": identity.client_id,
        "authority": authority,
        "disable_instance_discovery": True,  # the cloud is configured, not looked up
    }
    with _naming_file(identity):
        return _of_entra(identity, common)


def judge_file(identity: Identity, now: datetime) -> str:
    """Check the file of an application as `make_credential` does; send no request.

    Returns:
        a warning about a certificate that is not valid now, or an empty text.

    Raises:
        IdentityError: identity.unreadable; an OSError is its cause.
    """
    with _naming_file(identity):
        if identity.certificate:
            data = read_regular(identity.certificate, max_bytes=MAX_CERTIFICATE_BYTES)
            return judge_lifetime(require_identity_certificate(data), now)
        if identity.secret_file:
            _read_secret(identity.secret_file)
        elif identity.token_file:
            _read_token(identity.token_file)
    return ""


@contextlib.contextmanager
def _naming_file(identity: Identity) -> Iterator[None]:
    path = identity.certificate or identity.secret_file or identity.token_file
    try:
        yield
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except UnicodeDecodeError:
        raise _unreadable(path, "it is not text") from None
    except CertificateError as error:
        raise _unreadable(path, str(error)) from error


def _managed(identity: Identity, common: dict[str, Any]) -> SupportsTokenInfo:
    names = {"object_id": identity.object_id, "resource_id": identity.resource_id}
    return ManagedIdentityCredential(
        client_id=identity.client_id or None,
        identity_config={name: value for name, value in names.items() if value} or None,
        **common,
    )


def _of_entra(identity: Identity, common: dict[str, Any]) -> SupportsTokenInfo:
    """Make the credential of an application.

    Files are read here: the library would read them at the first request, and would
    wait at a FIFO.
    """
    if identity.certificate:
        return _of_certificate(identity.certificate, common)
    if identity.secret_file:
        secret = _read_secret(identity.secret_file)
        return ClientSecretCredential(client_secret=secret, **common)
    # WorkloadIdentityCredential is this credential, but reads the file itself.
    token = _read_token(identity.token_file)
    return ClientAssertionCredential(func=lambda: token, **common)


def _of_certificate(path: str, common: dict[str, Any]) -> SupportsTokenInfo:
    data = _read_certificate(path)
    # The library's message may quote the private key.
    with reading("the certificate or its private key", quotes_reason=False):
        return CertificateCredential(certificate_data=data, **common)


def _read_certificate(path: str) -> bytes:
    data = read_regular(path, max_bytes=MAX_CERTIFICATE_BYTES)
    require_identity_certificate(data)
    return data


def _read_secret(path: str) -> str:
    return _read_text(path, MAX_SECRET_BYTES, "ascii").strip()


def _read_token(path: str) -> str:
    return _read_text(path, MAX_TOKEN_BYTES, "utf-8")


def _read_text(path: str, max_bytes: int, encoding: str) -> str:
    text = read_regular(path, max_bytes=max_bytes).decode(encoding)
    if not text.strip():
        raise OSError(errno.ENODATA, "the file is empty")
    return text


def _unreadable(path: str, why: str) -> IdentityError:
    return IdentityError(
        f"{path}: {why}",
        code="identity.unreadable",
        hint="The agent's user must be able to read it. A certificate's file has the"
        " certificate and its RSA private key, as PEM or PFX, without a passphrase. A"
        " secret's or a token's file has nothing else.",
    )
