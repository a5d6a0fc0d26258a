"""Key Vault and Managed HSM: asks for a release, once, and names what went wrong.

Over azure-keyvault-keys, with its retries and redirects off and its times bounded.
Not here: whether the answer is any good (`envelope`), and when to ask again.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from azure.keyvault.keys import KeyClient

from skragent.errors import AgentError, IdentityError, MalformedReleaseError
from skragent.release.envelope import is_version
from skragent.release.vault_failures import judge_refusal
from skragent.release.vault_transport import VaultTransport, WarmError
from skragent.transport.failures import translate

if TYPE_CHECKING:
    import requests

    from skragent.attestation.token import AttestationToken
    from skragent.release.access_tokens import AccessTokens
    from skragent.release.envelope import Question


def vault_scope(vault: str) -> str:
    """Guess the scope that the vault's challenge will name: its host's parent.

    https://NAME.vault.azure.net -> https://vault.azure.net/.default, and alike in the
    other clouds. Only to ask early: the challenge decides.
    """
    return f"https://{vault.partition('://')[2].partition('.')[2].rstrip('/')}/.default"


def _is_about_challenge(error: Exception) -> bool:
    """Return whether the SDK refuses to send our token to another service."""
    return isinstance(error, ValueError) and "challenge" in str(error)


class VaultClient:
    """One connection's worth of a vault: for one thread at a time.

    Args:
        url: https://HOST[:PORT]
        tokens: one of which is sent.
        session: of `transport.HttpClient`: for this client alone.
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
            retry_total=0,  # retries are the supervisor's
            permit_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def warm(self, name: str) -> None:
        """Do all that comes ahead of a release and does not need the token.

        TCP, TLS, the vault's challenge, the access token that it demands. An answer
        that is no challenge is none of our business yet: the release will meet it.

        Raises:
            TransportError: the vault cannot be reached.
            IdentityError: there is no access token for it.
        """
        self._transport.is_warming = True
        try:
            # `target` is not sent: the SDK sends nothing before it is authorised.
            with contextlib.suppress(WarmError):
                self._client.release_key(name, "-")
        except AgentError:
            raise
        except Exception as error:
            answer = self._transport.answer
            if answer is None or _is_about_challenge(error):
                raise self._judge(error, name) from error
        finally:
            self._transport.is_warming = False

    def release(self, question: Question, token: AttestationToken) -> str:
        """Ask for the key, wrapped to the token's wrapping key.

        Returns:
            the vault's JWS, unverified.

        Raises:
            ReleaseDeniedError, IdentityError, TransportError, MalformedReleaseError
        """
        try:
            result = self._client.release_key(
                question.name,
                token.raw,
                version=question.version or None,
                algorithm=question.enc,
                nonce=question.nonce,
            )
            value = cast("object", result.value)
        except AgentError:
            raise
        except Exception as error:
            raise self._judge(error, question.name) from error
        if not isinstance(value, str):
            raise MalformedReleaseError(f"{self._name(question.name)}: no release")
        return value

    def latest_version(self, name: str) -> str:
        """Ask for a key's latest version, which takes the permission `get`.

        Gives an empty string where there is no such permission.

        Raises:
            ReleaseDeniedError, IdentityError, TransportError, MalformedReleaseError
        """
        try:
            version = cast("object", self._client.get_key(name).properties.version)
        except AgentError:
            raise
        except Exception as error:
            refusal = self._judge(error, name)
            if refusal.code == "release.denied.permission":
                return ""
            raise refusal from error
        if not isinstance(version, str) or not is_version(version):
            raise MalformedReleaseError(f"{self._name(name)}: no version")
        return version

    def _name(self, key: str) -> str:
        return f"{self.url}/keys/{key}"

    def _judge(self, error: Exception, key: str) -> AgentError:
        """Turn whatever the SDK raises into ours: the one boundary to it.

        An answer that arrived decides, and not what the SDK made of it.
        """
        if _is_about_challenge(error):
            return IdentityError(
                f"{self.url} demands a token for another service",
                code="identity.challenge",
                hint="Check the vault's URL: it must be the vault's own host name.",
            )
        answer = self._transport.answer
        if answer is not None and answer.status_code != HTTPStatus.OK:
            return judge_refusal(
                answer.status_code,
                answer.headers,
                answer.content,
                what=self._name(key),
            )
        if answer is None:
            return translate(error, self.url)
        return MalformedReleaseError(
            f"{self._name(key)}: the vault's answer cannot be read"
            f" ({type(error).__name__})"
        )
