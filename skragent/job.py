"""The contract between the agent and the releaser: `Job` and `Result`.

The releaser reads one `Job` from stdin as JSON. It writes the result to stdout in
parts, one `Result` in JSON on each line, so that the agent gets each key as soon as it
is released. Neither has key bytes. The releaser writes them into the secret memory
whose descriptor it inherits (`arena_fd`), and the result has their positions (`Slice`).

Both sides reject a message that is too long, that has another `protocol`, or that has
an unknown field, because they are always of one installation.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from skragent.identity import Identity

PROTOCOL = 4

# A job holds names and URLs of at most MAX_KEYS keys, a result their public parts too:
# 2.5 kB for RSA-4096; and either an attestation token of at most 128 kB.
MAX_JOB_BYTES = 512 * 1024
MAX_RESULT_BYTES = 1024 * 1024

# The longest attestation token; observed: 6 to 9 kB.
MAX_TOKEN_CHARACTERS = 128 * 1024

# The longest lifetime of an attestation token. Observed: 8 hours. Documented: one day
# (learn.microsoft.com, azure/attestation/claim-sets).
MAX_TOKEN_LIFE_SECONDS = 86400

# The name by which workloads and the configuration know a key: `alias` in the code.
ALIAS_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"

# More keys than a vault would release within a token's life is a mistake.
MAX_KEYS = 256

# Notes of a result for people, such as a root certificate that is skipped.
MAX_NOTES = 20
MAX_NOTE_CHARACTERS = 600

# Arena space for one key. The largest is RSA-4096: DER 2.4 kB, PEM 3.3 kB, JWK 3.2 kB.
ARENA_BYTES_PER_KEY = 16 * 1024

# The template's `unique` field, which determines the wrapping key of a token. It is as
# long as the modulus. It is secret, in the arena after the keys, because it is enough
# to make the wrapping key again on this TPM.
UNIQUE_BYTES = 256


def unique_offset(keys: int) -> int:
    """Return the offset of the `unique` field in the arena of a job of so many keys."""
    return ARENA_BYTES_PER_KEY * keys


def arena_bytes(keys: int) -> int:
    """Return the size of the arena of a job of so many keys, in bytes."""
    return unique_offset(keys) + UNIQUE_BYTES


# Wall time in seconds since 1970, to the end of the year 9999: a date can show it.
Timestamp = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
Form = Literal["jwk", "pem", "der", "raw"]
Purpose = Literal["release", "check", "renew"]


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key to release: its vault and name, and its name for workloads."""

    alias: str
    vault: str  # https://NAME.vault.azure.net or https://NAME.managedhsm.azure.net
    name: str  # the name in the vault
    version: str = ""  # 32 hex digits, or empty for the latest
    identity: Identity = Identity()  # for the vault's access token


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The complete input of a releaser.

    Times are seconds since 1970 (UTC) or durations in seconds. `now` is the agent's
    wall time when it wrote the job: the releaser does not read the wall clock.
    """

    protocol: int = PROTOCOL
    # check: return the keys' latest versions, without attestation and release.
    # renew: without keys; renew the AK certificate, or fetch it by its query id.
    purpose: Purpose = "release"
    ak_query_id: str = ""
    # The token of an earlier job, with `unique` in the arena; empty: attest.
    token: str = ""
    now: float
    timeout_seconds: (
        float  # for one network exchange; the agent limits the job as a whole
    )
    keys: tuple[KeyRequest, ...]
    arena_fd: int
    arena_bytes: int
    # evidence
    tcti: str
    tcg_log: str  # a path; empty or unreadable means that no log is sent
    imds_endpoint: str
    amd_roots: str  # a PEM file of ARKs to trust instead of AMD's; empty for AMD's
    # attestation
    attestation_endpoint: str  # "auto" for the region's shared provider
    # release
    authority: str  # of Entra ID, for applications: https://login.microsoftonline.com
    tls_roots: str  # a PEM file for TLS to MAA and vaults; empty for the system's
    release_roots: str  # a PEM file for the release signature; empty for the system's
    # For copies of the AK certificate during a renewal; empty: no directory.
    state_directory: str = ""


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An `AgentError` in the form of the contract."""

    code: str
    disposition: Literal["retry", "reattest", "retry_slowly", "denied", "fatal"]
    message: str
    hint: str = ""
    retry_after: float | None = None


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The position of one form of a key in the arena, in bytes."""

    offset: int
    length: int


class ReleasedKey(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """One released key: its public attributes, and the positions of its forms."""

    alias: str
    kid: str  # the vault's own versioned identifier, a URL
    version: str
    kty: Literal["RSA", "EC", "oct"]
    fingerprint: str  # SHA-256 (hex) of the SubjectPublicKeyInfo; empty for oct
    public_jwk: str  # JSON text; empty for oct
    public_pem: str  # SubjectPublicKeyInfo; empty for oct
    forms: dict[Form, Slice]
    enabled: bool = True
    not_before: float | None = None  # the vault's `nbf`, seconds since 1970
    expires: float | None = None  # the vault's `exp`
    repeats_nonce: bool = True  # the signed release repeats the nonce of its request


class FailedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key that was not released, with the reason."""

    alias: str
    failure: Failure


class Attestation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """A summary of the attestation token, for people."""

    issuer: str
    issued_at: Timestamp
    expires_at: Timestamp
    token_sha256: str  # of the token's text, to find it in the vault's logs
    compliance_status: str
    vm_id: str
    chip_generation: str
    report_version: int
    verified: tuple[str, ...]  # one sentence for each verified fact


class AkCertificate(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """The end of the AK certificate's life, and whether the guest should renew it."""

    expires_at: Timestamp
    is_renewal_due: bool = False


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One part of a job's outcome; the last part ends it.

    If the last part has a `failure` of the job as a whole, no part has keys. Otherwise
    each requested key is in exactly one part. The attestation, if there was one, is in
    the first part that has keys or in a part before it.

    After a version check, `versions` has the latest version of each key; empty if the
    identity lacks the permission `keys/get`. After a renewal, `ak_query_id` identifies
    a certificate that THIM has not made yet.

    `timings` are milliseconds by step, for people and for metrics.
    """

    protocol: int = PROTOCOL
    is_last: bool = True
    failure: Failure | None = None
    attestation: Attestation | None = None
    token: str = ""  # the attestation token, for later jobs
    ak_certificate: AkCertificate | None = None  # also with a failure, if it was read
    ak_query_id: str = ""
    released: tuple[ReleasedKey, ...] = ()
    failed: tuple[FailedKey, ...] = ()
    versions: dict[str, str] = {}
    timings: dict[str, float] = {}
    # For people: findings that did not stop the job, such as a skipped root.
    notes: tuple[str, ...] = ()
    ak_restored: bool = False  # a copy of the AK certificate was written back
