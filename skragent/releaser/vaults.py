"""Room 3's half that waits: identity and vaults, warmed while others work.

The SDK's clients are for one thread at a time; each vault has as many as there are
keys of it under way, the first of them warm.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from skragent.release.identity import VmIdentity
from skragent.release.vault import VaultClient, vault_scope

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from skragent.attestation.token import AttestationToken
    from skragent.job import Job
    from skragent.release.envelope import Question
    from skragent.releaser.ahead import Ahead
    from skragent.releaser.watch import Stopwatch


class Vaults:
    """Every vault of one job; begins to warm them when it is made."""

    def __init__(
        self, job: Job, ahead: Ahead, executor: Executor, watch: Stopwatch
    ) -> None:
        self._timeout_seconds = job.timeout_seconds
        self._ahead = ahead
        self._watch = watch
        self._identity = VmIdentity(
            job.identity_client_id, job.timeout_seconds, ahead.identity_session()
        )
        names = {key.vault: key.name for key in reversed(job.keys)}
        self._idle = {url: queue.LifoQueue[VaultClient]() for url in names}
        # The tokens first: IMDS may take a second or two for the first one.
        for scope in {vault_scope(url) for url in names}:
            executor.submit(self._prefetch, scope)
        self._warm: dict[str, Future[None]] = {
            url: executor.submit(self._warm_up, url, name)
            for url, name in names.items()
        }

    def release(self, question: Question, token: AttestationToken) -> str:
        """Ask a vault for a key; from any thread.

        Raises:
            SkrAgentError: this vault's trouble.
        """
        url = question.vault
        self._warm[url].result()
        try:
            client = self._idle[url].get_nowait()
        except queue.Empty:
            client = self._open(url)
        try:
            with self._watch.step("vault.release"):
                return client.release(question, token)
        finally:
            self._idle[url].put(client)

    def _prefetch(self, scope: str) -> None:
        with self._watch.step("identity.token"):
            self._identity.prefetch(scope)

    def _warm_up(self, url: str, name: str) -> None:
        client = self._open(url)
        with self._watch.step("vault.warm"):
            client.warm(name)
        self._idle[url].put(client)

    def _open(self, url: str) -> VaultClient:
        return VaultClient(
            url,
            self._identity,
            timeout_seconds=self._timeout_seconds,
            session=self._ahead.session_for(url),
        )
