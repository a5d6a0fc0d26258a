"""What a vault's answer other than 200 means, as the error that says what to do.

Pure: status, headers and body in, an error out. Only an answer in the vault's own error
format is a denial: JSON, `{"error": {"code": …, "message": …}}` (Key Vault REST API,
"Error"), with a status that the vault denies with. A proxy's page is a transport fault.
What each 403 means is in the table of `vault_refusals`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

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
        """The more precise code; empty where there is none."""
        return self.innererror.code if self.innererror else ""


class _Body(msgspec.Struct):
    error: _Error


def judge_refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, what: str
) -> AgentError:
    """Name what a vault's answer other than 200 means.

    Args:
        status: of HTTP.
        headers: looked up in any case.
        body: as it came.
        what: the key that was asked for, for the error's prose.
    """
    said = _read(headers, body)
    about = _describe(status, headers, said, what)
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
    error = _judge_denial(status, about, said) if said else None
    if error is None:
        error = TransportError(about, code="transport.unexpected", hint=_FOREIGN_HINT)
    if error.disposition is not Disposition.DENIED:  # which is confirmed soon
        error.retry_after = retry_after
    return error


def _judge_denial(status: int, about: str, said: _Error) -> AgentError | None:
    """Name what the vault's own error means; None if no denial has that status."""
    if status == HTTPStatus.FORBIDDEN:
        return _judge_forbidden(about, said)
    is_deleted = not _IS_DELETED.isdisjoint((said.code, said.inner))
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT) and is_deleted:
        return ReleaseDeniedError(about, code="release.not_found", hint=_NOT_FOUND_HINT)
    if (
        status == HTTPStatus.CONFLICT
    ):  # retry later: learn.microsoft.com, common-error-codes
        return ReleaseError(
            about,
            code="release.conflict",
            disposition=Disposition.RETRY,
            hint=_CONFLICT_HINT,
        )
    if status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND):
        return None
    return ReleaseDeniedError(
        about,
        hint="The vault cannot release this key: it must be exportable, have a"
        " release policy, and live in a Premium vault or a Managed HSM.",
    )


def _judge_forbidden(about: str, said: _Error) -> AgentError:
    refusal = find_refusal((said.code, said.inner), said.message)
    if refusal is None:
        return ReleaseDeniedError(about, hint="The vault gave no more precise reason.")
    if refusal.disposition is None:
        return ReleaseDeniedError(about, code=refusal.code, hint=refusal.hint)
    return ReleaseError(
        about,
        code=refusal.code,
        hint=refusal.hint,
        disposition=refusal.disposition,
    )


def _read(headers: Mapping[str, str], body: bytes) -> _Error | None:
    """Read the vault's own error; None where the answer is not in its format."""
    media_type = headers.get("Content-Type", _JSON).partition(";")[0].strip().lower()
    if media_type != _JSON:
        return None
    try:
        error = decode_json(body, _Body).error
    except ValueError:
        return None
    return error if error.code else None


def _describe(
    status: int, headers: Mapping[str, str], said: _Error | None, what: str
) -> str:
    text = f"{what}: the vault answered HTTP {status}"
    if said is not None:
        code = "/".join(filter(None, (said.code, said.inner)))
        text += f": {quote(f'{code}: {said.message}').strip(': ')}"
    if request_id := headers.get("x-ms-request-id", ""):
        text += f" (x-ms-request-id {quote(request_id, 64)})"
    return text
