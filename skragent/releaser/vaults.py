"""Room 3's half that waits: identity and vaults, warmed while others work.

The SDK's clients are for one thread at a time; each vault has as many as there are
keys of it under way, for each identity, the first of them warm.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, NamedTuple

from skragent.release.identity import VmIdentity
from skragent.release.vault import VaultClient, vault_scope

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from skragent.attestation.token import AttestationToken
    from skragent.job import Identity, Job
    from skragent.release.envelope import Question
    from skragent.releaser.ahead import Ahead
    from skragent.releaser.watch import Stopwatch


class _Door(NamedTuple):
    """A vault, and who goes there."""

    url: str
    identity: Identity


class Vaults:
    """Every vault of one job; begins to warm them when it is made."""

    def __init__(
        self, job: Job, ahead: Ahead, executor: Executor, watch: Stopwatch
    ) -> None:
        self._timeout_seconds = job.timeout_seconds
        self._ahead = ahead
        self._watch = watch
        self._identities = {
            identity: VmIdentity(
                identity, job.timeout_seconds, ahead.identity_session()
            )
            for identity in dict.fromkeys(key.identity for key in job.keys)
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
            SkrAgentError: this vault's trouble.
        """
        door = _Door(question.vault, identity)
        self._warm[door].result()
        try:
            client = self._idle[door].get_nowait()
        except queue.Empty:
            client = self._open(door)
        try:
            with self._watch.step("vault.release"):
                return client.release(question, token)
        finally:
            self._idle[door].put(client)

    def _prefetch(self, who: Identity, scope: str) -> None:
        with self._watch.step("identity.token"):
            self._identities[who].prefetch(scope)

    def _warm_up(self, door: _Door, name: str) -> None:
        client = self._open(door)
        with self._watch.step("vault.warm"):
            client.warm(name)
        self._idle[door].put(client)

    def _open(self, door: _Door) -> VaultClient:
        return VaultClient(
            door.url,
            self._identities[door.identity],
            timeout_seconds=self._timeout_seconds,
            session=self._ahead.session_for(door.url),
        )
