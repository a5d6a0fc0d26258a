"""The vaults of one job: clients and access tokens, made ready before their first use.

A client of the Azure SDK serves one thread at a time. So each pair of vault and
identity has as many clients as it releases keys at once, and one of them is warmed up.
"""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, NamedTuple

from skragent.errors import AgentError
from skragent.release.access_tokens import AccessTokens
from skragent.release.azure_credentials import is_managed, make_credential
from skragent.release.vault import VaultClient, vault_scope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor, Future

    from skragent.attestation.token import AttestationToken
    from skragent.identity import Identity
    from skragent.job import Job, KeyRequest
    from skragent.release.envelope import ReleaseRequest
    from skragent.releaser.prefetch import Connections
    from skragent.releaser.stopwatch import Stopwatch


class _Access(NamedTuple):
    """A vault's URL and the identity that is used there."""

    url: str
    identity: Identity


class Vaults:
    """Every vault of one job. The warm-up begins when the object is made."""

    def __init__(
        self,
        job: Job,
        connections: Connections,
        executor: Executor,
        stopwatch: Stopwatch,
    ) -> None:
        self._connections = connections
        self._stopwatch = stopwatch
        self._authority = job.authority
        self._tokens = {
            identity: self._make_tokens(identity)
            for identity in dict.fromkeys(key.identity for key in job.keys)
        }
        # Each pair, and the name of its first key.
        names = {
            _Access(key.vault, key.identity): key.name for key in reversed(job.keys)
        }
        self._idle = {access: queue.LifoQueue[VaultClient]() for access in names}
        # Tokens come first: IMDS may take two seconds for the first token.
        scopes = {(access.identity, vault_scope(access.url)) for access in names}
        for identity, scope in scopes:
            executor.submit(self._prefetch_token, identity, scope)
        self._warm: dict[_Access, Future[None]] = {
            access: executor.submit(self._warm_up, access, name)
            for access, name in names.items()
        }

    def release(
        self, request: ReleaseRequest, token: AttestationToken, identity: Identity
    ) -> str:
        """Ask a vault for a key, with one identity; from any thread.

        Raises:
            AgentError: the vault or the identity failed.
        """
        with (
            self._client(_Access(request.vault, identity)) as client,
            self._stopwatch.step("vault.release"),
        ):
            return client.release(request, token)

    def latest_version(self, key: KeyRequest) -> str:
        """Return a key's latest version; from any thread.

        Empty if the identity lacks the permission `keys/get`.

        Raises:
            AgentError: the vault or the identity failed.
        """
        with (
            self._client(_Access(key.vault, key.identity)) as client,
            self._stopwatch.step("vault.version"),
        ):
            return client.latest_version(key.name)

    @contextlib.contextmanager
    def _client(self, access: _Access) -> Iterator[VaultClient]:
        """Lend a client, the warm one if it is free."""
        self._warm[access].result()
        try:
            client = self._idle[access].get_nowait()
        except queue.Empty:
            client = self._make_client(access)
        try:
            yield client
        finally:
            self._idle[access].put(client)

    def _prefetch_token(self, identity: Identity, scope: str) -> None:
        with self._stopwatch.step("identity.token"):
            tokens = self._tokens[identity]
            if isinstance(tokens, AccessTokens):
                tokens.prefetch(scope)

    def _warm_up(self, access: _Access, name: str) -> None:
        client = self._make_client(access)
        with self._stopwatch.step("vault.warm"):
            client.warm(name)
        self._idle[access].put(client)

    def _make_tokens(self, identity: Identity) -> AccessTokens | AgentError:
        """Return an identity's tokens, or the error that all its keys fail with."""
        try:
            session = (
                self._connections.identity_session()
                if is_managed(identity)
                else self._connections.session_for(self._authority)
            )
            credential = make_credential(
                identity, authority=self._authority, session=session
            )
        except AgentError as error:
            return error
        return AccessTokens(credential, session)

    def _make_client(self, access: _Access) -> VaultClient:
        tokens = self._tokens[access.identity]
        if isinstance(tokens, AgentError):
            raise tokens
        return VaultClient(
            access.url, tokens, session=self._connections.session_for(access.url)
        )
