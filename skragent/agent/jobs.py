"""Build the jobs of releasers from the configuration. Pure.

A vault's URL and a key's name can be written in several ways. Two requests mean the
same key if they differ only in the letter case of the host, a slash at the end or the
default port (RFC 3986 §6.2), or in the letter case of the key's name ("About keys,
secrets, and certificates": object identifiers are case-insensitive).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from skragent.clouds import CLOUDS
from skragent.errors import AgentError, Disposition
from skragent.job import Job, KeyRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skragent.config import Config
    from skragent.job import Failure, Purpose
    from skragent.keyring import PreservedRecord

# A failure's message goes to the journal and to `status`; a service may send more.
MAX_MESSAGE_CHARACTERS: Final = 1000

# A code becomes a metric's label and part of a line of `systemctl status`.
_CODE: Final = re.compile(r"[a-z0-9_.]{1,64}")

# The longest version check or renewal of the AK certificate.
SHORT_JOB_SECONDS: Final = 30.0

# The variables of the agent's environment that the releaser inherits.
_ENVIRONMENT: Final = frozenset(
    {"PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)


def key_requests(config: Config) -> dict[str, KeyRequest]:
    """Return the configured keys as requests, by alias."""
    return {
        alias: KeyRequest(
            alias=alias,
            vault=vault_origin(key.vault),
            name=key.name or alias,
            version=key.version,
            identity=config.identities[key.identity]
            if key.identity
            else config.identity,
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
    """Build one job."""
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
    """Return the variables that the releaser needs."""
    return {k: v for k, v in environment.items() if k in _ENVIRONMENT}


def failure_error(failure: Failure) -> AgentError:
    """Return the error that a releaser reported.

    Only the error's code decides whether it is a denial (`skragent.denials`).
    """
    disposition = Disposition(failure.disposition)
    if disposition is Disposition.DENIED:
        disposition = Disposition.RETRY_SLOWLY
    return AgentError(
        _trim(failure.message),
        code=failure.code if _CODE.fullmatch(failure.code) else "releaser.garbage",
        disposition=disposition,
        hint=_trim(failure.hint),
        retry_after=failure.retry_after,
    )


def _trim(text: str) -> str:
    """Shorten a text, which a service may have written, to one line of the journal."""
    if len(text) > MAX_MESSAGE_CHARACTERS:
        text = text[: MAX_MESSAGE_CHARACTERS - 1] + "…"
    return "".join(c if c.isprintable() else " " for c in text)


_DEFAULT_PORT: Final = 443  # of https


def vault_origin(url: str) -> str:
    """Return the normal form of a valid vault URL."""
    origin = url.lower().removesuffix("/")
    host, _, port = origin.rpartition(":")
    if port.isdecimal():  # `]` ends an IPv6 address without a port
        return host if int(port) == _DEFAULT_PORT else f"{host}:{int(port)}"
    return origin


def is_same_key(
    one: KeyRequest | PreservedRecord, other: KeyRequest | PreservedRecord
) -> bool:
    """Return whether both mean the same key of the same vault, in any version."""
    return _key_id(one) == _key_id(other)


def _key_id(key: KeyRequest | PreservedRecord) -> tuple[str, str]:
    return vault_origin(key.vault), key.name.lower()
