"""The error classes of the agent: a stable `code`, a disposition and a hint.

`code` is dotted and stable: people and programs may show it, alert on it and script
against it. `disposition` is the only attribute that the scheduler reads. Both are
listed in `skragent.error_catalog`. The message says what failed and why; `hint` says
what to do. Messages and hints go to logs: they never hold key bytes, tokens or secrets.

Misuse of our own functions is not an AgentError but `TypeError` or `RuntimeError`.
"""

from __future__ import annotations

from typing import ClassVar

from skragent import error_catalog

Disposition = error_catalog.Disposition


class AgentError(Exception):
    """Base class of all errors that the environment causes.

    Args:
        message: what failed, on which object and why; one sentence without secrets.
        code: a more precise code than the class's own; it begins with the class's.
        disposition: for a code whose disposition varies by cause. Never DENIED, which
            follows from the code alone.
        hint: what the reader can do about the error; one sentence.
        retry_after: seconds after which the service allows another request.
    """

    code: str = "internal"
    disposition: Disposition = Disposition.RETRY_SLOWLY  # of codes that vary
    _default_hint: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        disposition: Disposition | None = None,
        hint: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        listed = error_catalog.disposition_of(self.code)
        if disposition is Disposition.DENIED and listed is not disposition:
            raise TypeError(f"{self.code} is not a denial: see skragent.error_catalog")
        if listed is Disposition.DENIED:
            disposition = listed
        self.disposition = disposition or listed or self.disposition
        self.hint = hint or self._default_hint
        self.retry_after = retry_after


class ConfigError(AgentError):
    """The configuration cannot be used. The error lists every problem."""

    code = "config.invalid"
    _default_hint = "Correct the file, then run `skragent check-config`."

    def __init__(
        self, problems: list[str], *, code: str | None = None, hint: str = ""
    ) -> None:
        super().__init__("; ".join(problems), code=code, hint=hint)
        self.problems = problems


class TransportError(AgentError):
    """A service did not respond, or cannot respond now."""

    code = "transport"


class IdentityError(AgentError):
    """The agent did not get an access token for the vault, or the vault rejected it.

    IMDS and Entra ID are not authorities over a key: no such error ends a held key.
    """

    code = "identity"
    _default_hint = (
        "Check that a managed identity is assigned to this VM. If there are several,"
        " name one in [identity]."
    )


class EvidenceError(AgentError):
    """The evidence of the hardware is missing or inconsistent."""

    code = "evidence"


class TpmError(EvidenceError):
    """A TPM command failed."""

    code = "evidence.tpm"

    def __init__(
        self,
        message: str,
        *,
        command: str,
        rc: int,
        code: str | None = None,
        disposition: Disposition | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, code=code, disposition=disposition, hint=hint)
        self.command = command  # by its name in TPM 2.0 part 3, such as TPM2_NV_Read
        self.rc = rc  # TPM_RC, or the response code of a TSS2 layer


class MalformedEvidenceError(EvidenceError):
    """Evidence that cannot be parsed."""

    code = "evidence.malformed"


class UnsupportedEvidenceError(EvidenceError):
    """Evidence of a known kind that is not supported.

    A hardware report of another kind than SEV-SNP's, such as TDX's, is FATAL.
    """

    code = "evidence.unsupported"


class BindingError(EvidenceError):
    """Two pieces of evidence do not belong together."""

    code = "evidence.binding"


class EndorsementsError(AgentError):
    """The certificates that endorse the report's signer are missing or wrong."""

    code = "endorsements"


class AttestationError(AgentError):
    """The verifier did not issue a token that the agent can use."""

    code = "token"


class AttestationRefusedError(AttestationError):
    """The provider refused the evidence, in its own error format."""

    code = "token.refused"


class InvalidTokenError(AttestationError):
    """A token, or the sealed response with the token, does not match the request.

    The agent's own check is not an authority: the agent attests again.
    """

    code = "token.invalid"


class TokenExpiredError(AttestationError):
    """The token has expired or is not valid yet."""

    code = "token.expired"


class ReleaseError(AgentError):
    """The vault did not release a wrapped key that the agent can use."""

    code = "release"


class ReleaseDeniedError(ReleaseError):
    """The vault denied the release, in its own error format."""

    code = "release.denied"


class MalformedReleaseError(ReleaseError):
    """The vault's response cannot be parsed or verified."""

    code = "release.malformed"


class UnwrapError(AgentError):
    """The released key could not be unwrapped.

    The message is the same for every cause, so that it is not a padding oracle.
    """

    code = "unwrap"


class ReleaserError(AgentError):
    """The releaser, a child process of the agent, did not return a result."""

    code = "releaser"


class SecretMemoryError(AgentError):
    """Memory for keys cannot be created, locked or mapped, or has other content."""

    code = "memory"
    _default_hint = "Raise LimitMEMLOCK= of the unit, or hold fewer keys."


class ListenError(AgentError):
    """A socket of the agent cannot be bound or inherited."""

    code = "listen.failed"


class EmulatorError(AgentError):
    """The emulator cannot start, or a request to its faults.sock is wrong."""

    code = "emulator.request"


class ServeError(AgentError):
    """A request that the agent refuses. The scheduler never gets such an error.

    `status` is the HTTP status of the response.
    """

    code = "serve"
    status: int = 500


class RequestError(ServeError):
    """The caller's error: the request cannot be parsed, or exceeds a limit."""

    code = "serve.bad_request"
    status = 400

    def __init__(
        self, message: str, *, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message, code=code)
        self.status = status


class AccessDeniedError(ServeError):
    """No rule allows the key to the caller, or the key does not exist.

    The response is the same in both cases.
    """

    code = "serve.denied"
    status = 404


class NotReadyError(ServeError):
    """A rule allows the key to the caller, but the agent does not hold it now."""

    code = "serve.not_ready"
    status = 503
