"""Map a vault's response other than 200 to an error.

Pure. Only a response in the vault's own error format can be a denial: JSON,
`{"error": {"code": …, "message": …}}` (Key Vault REST API, "Error"), with a status by
which the vault denies. A proxy's page is a transport fault. The table in
`vault_refusals` has the meaning of each 403.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from skragent.denials import is_denial
from skragent.errors import (
    AgentError,
    Disposition,
    IdentityError,
    ReleaseDeniedError,
    ReleaseError,
    TransportError,
)
from skragent.jose import decode_json
from skragent.quoting import quote
from skragent.release.vault_refusals import find_refusal
from skragent.transport import parse_retry_after
from skragent.transport.client import SERVER_HINT

if TYPE_CHECKING:
    from collections.abc import Mapping

_JSON = "application/json"

_IS_DELETED = frozenset({"KeyNotFound", "ObjectIsDeletedButRecoverable"})

_NOT_FOUND_HINT = (
    "Check vault, name and version of the key in the configuration; a deleted key can"
    " be recovered while the vault keeps it."
)
_CONFLICT_HINT = "Passes by itself: the vault is deleting, recovering or changing it."
_THROTTLED_HINT = (
    "A vault allows 10 releases of HSM keys in 10 s: spread the keys or the VMs."
)
_HINTS: dict[int, str] = {
    HTTPStatus.REQUEST_TIMEOUT: "Passes by itself: the vault was too slow to answer.",
    HTTPStatus.TOO_MANY_REQUESTS: _THROTTLED_HINT,
}
_FOREIGN_HINT = (
    "This is not the vault's own error format: a proxy or a firewall may answer in the"
    " vault's place. Compare with `curl -v` to the vault from this VM."
)
_REFUSED_HINT = (
    "The vault does not accept the identity's access token. If it says that the token"
    " expired, this passes by itself: the agent gets a new token; compare this VM's"
    " clock, too (`timedatectl`). Else check that vault and identity belong to the same"
    " tenant."
)


class _Inner(msgspec.Struct):
    code: str = ""


class _Error(msgspec.Struct):
    code: str
    message: str
    innererror: _Inner | None = None

    @property
    def inner(self) -> str:
        """The more precise code; empty if there is none."""
        return self.innererror.code if self.innererror else ""


class _Body(msgspec.Struct):
    error: _Error


def map_refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, what: str
) -> AgentError:
    """Return the error for a vault's response other than 200.

    Args:
        status: the HTTP status.
        headers: a mapping with case-insensitive names.
        body: the unchanged body.
        what: the URL of the requested key, for the message.
    """
    problem = _read(headers, body)
    about = _describe(status, headers, problem, what)
    retry_after = parse_retry_after(headers.get("Retry-After", ""))
    if status == HTTPStatus.UNAUTHORIZED:
        return IdentityError(about, code="identity.refused", hint=_REFUSED_HINT)
    if (
        status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
        or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    ):
        kinds: dict[int, str] = {
            HTTPStatus.REQUEST_TIMEOUT: "timeout",
            HTTPStatus.TOO_MANY_REQUESTS: "throttled",
        }
        return TransportError(
            about,
            code=f"transport.{kinds.get(status, 'server')}",
            hint=_HINTS.get(status, SERVER_HINT),
            retry_after=retry_after,
        )
    error = _map_denial(status, about, problem) if problem else None
    if error is None:
        error = TransportError(about, code="transport.unexpected", hint=_FOREIGN_HINT)
    if error.disposition is not Disposition.DENIED:  # a denial has a fixed schedule
        error.retry_after = retry_after
    return error


def _map_denial(status: int, about: str, problem: _Error) -> AgentError | None:
    """Return the error for the vault's own error; None if it has no such status."""
    if status == HTTPStatus.FORBIDDEN:
        return _map_forbidden(about, problem)
    is_deleted = not _IS_DELETED.isdisjoint((problem.code, problem.inner))
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT) and is_deleted:
        return ReleaseDeniedError(about, code="release.not_found", hint=_NOT_FOUND_HINT)
    if (
        status == HTTPStatus.CONFLICT
    ):  # retry later: learn.microsoft.com, common-error-codes
        return ReleaseError(
            about,
            code="release.conflict",
            hint=_CONFLICT_HINT,
        )
    if status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
        return None
    return ReleaseDeniedError(
        about,
        hint="The vault cannot release this key. It must be exportable, have a release"
        " policy, and be in a Premium vault or a Managed HSM.",
    )


def _map_forbidden(about: str, problem: _Error) -> AgentError:
    refusal = find_refusal((problem.code, problem.inner), problem.message)
    if refusal is None:
        return ReleaseDeniedError(about, hint="The vault gave no more precise reason.")
    kind = ReleaseDeniedError if is_denial(refusal.code) else ReleaseError
    return kind(about, code=refusal.code, hint=refusal.hint)


def _read(headers: Mapping[str, str], body: bytes) -> _Error | None:
    """Return the vault's own error; None if the response is not in its format."""
    media_type = headers.get("Content-Type", _JSON).partition(";")[0].strip().lower()
    if media_type != _JSON:
        return None
    try:
        error = decode_json(body, _Body).error
    except ValueError:
        return None
    return error if error.code else None


def _describe(
    status: int, headers: Mapping[str, str], problem: _Error | None, what: str
) -> str:
    text = f"{what}: the vault answered HTTP {status}"
    if problem is not None:
        code = "/".join(filter(None, (problem.code, problem.inner)))
        text += f": {quote(f'{code}: {problem.message}').strip(': ')}"
    if request_id := headers.get("x-ms-request-id", ""):
        text += f" (x-ms-request-id {quote(request_id, 64)})"
    return text
