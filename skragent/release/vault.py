"""The client of Key Vault and Managed HSM: each request once, errors by cause.

It uses azure-keyvault-keys without its retries and redirects, and with bounded times.
`envelope` verifies the response, and the agent schedules the next attempt.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from azure.keyvault.keys import KeyClient

from skragent.errors import AgentError, IdentityError, MalformedReleaseError
from skragent.release.envelope import is_version
from skragent.release.vault_failures import map_refusal
from skragent.release.vault_transport import VaultTransport, WarmError
from skragent.transport.failures import translate

if TYPE_CHECKING:
    import requests

    from skragent.attestation.token import AttestationToken
    from skragent.release.access_tokens import AccessTokens
    from skragent.release.envelope import ReleaseRequest


def vault_scope(vault: str) -> str:
    """Return the scope that the vault's challenge will probably name.

    It is the parent of the host: https://vault.azure.net/.default for
    https://NAME.vault.azure.net. It serves to get a token early; the challenge decides.
    """
    return f"https://{vault.partition('://')[2].partition('.')[2].rstrip('/')}/.default"


def _is_about_challenge(error: Exception) -> bool:
    """Return whether the SDK refuses to send our token to another service."""
    return isinstance(error, ValueError) and "challenge" in str(error)


class VaultClient:
    """A client of one vault with one connection, for one thread at a time.

    Args:
        url: https://HOST[:PORT]
        tokens: the access tokens of the identity.
        session: a session of `transport.HttpClient`, used by this client alone.
    """

    def __init__(
        self,
        url: str,
        tokens: AccessTokens,
        *,
        session: requests.Session,
    ) -> None:
        self.url = url.rstrip("/")
        self._transport = VaultTransport(session)
        self._client = KeyClient(
            self.url,
            tokens,
            transport=self._transport,
            retry_total=0,  # the agent schedules retries
            permit_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def warm(self, name: str) -> None:
        """Do everything that a release needs before the attestation token.

        That is TCP, TLS, the vault's challenge and the access token. A response other
        than a challenge is ignored: the release will get it again.

        Raises:
            TransportError: the vault cannot be reached.
            IdentityError: there is no access token for the vault.
        """
        self._transport.is_warming = True
        try:
            # The SDK sends no body before it is authorised, so `target` is not sent.
            with contextlib.suppress(WarmError):
                self._client.release_key(name, "-")
        except AgentError:
            raise
        except Exception as error:
            response = self._transport.response
            if response is None or _is_about_challenge(error):
                raise self._map_error(error, name) from error
        finally:
            self._transport.is_warming = False

    def release(self, request: ReleaseRequest, token: AttestationToken) -> str:
        """Ask for the key, wrapped to the token's wrapping key.

        Returns:
            The vault's JWS, unverified.

        Raises:
            ReleaseDeniedError, IdentityError, TransportError, MalformedReleaseError
        """
        try:
            result = self._client.release_key(
                request.name,
                token.raw,
                version=request.version or None,
                algorithm=request.enc,
                nonce=request.nonce,
            )
            value = cast("object", result.value)
        except AgentError:
            raise
        except Exception as error:
            raise self._map_error(error, request.name) from error
        if not isinstance(value, str):
            raise MalformedReleaseError(f"{self._name(request.name)}: no release")
        return value

    def latest_version(self, name: str) -> str:
        """Return a key's latest version; empty without the permission `keys/get`.

        Raises:
            ReleaseDeniedError, IdentityError, TransportError, MalformedReleaseError
        """
        try:
            version = cast("object", self._client.get_key(name).properties.version)
        except AgentError:
            raise
        except Exception as error:
            refusal = self._map_error(error, name)
            if refusal.code == "release.denied.permission":
                return ""
            raise refusal from error
        if not isinstance(version, str) or not is_version(version):
            raise MalformedReleaseError(f"{self._name(name)}: no version")
        return version

    def _name(self, key: str) -> str:
        return f"{self.url}/keys/{key}"

    def _map_error(self, error: Exception, key: str) -> AgentError:
        """Return the error for any exception of the SDK.

        A response that arrived decides, and not the SDK's exception.
        """
        if _is_about_challenge(error):
            return IdentityError(
                f"{self.url} demands a token for another service",
                code="identity.challenge",
                hint="Check the vault's URL: it must be the vault's own host name.",
            )
        response = self._transport.response
        if response is not None and response.status_code != HTTPStatus.OK:
            return map_refusal(
                response.status_code,
                response.headers,
                response.content,
                what=self._name(key),
            )
        if response is None:
            return translate(error, self.url)
        return MalformedReleaseError(
            f"{self._name(key)}: the vault's response cannot be read"
            f" ({type(error).__name__})"
        )
