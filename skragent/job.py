"""The contract between the agent and the releaser; nothing else is shared.

One `Job` goes in on stdin as JSON. The result comes out on stdout in parts, one
`Result` in JSON on each line: a key that was released is in the agent's hands at once,
whatever the others wait for. Key bytes travel in neither: the releaser writes them into
the secret memory whose descriptor it inherits (`arena_fd`), and the result says where
(`Slice`).

Both sides refuse a message that is longer than the limit, of another `protocol`,
or that has a field the other does not know: they are always of one installation.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PROTOCOL = 4

# A job holds names and URLs of at most MAX_KEYS keys, a result their public parts too:
# 2.5 kB for RSA-4096; and either an attestation token of at most 128 kB.
MAX_JOB_BYTES = 512 * 1024
MAX_RESULT_BYTES = 1024 * 1024

# The longest attestation token; observed: 6 to 9 kB.
MAX_TOKEN_CHARACTERS = 128 * 1024

# More keys than a vault would release within a token's life is a mistake.
MAX_KEYS = 256

# Notes of a result for people, such as a root certificate that is skipped.
MAX_NOTES = 20
MAX_NOTE_CHARACTERS = 600

# Arena space for one key. The largest is RSA-4096: DER 2.4 kB, PEM 3.3 kB, JWK 3.2 kB.
ARENA_BYTES_PER_KEY = 16 * 1024

# What makes the wrapping key of a token one of its own: the template's `unique` field,
# as long as the modulus whose place it takes. It lies in the arena, after the keys: who
# knows it can make the wrapping key again on this TPM.
UNIQUE_BYTES = 256


def unique_offset(keys: int) -> int:
    """Tell where in the arena of a job for so many keys the `unique` field lies."""
    return ARENA_BYTES_PER_KEY * keys


def arena_bytes(keys: int) -> int:
    """Tell how much secret memory a job for so many keys needs."""
    return unique_offset(keys) + UNIQUE_BYTES


# Wall time in seconds since 1970, to the end of the year 9999: a date can show it.
Timestamp = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
Form = Literal["jwk", "pem", "der", "raw"]
Purpose = Literal["release", "check", "renew"]


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A managed identity of the VM, by one of its names; none: the system-assigned.

    With a tenant: an application of Entra ID, by its client id and one of the files.
    """

    client_id: str = ""  # a UUID
    object_id: str = ""  # a UUID: of its service principal
    resource_id: str = ""  # /subscriptions/…/userAssignedIdentities/NAME
    tenant_id: str = ""  # a UUID or a domain
    certificate: str = ""  # a PEM file with the private key
    secret_file: str = ""
    token_file: str = ""  # of a workload identity


class KeyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One key to release: where it lives and the name that workloads know it by."""

    alias: str
    vault: str  # https://NAME.vault.azure.net or https://NAME.managedhsm.azure.net
    name: str  # the vault's name for it
    version: str = ""  # 32 hex digits, or empty for the latest
    identity: Identity = Identity()  # who asks for it


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that the releaser needs to know of the world.

    Times are seconds since 1970 (UTC) or durations in seconds. `now` is the agent's
    wall clock when it wrote the job: the releaser has no clock of its own.
    """

    protocol: int = PROTOCOL
    # check: nothing is attested and released; what are the keys' latest versions?
    # renew: no keys; have the AK certificate renewed, or fetch it by its query id.
    purpose: Purpose = "release"
    ak_query_id: str = ""
    # Of an earlier job, with its `unique` field in the arena; empty: attest.
    token: str = ""
    now: float
    timeout_seconds: float  # one network exchange; the job as a whole is the agent's
    keys: tuple[KeyRequest, ...]
    arena_fd: int
    arena_bytes: int
    # room 1
    tcti: str
    tcg_log: str  # a path; empty or unreadable means that no log is sent
    imds_endpoint: str
    amd_roots: str  # a PEM file of ARKs to trust instead of AMD's; empty for AMD's
    # room 2
    attestation_endpoint: str  # "auto" for the region's shared provider
    # room 3
    authority: str  # of Entra ID, for applications: https://login.microsoftonline.com
    tls_roots: str  # a PEM file for TLS to MAA and vaults; empty for the system's
    release_roots: str  # a PEM file for the release signature; empty for the system's
    # For copies of the AK certificate while it is renewed; empty: there is none.
    state_directory: str = ""


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `AgentError`, as it crosses the pipe."""

    code: str
    disposition: Literal["retry", "reattest", "retry_slowly", "denied", "fatal"]
    message: str
    hint: str = ""
    retry_after: float | None = None


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where in the arena one form of a key lies, in bytes."""

    offset: int
    length: int


class ReleasedKey(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """One key that was released: its public facts, and where its bytes are."""

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
    """One key that was not released, and why."""

    alias: str
    failure: Failure


class Attestation(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """What is worth telling of the token that the keys were released under."""

    issuer: str
    issued_at: Timestamp
    expires_at: Timestamp
    token_sha256: str  # of the token's text, to find it again in the vault's logs
    compliance_status: str
    vm_id: str
    chip_generation: str
    report_version: int
    verified: tuple[str, ...]  # one sentence for each thing that was checked


class AkCertificate(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """How long the AK certificate holds, and whether it is ours to have renewed now."""

    expires_at: Timestamp
    is_renewal_due: bool = False


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One part of a job's outcome; the last part ends it.

    The last part either has a `failure` of the job as a whole, and then no key was
    answered, or every key that was asked for is in exactly one part. The attestation,
    if there was one, is in the first part that has keys or in one before it.

    Of a check, `versions` has the latest version of each key; empty where the identity
    has no permission to look (`keys/get`). Of a renewal, `ak_query_id` asks for what
    THIM has not made yet.

    `timings` are milliseconds by step, for people and for metrics.
    """

    protocol: int = PROTOCOL
    is_last: bool = True
    failure: Failure | None = None
    attestation: Attestation | None = None
    token: str = ""  # of the attestation: for jobs to come
    ak_certificate: AkCertificate | None = None  # also of a failure, once it was read
    ak_query_id: str = ""
    released: tuple[ReleasedKey, ...] = ()
    failed: tuple[FailedKey, ...] = ()
    versions: dict[str, str] = {}
    timings: dict[str, float] = {}
    # For people: findings that did not stop the job, such as a root that is skipped.
    notes: tuple[str, ...] = ()
    ak_restored: bool = False  # the AK certificate, after an interrupted renewal
