"""A bounded transport for the Azure SDK that can stop after the vault's challenge.

The SDK first sends an empty request, which the vault answers with 401 and a challenge
(azure-keyvault-keys, ChallengeAuthPolicy). TCP, TLS, the challenge and the access token
do not need the attestation token, so they are done in advance. While `is_warming`, the
request with the access token is not sent. `WarmError` unwinds through the SDK, which
keeps connection, challenge and token for the next request.

It uses public extension points only: `transport=`, `session=` and `send`. The session's
adapter bounds each exchange (`skragent.transport.adapter`).
"""

from __future__ import annotations

from typing import Any

import requests
import requests.utils
from azure.core.pipeline.transport import RequestsTransport


class WarmError(Exception):
    """The warm-up is complete. Not an AzureError, so that the SDK does not catch it."""


class VaultTransport(RequestsTransport):  # type: ignore[misc]  # exported lazily: Any
    """The connections to one vault.

    Args:
        session: a session of `transport.HttpClient`, with TLS roots and bounds.
    """

    def __init__(self, session: requests.Session) -> None:
        # Of the last request: the SDK's errors do not always have it.
        self.response: requests.Response | None = None
        session.hooks["response"].append(self._keep)
        super().__init__(
            session=session,
            session_owner=False,
            use_env_settings=False,  # no netrc, no other roots
        )
        self.is_warming = False

    def send(self, request: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - two kinds of request, each with its response
        """Send a request, unless it is the first authorised one while warming.

        Raises:
            WarmError: while warming, in place of the first authorised request.
        """
        if self.is_warming and "Authorization" in request.headers:
            raise WarmError
        self.response = None
        # Only the proxies are taken from the environment.
        proxies = requests.utils.get_environ_proxies(request.url)
        return super().send(request, **{**kwargs, "proxies": proxies})

    def _keep(self, response: requests.Response, **_kwargs: Any) -> None:  # noqa: ANN401 - requests' hooks get what send got
        self.response = response
