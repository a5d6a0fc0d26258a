"""Who we are to the vaults: the VM's managed identity, asked for a token once.

azure-identity asks IMDS. This makes it ask one time for each scope, whoever wants the
token first, and makes its failures ours. Its endpoint comes from the process's
environment, which `environment` has settled before.

Not here: the vault that wants the token (`vault`).
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import ManagedIdentityCredential

from skragent.errors import Disposition, IdentityError, SkrAgentError

if TYPE_CHECKING:
    import requests
    from azure.core.credentials import (
        AccessToken,
        AccessTokenInfo,
        TokenRequestOptions,
    )

    from skragent.job import Identity

_MAX_REASON_CHARS = 300
# What IMDS and Entra ID say when asking again would not help (protocols/akv.md §5).
_NO_IDENTITY = re.compile(
    r"identity not found|invalid_request|invalid_resource|bad_request"
    r"|unauthorized_client|no identity has been assigned|multiple user assigned",
    re.IGNORECASE,
)


class VmIdentity:
    """A managed identity of the VM; a credential for azure-keyvault-keys.

    Args:
        who: which one.
        timeout_seconds: for connecting and for the answer.
        session: of `transport.HttpClient` without proxies, which IMDS refuses.

    Safe to use from several threads: the first asks, the others wait for its outcome.
    """

    def __init__(
        self, who: Identity, timeout_seconds: float, session: requests.Session
    ) -> None:
        transport = RequestsTransport(
            session=session,
            session_owner=False,
            connection_timeout=timeout_seconds,
            read_timeout=timeout_seconds,
            use_env_settings=False,
        )
        self._credential = ManagedIdentityCredential(
            client_id=who.client_id or None,
            # One of these at most: azure-identity refuses two names.
            identity_config={
                name: value
                for name in ("object_id", "resource_id")
                if (value := getattr(who, name))
            }
            or None,
            transport=transport,
            use_env_settings=False,  # a proxy would add X-Forwarded-For: refused
            retry_total=0,
            connection_timeout=timeout_seconds,
            read_timeout=timeout_seconds,
        )
        self._lock = threading.Lock()
        self._outcomes: dict[str, AccessTokenInfo | IdentityError] = {}

    def close(self) -> None:
        """Close the connections."""
        self._credential.close()

    def prefetch(self, scope: str) -> None:
        """Fetch a token ahead of its use; a failure is told to who uses it."""
        with self._lock:
            if scope not in self._outcomes:
                try:
                    self._outcomes[scope] = self._ask(scope, None)
                except IdentityError as error:
                    self._outcomes[scope] = error

    def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        """Give a token: what azure-keyvault-keys calls (SupportsTokenInfo).

        Raises:
            IdentityError: identity.unavailable, .not_found
        """
        (scope,) = scopes
        if options and options.get("claims"):  # the vault wants a newer one (CAE)
            return self._ask(scope, options)
        self.prefetch(scope)
        outcome = self._outcomes[scope]
        if isinstance(outcome, IdentityError):
            raise outcome
        return outcome

    def get_token(self, *scopes: str, **_kwargs: Any) -> AccessToken:  # noqa: ANN401 - TokenCredential's signature
        """Give a token in the older shape (TokenCredential)."""
        from azure.core.credentials import AccessToken  # noqa: PLC0415 - rarely used

        info = self.get_token_info(*scopes)
        return AccessToken(info.token, info.expires_on)

    def _ask(self, scope: str, options: TokenRequestOptions | None) -> AccessTokenInfo:
        try:
            info: AccessTokenInfo = self._credential.get_token_info(
                scope, options=options
            )
        except (AzureError, ValueError) as error:
            raise judge_identity_failure(error) from error
        return info


def judge_identity_failure(error: Exception) -> SkrAgentError:
    """Turn azure-identity's failure into ours.

    It raises one class for everything that IMDS can say: only the text tells what
    will pass (throttling, timeouts) from what will not (no such identity).
    """
    text = error.message if isinstance(error, AzureError) else str(error)
    reason = " ".join(str(text).split())
    reason = reason.removeprefix("ManagedIdentityCredential authentication unavailable")
    reason = reason.strip(",. ")[:_MAX_REASON_CHARS]
    is_permanent = isinstance(error, ClientAuthenticationError) and _NO_IDENTITY.search(
        reason
    )
    return IdentityError(
        f"no access token from the managed identity: {reason}",
        code="identity.not_found" if is_permanent else "identity.unavailable",
        disposition=Disposition.DENIED if is_permanent else Disposition.RETRY,
    )
