"""The whole taxonomy of what can go wrong: a stable `code` and a disposition.

Two attributes carry all that anybody acts on. `code` is dotted, stable and safe to
show, to alert on and to script against. `disposition` is the only thing that the
supervisor reads. The prose says what happened and to what; `hint` says what to do.

Not here: misuse of our own functions, which is `TypeError` or `RuntimeError`.
A message or hint never holds key bytes, a token or a secret: they travel to logs.
"""

from __future__ import annotations

import enum
from typing import ClassVar

from skragent.denials import DENIALS


class Disposition(enum.Enum):
    """What the supervisor does about an error (design: the life of a key)."""

    RETRY = "retry"  # the same step again, after a backoff
    REATTEST = "reattest"  # start again from evidence, after a backoff
    # A person must probably act: as RETRY, with a long backoff and an alarm.
    RETRY_SLOWLY = "retry_slowly"
    # An authority said no. An error has it by its code: see `skragent.denials`.
    DENIED = "denied"
    # The configuration cannot be used, or this is no confidential VM. At start it ends
    # the agent; later it is RETRY_SLOWLY.
    FATAL = "fatal"


class AgentError(Exception):
    """The root of everything that this project raises about the world.

    Args:
        message: what happened, and to what; one sentence, no secrets.
        code: a more precise code than the class's own; it must begin with it.
        disposition: where one instance differs from its class. Never DENIED: that
            follows from the code.
        hint: what the reader can do about it, one sentence.
        retry_after: seconds that the other side asked us to wait.
    """

    code: str = "internal"
    disposition: Disposition = Disposition.RETRY_SLOWLY
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
        if disposition is not None:
            self.disposition = disposition
        if self.code in DENIALS:
            self.disposition = Disposition.DENIED
        elif self.disposition is Disposition.DENIED:
            raise TypeError(f"{self.code} is no denial: see skragent.denials")
        self.hint = hint or self._default_hint
        self.retry_after = retry_after


class ConfigError(AgentError):
    """The configuration cannot be used; lists every problem, not the first one.

    Codes: config.invalid, config.syntax (no TOML), config.unreadable (the file),
    config.unknown_name (of a user or group), config.timeout (names could not be
    looked up in time), config.no_socket.
    """

    code = "config.invalid"
    disposition = Disposition.FATAL
    _default_hint = "Correct the file, then run `skragent check-config`."

    def __init__(
        self, problems: list[str], *, code: str | None = None, hint: str = ""
    ) -> None:
        super().__init__("; ".join(problems), code=code, hint=hint)
        self.problems = problems


class TransportError(AgentError):
    """A service could not be asked, or answered that it cannot answer now.

    Codes: transport.timeout, .refused, .dns, .tls, .reset, .throttled, .server,
    .oversized, .unexpected.
    """

    code = "transport"
    disposition = Disposition.RETRY


class IdentityError(AgentError):
    """No access token for the vault could be had.

    IMDS and Entra ID are no authorities over a key: none of these ends a held key.

    Codes: identity.unavailable, identity.refused (the vault does not accept it),
    identity.challenge (the vault demands one for another service): RETRY.
    identity.not_found (by IMDS), identity.denied (by Entra ID), identity.unreadable (a
    certificate or secret): RETRY_SLOWLY.
    """

    code = "identity"
    disposition = Disposition.RETRY
    _default_hint = (
        "Check that a managed identity is assigned to this VM and, where there are"
        " several, that [identity] names the one to use."
    )


class EvidenceError(AgentError):
    """The hardware's side of the story cannot be had or does not hold together."""

    code = "evidence"


class TpmError(EvidenceError):
    """A TPM command failed.

    Codes: evidence.tpm (other), evidence.tpm.unreachable, evidence.tpm.busy,
    evidence.tpm.lockout, evidence.not_a_cvm (no HCL report index: FATAL),
    evidence.hcl_not_provisioned, evidence.ak_cert_not_provisioned,
    evidence.pcr_changed.
    """

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
        self.command = command  # as TPM 2.0 part 3 spells it, such as TPM2_NV_Read
        self.rc = rc  # TPM_RC, or the TSS2 layer's code


class MalformedEvidenceError(EvidenceError):
    """Bytes that should be evidence do not parse."""

    code = "evidence.malformed"


class UnsupportedEvidenceError(EvidenceError):
    """Evidence of a kind that is known and not supported.

    A hardware report of another kind than SEV-SNP's, such as TDX's, is FATAL.
    """

    code = "evidence.unsupported"


class BindingError(EvidenceError):
    """Two pieces of evidence that must belong together do not.

    Codes: evidence.binding (runtime data and REPORT_DATA), evidence.ak_mismatch
    (this vTPM's AK and the report's), evidence.signature (report and VCEK or quote
    and AK), evidence.quote.
    """

    code = "evidence.binding"
    disposition = Disposition.REATTEST


class EndorsementsError(AgentError):
    """The certificates that vouch for the report's signer are missing or wrong.

    Codes: endorsements.malformed, endorsements.chain, endorsements.root,
    endorsements.lifetime,
    endorsements.tcb (they lag the report), endorsements.chip,
    endorsements.ak_certificate (a new one that is worse than the present one),
    endorsements.ak_copy (no copy of it can be kept or read: RETRY_SLOWLY).
    """

    code = "endorsements"
    disposition = Disposition.RETRY


class AttestationError(AgentError):
    """The verifier did not give us a token that we can use.

    Codes: token.endpoint (no provider is known for this region).
    """

    code = "token"


class AttestationRefusedError(AttestationError):
    """The provider refused the evidence, in its own error format: carries why."""

    code = "token.refused"


class InvalidTokenError(AttestationError):
    """A token, or the sealed answer it came in, that is not what was asked for.

    A check of ours is no authority: all of these re-attest.

    Codes: token.invalid, token.signature, token.issuer, token.nonce,
    token.wrapping_key, token.lifetime, token.sealed, token.signing_keys.
    """

    code = "token.invalid"
    disposition = Disposition.REATTEST


class TokenExpiredError(AttestationError):
    """The token's time is over or has not begun."""

    code = "token.expired"
    disposition = Disposition.REATTEST


class ReleaseError(AgentError):
    """The vault did not give us a wrapped key that we can use.

    Codes: release.conflict (another operation on the key is under way: RETRY),
    release.expired and release.not_yet_valid (by the key's `exp` and `nbf`),
    release.unverified (the vault could not verify the token: REATTEST).
    """

    code = "release"


class ReleaseDeniedError(ReleaseError):
    """The vault understood the request and said no, in its own error format.

    Codes: release.denied, release.denied.policy, release.denied.permission,
    release.denied.firewall, release.denied.connection, release.denied.disabled,
    release.not_found.
    """

    code = "release.denied"


class MalformedReleaseError(ReleaseError):
    """The vault's answer does not parse or does not verify.

    Codes: release.malformed, release.signature, release.chain, release.host,
    release.mismatch (not what was asked for), release.key_mismatch (the private
    key is not the one whose public part was signed).
    """

    code = "release.malformed"
    disposition = Disposition.REATTEST


class UnwrapError(AgentError):
    """The wrapped key did not open. One message for every cause: no oracle."""

    code = "unwrap"
    disposition = Disposition.REATTEST


class ReleaserError(AgentError):
    """The releaser, our own child process, did not do its work.

    Codes: releaser.timeout, releaser.crashed, releaser.garbage, releaser.spawn.
    """

    code = "releaser"
    disposition = Disposition.RETRY


class SecretMemoryError(AgentError):
    """Memory for keys cannot be had, locked or mapped, or holds something else.

    Codes: memory.locked_limit, memory.content (of an earlier agent, unusable).
    """

    code = "memory"
    disposition = Disposition.RETRY
    _default_hint = "Raise LimitMEMLOCK= of the unit, or hold fewer keys."


class ListenError(AgentError):
    """A socket of the agent cannot be bound or inherited.

    Codes: listen.in_use, listen.not_a_socket, listen.inherited, listen.failed.
    """

    code = "listen.failed"
    disposition = Disposition.FATAL


class EmulatorError(AgentError):
    """The emulator cannot be set up, or a request to its faults.sock is wrong."""

    code = "emulator.request"
    disposition = Disposition.FATAL


class ServeError(AgentError):
    """A request that is not answered with what it asked for.

    Never reaches the supervisor. `status` is the HTTP status of the answer. Codes of
    its own: serve.busy, serve.connections (what is admitted is used up), internal.
    """

    code = "serve"
    status: int = 500


class RequestError(ServeError):
    """The caller's fault: what was asked cannot be understood or is too much.

    Codes: serve.bad_request, serve.method, serve.not_found (no such resource),
    serve.not_acceptable, serve.body, serve.head_too_large, serve.http_version,
    serve.timeout, serve.rate.
    """

    code = "serve.bad_request"
    status = 400

    def __init__(
        self, message: str, *, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message, code=code)
        self.status = status


class AccessDeniedError(ServeError):
    """The caller may not have it, or there is none: the answer does not tell which.

    Codes: serve.denied, serve.version (not the version that is held).
    """

    code = "serve.denied"
    status = 404


class NotReadyError(ServeError):
    """The key is configured and allowed, and not held yet (or no longer)."""

    code = "serve.not_ready"
    status = 503
