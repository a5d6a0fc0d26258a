"""What is asked for, what the releaser is told, and what of its answer is believed.

Pure functions.

The releaser is our own program, but it reads what the network sends: its answer is
judged like anybody else's before an offset of it is used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from skragent.agent.lifecycle import Terms
from skragent.clouds import CLOUDS
from skragent.errors import Disposition, ReleaserError, SkrAgentError
from skragent.job import (
    MAX_RESULT_BYTES,
    PROTOCOL,
    Identity,
    Job,
    KeyRequest,
    Result,
    unique_offset,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skragent.config import Config
    from skragent.job import Failure, Purpose

# A failure's words go to the journal and to `status`; a service's prose can be long.
MAX_MESSAGE_CHARACTERS: Final = 1000

# As long as `attestation.token` lets one be.
MAX_TOKEN_CHARS: Final = 128 * 1024

# It becomes a metric's label and a part of the line in `systemctl status`.
_CODE: Final = re.compile(r"[a-z0-9_.]{1,64}")

# Or nothing, where there is no permission to know it.
_VERSION: Final = re.compile(r"([0-9a-f]{32})?")

# THIM's, of an AK certificate that it makes: it goes into a URL.
_QUERY_ID: Final = re.compile(r"[0-9A-Za-z-]{0,64}")

# All that the releaser sees of our environment.
_ENVIRONMENT: Final = frozenset(
    {"PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)


class _Protocol(msgspec.Struct):
    protocol: int = 0


def key_requests(config: Config) -> dict[str, KeyRequest]:
    """List the configured keys in the words of a job, by the name for workloads."""
    return {
        alias: KeyRequest(
            alias=alias,
            vault=key.vault,
            name=key.name or alias,
            version=key.version,
            identity=_identity(config, key.identity),
        )
        for alias, key in config.keys.items()
    }


def _identity(config: Config, name: str) -> Identity:
    identity = config.identities[name] if name else config.identity
    return Identity(**msgspec.structs.asdict(identity))


def key_terms(config: Config) -> dict[str, Terms]:
    """List what is configured of each key's life."""
    return {
        alias: Terms(
            max_stale_seconds=key.max_stale_seconds,
            is_kept_when_denied=key.on_denial == "keep",
            refresh_seconds=key.refresh_seconds or None,
            overlap_seconds=key.overlap_seconds,
            check_seconds=None if key.version else key.version_check_seconds or None,
        )
        for alias, key in config.keys.items()
    }


def build_job(
    config: Config,
    keys: Sequence[KeyRequest],
    *,
    now: float,
    arena_fd: int,
    arena_bytes: int,
    tcg_log: str,
    purpose: Purpose = "release",
    ak_query_id: str = "",
    token: str = "",
    state_directory: str = "",
) -> Job:
    """Write one job for the releaser."""
    return Job(
        purpose=purpose,
        ak_query_id=ak_query_id,
        token=token,
        now=now,
        timeout_seconds=config.limits.request_timeout_seconds,
        keys=tuple(keys),
        arena_fd=arena_fd,
        arena_bytes=arena_bytes,
        tcti=config.vtpm.tcti,
        tcg_log=tcg_log,
        imds_endpoint=config.imds.endpoint,
        amd_roots=config.trust.amd_roots,
        attestation_endpoint=config.attestation.endpoint,
        authority=CLOUDS[config.cloud].authority,
        tls_roots=config.trust.tls_roots,
        release_roots=config.trust.release_roots,
        state_directory=state_directory,
    )


def releaser_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep of our environment what the releaser needs, and nothing else."""
    return {k: v for k, v in environment.items() if k in _ENVIRONMENT}


def parse_result(
    raw: bytes,
    *,
    aliases: frozenset[str],
    purpose: Purpose = "release",
    has_token: bool = False,
) -> Result:
    """Read the releaser's answer; every alias that was asked for is answered once.

    Args:
        raw: the answer.
        aliases: of the keys that were asked for.
        purpose: of the job.
        has_token: whether the job brought one, and was not to attest.

    Raises:
        ReleaserError: releaser.garbage, for anything that is not exactly that.
    """
    if len(raw) > MAX_RESULT_BYTES:
        raise _garbage(f"it is longer than {MAX_RESULT_BYTES} bytes")
    try:
        protocol = msgspec.json.decode(raw, type=_Protocol).protocol
        if protocol != PROTOCOL:
            raise _garbage(f"it speaks protocol {protocol}, this agent {PROTOCOL}")
        result = msgspec.json.decode(raw, type=Result)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _garbage("it is not a result") from error
    _judge_purpose(result, purpose)
    _judge_attestation(result, has_token=has_token)
    _judge_aliases(result, aliases)
    _judge_slices(result, unique_offset(len(aliases)))
    return result


def failure_error(failure: Failure) -> SkrAgentError:
    """Turn a failure that crossed the pipe back into what it was.

    Whether it is a denial follows from its code alone (`skragent.denials`).
    """
    disposition = Disposition(failure.disposition)
    if disposition is Disposition.DENIED:
        disposition = Disposition.RETRY_SLOWLY
    return SkrAgentError(
        _trim(failure.message),
        code=failure.code if _CODE.fullmatch(failure.code) else "releaser.garbage",
        disposition=disposition,
        hint=_trim(failure.hint),
        retry_after=failure.retry_after,
    )


def _judge_purpose(result: Result, purpose: Purpose) -> None:
    if purpose == "release" and result.versions:
        raise _garbage("it answers what was not asked")
    if purpose != "release" and (result.released or result.attestation):
        raise _garbage("it released where it was to look only")
    if purpose != "renew" and result.ak_query_id:
        raise _garbage("it ordered what was not asked for")
    if not _QUERY_ID.fullmatch(result.ak_query_id):
        raise _garbage("the id of a renewal is none")
    if not all(map(_VERSION.fullmatch, result.versions.values())):
        raise _garbage("a version is none")


def _judge_attestation(result: Result, *, has_token: bool) -> None:
    has_attested = result.attestation is not None
    if has_attested != bool(result.token) or len(result.token) > MAX_TOKEN_CHARS:
        raise _garbage("an attestation has a token, and a token an attestation")
    if has_token and has_attested:
        raise _garbage("it attested where it was not to")
    if result.released and not (has_token or has_attested):
        raise _garbage("keys were released without an attestation")


def _judge_aliases(result: Result, aliases: frozenset[str]) -> None:
    answered = [key.alias for key in result.released] + list(result.versions)
    answered += [key.alias for key in result.failed]
    if result.failure is not None:
        if answered:
            raise _garbage("it answers keys of a job that failed as a whole")
        return
    if len(answered) != len(set(answered)):
        raise _garbage("it answers a key twice")
    if set(answered) != aliases:
        raise _garbage("it answers other keys than were asked for")


def _judge_slices(result: Result, limit: int) -> None:
    slices = sorted(
        (form.offset, form.length)
        for key in result.released
        for form in key.forms.values()
    )
    end = 0
    for offset, length in slices:
        if length <= 0 or offset < end:
            raise _garbage("two of its slices overlap, or one is empty")
        end = offset + length
    if end > limit:
        raise _garbage("a slice lies outside the keys' secret memory")
    if not all(key.forms for key in result.released):
        raise _garbage("a key was released in no form")


def _garbage(why: str) -> ReleaserError:
    return ReleaserError(
        f"the releaser's answer cannot be used: {why}", code="releaser.garbage"
    )


def _trim(text: str) -> str:
    """Make prose, maybe a service's, fit to log: short, and on one line."""
    if len(text) > MAX_MESSAGE_CHARACTERS:
        text = text[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    return "".join(c if c.isprintable() else " " for c in text)
