"""The Azure SDK's transport, bounded, and able to stop after the challenge.

The SDK learns how to authenticate by an empty request that the vault answers with 401
(azure-keyvault-keys, ChallengeAuthPolicy): TCP, TLS, challenge and access token before
the first request that says anything. None of that needs the attestation token, so it is
done ahead: while `is_warming`, the request that would carry the access token is not
sent, and `WarmError` unwinds through the SDK, which keeps connection, challenge and
token for the next one.

Public extension points only: `transport=`, `session=` and `send`. The session's adapter
bounds each exchange (`skragent.transport.adapter`).
"""

from __future__ import annotations

from typing import Any

import requests
import requests.utils
from azure.core.pipeline.transport import RequestsTransport


class WarmError(Exception):
    """Everything ahead of the release is done. No AzureError: nothing catches it."""


class VaultTransport(RequestsTransport):  # type: ignore[misc]  # exported lazily: Any
    """One vault's connections.

    Args:
        session: of `transport.HttpClient`: its connections, its TLS roots, its bounds.
    """

    def __init__(self, session: requests.Session) -> None:
        # To the last request: the SDK's own errors do not always tell of it.
        self.answer: requests.Response | None = None
        session.hooks["response"].append(self._keep)
        super().__init__(
            session=session,
            session_owner=False,
            use_env_settings=False,  # no netrc, no other roots
        )
        self.is_warming = False

    def send(self, request: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - two kinds of request, each with its answer
        """Send, unless all that was wanted is to be ready to.

        Raises:
            WarmError: while warming, in place of the first authorised request.
        """
        if self.is_warming and "Authorization" in request.headers:
            raise WarmError
        self.answer = None
        # Proxies are the one thing that the environment may say.
        proxies = requests.utils.get_environ_proxies(request.url)
        return super().send(request, **{**kwargs, "proxies": proxies})

    def _keep(self, answer: requests.Response, **_kwargs: Any) -> None:  # noqa: ANN401 - requests' hooks get what send got
        self.answer = answer
