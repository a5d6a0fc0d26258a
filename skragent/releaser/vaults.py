"""Room 3's half that waits: identity and vaults, warmed while others work.

The SDK's clients are for one thread at a time; each vault has as many as there are
keys of it under way, for each identity, the first of them warm.
"""

from __future__ import annotations

import contextlib
import queue
from typing import TYPE_CHECKING, NamedTuple

from skragent.errors import AgentError
from skragent.release.access_tokens import AccessTokens
from skragent.release.credentials import is_managed, make_credential
from skragent.release.vault import VaultClient, vault_scope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor, Future

    from skragent.attestation.token import AttestationToken
    from skragent.job import Identity, Job, KeyRequest
    from skragent.release.envelope import Question
    from skragent.releaser.connections import Connections
    from skragent.releaser.stopwatch import Stopwatch


class _Door(NamedTuple):
    """A vault, and who goes there."""

    url: str
    identity: Identity


class Vaults:
    """Every vault of one job; begins to warm them when it is made."""

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
            who: self._tokens_of(who)
            for who in dict.fromkeys(key.identity for key in job.keys)
        }
        names = {_Door(key.vault, key.identity): key.name for key in reversed(job.keys)}
        self._idle = {door: queue.LifoQueue[VaultClient]() for door in names}
        # The tokens first: IMDS may take a second or two for the first one.
        for who, scope in {(door.identity, vault_scope(door.url)) for door in names}:
            executor.submit(self._prefetch, who, scope)
        self._warm: dict[_Door, Future[None]] = {
            door: executor.submit(self._warm_up, door, name)
            for door, name in names.items()
        }

    def release(
        self, question: Question, token: AttestationToken, identity: Identity
    ) -> str:
        """Ask a vault for a key, in somebody's name; from any thread.

        Raises:
            AgentError: this vault's trouble.
        """
        with (
            self._client(_Door(question.vault, identity)) as client,
            self._stopwatch.step("vault.release"),
        ):
            return client.release(question, token)

    def latest_version(self, key: KeyRequest) -> str:
        """Ask a vault for a key's latest version; from any thread.

        Gives an empty string where the identity may not know.

        Raises:
            AgentError: this vault's trouble.
        """
        with (
            self._client(_Door(key.vault, key.identity)) as client,
            self._stopwatch.step("vault.version"),
        ):
            return client.latest_version(key.name)

    @contextlib.contextmanager
    def _client(self, door: _Door) -> Iterator[VaultClient]:
        """Lend a client, a warm one if there is one."""
        self._warm[door].result()
        try:
            client = self._idle[door].get_nowait()
        except queue.Empty:
            client = self._open(door)
        try:
            yield client
        finally:
            self._idle[door].put(client)

    def _prefetch(self, who: Identity, scope: str) -> None:
        with self._stopwatch.step("identity.token"):
            tokens = self._tokens[who]
            if isinstance(tokens, AccessTokens):
                tokens.prefetch(scope)

    def _warm_up(self, door: _Door, name: str) -> None:
        client = self._open(door)
        with self._stopwatch.step("vault.warm"):
            client.warm(name)
        self._idle[door].put(client)

    def _tokens_of(self, who: Identity) -> AccessTokens | AgentError:
        """Give an identity's tokens, or what each of its keys will be told."""
        try:
            session = (
                self._connections.identity_session()
                if is_managed(who)
                else self._connections.session_for(self._authority)
            )
            credential = make_credential(
                who,
                authority=self._authority,
                session=session,
            )
        except AgentError as error:
            return error
        return AccessTokens(credential, session)

    def _open(self, door: _Door) -> VaultClient:
        tokens = self._tokens[door.identity]
        if isinstance(tokens, AgentError):
            raise tokens
        return VaultClient(
            door.url,
            tokens,
            session=self._connections.session_for(door.url),
        )
