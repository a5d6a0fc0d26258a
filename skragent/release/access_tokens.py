"""The access tokens of an identity: one request for each scope, errors by cause.

azure-identity sends the request. `AccessTokens` sends one for each scope, even if
several threads need the token, and turns failures into IdentityError.

`credentials` chooses the credential, and `vault` uses the token.
"""

from __future__ import annotations

import re
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import AzureError, ClientAuthenticationError
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential

from skragent.errors import AgentError, ConfigError, IdentityError
from skragent.quoting import quote
from skragent.transport import find_retry_after, imds_hint
from skragent.transport.failures import causes_of

if TYPE_CHECKING:
    import requests
    from azure.core.credentials import (
        AccessToken,
        AccessTokenInfo,
        SupportsTokenInfo,
        TokenRequestOptions,
    )

# The library's message begins with these words, also after a refusal by IMDS.
_BEFORE_THE_REFUSAL = re.compile(
    r"ManagedIdentityCredential authentication unavailable[.,]?\s*"
    r"(no response from the IMDS endpoint\.?\s*)?"
    r"(No identity has been assigned to this resource\. Error:\s*)?"
    r"(Token request error:\s*)?"
)
# msal's own form of a refusal: `error` and `error_description`.
_CODE_AND_WORDS = re.compile(r"\((\w+)\)\s*(.*)", re.DOTALL)
# Errors of IMDS and Entra ID that a retry cannot change (learn.microsoft.com:
# "How to use managed identities to acquire an access token", error handling).
_NO_IDENTITY = re.compile(
    r"identity not found|invalid_request|invalid_resource|bad_request"
    r"|unauthorized_client|no identity has been assigned|multiple user assigned",
    re.IGNORECASE,
)

# A token becomes part of a header: RFC 6750, section 2.1. Azure's have 2000 characters.
_ACCESS_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{1,32768}=*")

# A refusal of Entra ID has a code; 50196 (a loop), 90033 (a temporary fault) and 90055
# (throttling) are not about the application (learn.microsoft.com, entra,
# identity-platform/reference-error-codes).
_REFUSED = re.compile(r"AADSTS(?!(50196|90033|90055)\b)[0-9]+")

_ENTRA_IS_BUSY = (
    "Passes by itself: Entra ID cannot answer now. If it stays, look at Azure's service"
    " health."
)
_OF_APPLICATION = (
    "Check that `tenant_id` and `client_id` of [identity] name the application, and"
    " that Entra ID knows its certificate, secret or platform."
)


class AccessTokens:
    """The access tokens of one identity; a credential for azure-keyvault-keys.

    Args:
        credential: of azure-identity.
        session: the credential's session, used by it alone.

    Safe for several threads: one sends the request, the others wait for its outcome.
    """

    def __init__(
        self, credential: SupportsTokenInfo, session: requests.Session
    ) -> None:
        self._credential = credential
        # Of the last response: the library's errors do not have them.
        self._retry_after: float | None = None
        self._status = 0
        session.hooks["response"].append(self._keep_status)
        self._lock = threading.Lock()
        self._outcomes: dict[str, AccessTokenInfo | IdentityError] = {}

    def prefetch(self, scope: str) -> None:
        """Fetch a token before its use; `get_token_info` raises a failure."""
        with self._lock:
            if scope not in self._outcomes:
                try:
                    self._outcomes[scope] = self._ask(scope, None)
                except IdentityError as error:
                    self._outcomes[scope] = error

    def get_token_info(
        self, *scopes: str, options: TokenRequestOptions | None = None
    ) -> AccessTokenInfo:
        """Return a token; azure-keyvault-keys calls this (SupportsTokenInfo).

        Raises:
            IdentityError: identity.unavailable, .not_found, .denied
        """
        (scope,) = scopes
        if options and options.get(
            "claims"
        ):  # continuous access evaluation: a newer token
            return self._ask(scope, options)
        self.prefetch(scope)
        outcome = self._outcomes[scope]
        if isinstance(outcome, IdentityError):
            raise outcome
        return outcome

    def get_token(self, *scopes: str, **_kwargs: Any) -> AccessToken:  # noqa: ANN401 - TokenCredential's signature
        """Return a token in the older form (TokenCredential)."""
        from azure.core.credentials import AccessToken  # noqa: PLC0415 - rarely used

        info = self.get_token_info(*scopes)
        return AccessToken(info.token, info.expires_on)

    def _ask(self, scope: str, options: TokenRequestOptions | None) -> AccessTokenInfo:
        self._retry_after, self._status = None, 0
        try:
            found = self._credential.get_token_info(scope, options=options)
        except Exception as error:  # the one boundary to azure-identity and msal
            raise map_identity_failure(
                error,
                self._retry_after,
                status=self._status,
                is_managed=isinstance(self._credential, ManagedIdentityCredential),
            ) from error
        token: object = found.token
        if not isinstance(token, str) or not _ACCESS_TOKEN.fullmatch(token):
            raise IdentityError(
                "no access token for the vault: the response has an invalid token"
                " (RFC 6750, section 2.1)",
                code="identity.unavailable",
            )
        return found

    def _keep_status(self, response: requests.Response, **_kwargs: Any) -> None:  # noqa: ANN401 - the signature of requests' hooks
        self._status = response.status_code
        self._retry_after = find_retry_after(response.status_code, response.headers)


def map_identity_failure(
    error: Exception,
    retry_after: float | None = None,
    *,
    status: int = 0,
    is_managed: bool,
) -> AgentError:
    """Return the error for a failure of azure-identity.

    The library raises one class for all failures of IMDS, and another class for Entra
    ID. Only the text shows whether the failure is temporary.

    Args:
        error: the library's exception.
        retry_after: seconds that the service asks to wait.
        status: HTTP status of the service's last response; 0 if there was none.
        is_managed: whether the request went to IMDS for the VM's identity, and not to
            Entra ID.
    """
    if isinstance(error, ConfigError):
        return error
    is_known = isinstance(error, AzureError | AgentError)
    text = error.message if is_known else type(error).__name__  # type: ignore[attr-defined] # both have one
    reason = quote(str(text)).strip(",. ") or f"HTTP {status}"
    code = "identity.unavailable"
    if isinstance(error, CredentialUnavailableError):
        if _NO_IDENTITY.search(reason):
            code = "identity.not_found"
    elif isinstance(error, ClientAuthenticationError) and _REFUSED.search(reason):
        code = "identity.denied"
    is_permanent = code != "identity.unavailable"
    of_entra = isinstance(error, AzureError) and not is_managed
    if is_managed and isinstance(error, AzureError):
        reason = _describe_imds(error, str(text), status)
    return IdentityError(
        f"no access token for the vault: {reason}",
        code=code,
        hint=_hint(status, is_permanent=is_permanent, of_entra=of_entra),
        retry_after=retry_after,
    )


def _describe_imds(error: Exception, text: str, status: int) -> str:
    """Return the response of IMDS, or why the request failed."""
    if not status:
        causes = causes_of(error)
        messages = [one.message for one in causes if isinstance(one, AgentError)]
        return messages[0] if messages else "IMDS did not answer"
    is_refusal = isinstance(error, CredentialUnavailableError)  # else: not JSON
    words = _BEFORE_THE_REFUSAL.sub("", text, count=1) if is_refusal else ""
    if match := _CODE_AND_WORDS.fullmatch(words):
        code, rest = match.groups()
        is_same = rest.lower() in ("", code.lower().replace("_", " "))
        words = rest or code if is_same else f"{code}: {rest}"
    answered = f"IMDS answered HTTP {status}"
    if status == HTTPStatus.OK:
        answered += " without a usable access token"
    words = quote(words).strip(",. ")
    return f"{answered}: {words}" if words else answered


def _hint(status: int, *, is_permanent: bool, of_entra: bool) -> str:
    """Return the remedy; empty for the default hint of the class."""
    if is_permanent:
        return _OF_APPLICATION if of_entra else ""
    if of_entra:
        is_passing = (
            status == HTTPStatus.TOO_MANY_REQUESTS
            or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        )
        return _ENTRA_IS_BUSY if is_passing else _OF_APPLICATION
    return imds_hint(status)
