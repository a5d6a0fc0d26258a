"""The first stage: complete the evidence, verify it, exchange it for a token.

All waiting overlaps: endorsements and signing keys arrive while the TPM works, and the
releaser verifies the evidence while the provider appraises it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from skragent.attestation.guest import (
    SealedToken,
    encode_guest_request,
    open_sealed_token,
    parse_guest_response,
    parse_os_release,
)
from skragent.attestation.token import (
    AttestationToken,
    parse_signing_keys,
    token_key_id,
    verify_token,
)
from skragent.errors import ConfigError, InvalidTokenError, UnwrapError
from skragent.evidence.endorsements import (
    AMD_ROOTS,
    chip_generation,
    parse_roots,
    parse_thim_response,
)
from skragent.evidence.tcglog import trim_tcg_log
from skragent.evidence.verification import Evidence, verify_evidence
from skragent.files import NotRegularError, open_regular, read_regular
from skragent.job import Attestation
from skragent.pem_bundle import MAX_BUNDLE_BYTES
from skragent.releaser.job_io import Notes

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from skragent.attestation.maa import MaaClient
    from skragent.job import Job
    from skragent.releaser.prefetch import Prefetch
    from skragent.releaser.stopwatch import Stopwatch
    from skragent.releaser.tpm_worker import TpmWorker

MAX_TCG_LOG_BYTES = 4 * 1024 * 1024  # Linux keeps 64 kB to some hundred kB
_MAX_TEXT_BYTES = 1024 * 1024
_OS_RELEASE = "/etc/os-release"
_NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verified token, and a summary of the attestation for people."""

    token: AttestationToken
    summary: Attestation


class AttestationStage:
    """One attestation. Its requests without evidence are under way already."""

    def __init__(
        self,
        job: Job,
        tpm_worker: TpmWorker,
        prefetch: Prefetch,
        executor: Executor,
        stopwatch: Stopwatch,
        *,
        notes: Notes | None = None,
    ) -> None:
        self._notes = Notes() if notes is None else notes
        self._job = job
        self._tpm_worker = tpm_worker
        self._prefetch = prefetch
        self._executor = executor
        self._stopwatch = stopwatch
        self._now = datetime.fromtimestamp(job.now, UTC)

    def run(self) -> Outcome:
        """Return the token.

        Raises:
            AgentError: the earliest step that failed.
        """
        roots = _read_amd_roots(self._job.amd_roots, self._notes)
        evidence = self._complete_evidence()
        nonce = secrets.token_hex(_NONCE_BYTES)
        maa = self._prefetch.maa.result()
        body = encode_guest_request(
            evidence, parse_os_release(_read_os_release()), nonce
        )
        response = self._executor.submit(self._attest, maa, body)
        # A binding that does not hold is reported more precisely here than by the
        # provider.
        with self._stopwatch.step("evidence.verify"):
            verified = verify_evidence(evidence, now=self._now, roots=roots)
        sealed = parse_guest_response(response.result())
        token = self._verify(maa, self._open(sealed), nonce)
        return Outcome(token, _summarise(token, evidence, verified))

    def _complete_evidence(self) -> Evidence:
        tcg_log = trim_tcg_log(_read_tcg_log(self._job.tcg_log, self._notes))
        tpm = self._tpm_worker.evidence.result()
        versions = (tpm.hcl_report.version_note, tpm.hcl_report.snp_report.version_note)
        self._notes.add("evidence", filter(None, versions))
        return Evidence(
            hcl_report=tpm.hcl_report,
            endorsements=parse_thim_response(self._prefetch.endorsements.result()),
            ak_certificate=tpm.ak_certificate,
            ak_public=tpm.ak_public,
            pcrs=tpm.pcrs,
            quote=tpm.quote,
            wrapping_key_public=tpm.wrapping_key.tpm2b_public,
            wrapping_key_certification=tpm.certification,
            tcg_log=tcg_log,
        )

    def _attest(self, maa: MaaClient, body: bytes) -> bytes:
        with self._stopwatch.step("maa.attest"):
            return maa.attest_guest(body)

    def _open(self, sealed: SealedToken) -> str:
        try:
            inner_key = self._tpm_worker.decrypt(sealed.encrypted_inner_key, "rsaes")
        except UnwrapError as error:
            raise InvalidTokenError(
                "the provider's response is not sealed to this vTPM's key",
                code="token.sealed",
            ) from error
        try:
            return open_sealed_token(sealed, inner_key)
        finally:
            inner_key[:] = bytes(len(inner_key))

    def _verify(self, maa: MaaClient, raw: str, nonce: str) -> AttestationToken:
        signing_keys = parse_signing_keys(self._prefetch.signing_keys.result())
        if not signing_keys.has(token_key_id(raw)):
            # The keys have been rotated since. One more request is enough for a job.
            with self._stopwatch.step("maa.keys_again"):
                signing_keys = parse_signing_keys(maa.signing_keys())
        return verify_token(
            raw,
            signing_keys=signing_keys,
            issuer=maa.endpoint,
            now=self._now,
            nonce=nonce,
            wrapping_key=self._tpm_worker.key().rsa,
        )


def _summarise(
    token: AttestationToken, evidence: Evidence, verified: tuple[str, ...]
) -> Attestation:
    report = evidence.hcl_report.snp_report
    generation = chip_generation(report, evidence.endorsements.signer)
    return Attestation(
        issuer=token.issuer,
        issued_at=token.issued_at.timestamp(),
        expires_at=token.expires_at.timestamp(),
        token_sha256=token.sha256,
        compliance_status=token.text_claim(
            "x-ms-isolation-tee", "x-ms-compliance-status"
        ),
        vm_id=token.text_claim("x-ms-azurevm-vmid")
        or evidence.hcl_report.runtime_data.vm_unique_id,
        chip_generation=generation.value,
        report_version=report.version,
        verified=(
            *verified,
            f"{token.issuer} signed the attestation token",
            "the token is for this vTPM's wrapping key and brings back our nonce",
        ),
    )


def _read_amd_roots(path: str, notes: Notes) -> frozenset[bytes]:
    if not path:
        return AMD_ROOTS
    try:
        bundle = parse_roots(read_regular(path, max_bytes=MAX_BUNDLE_BYTES))
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([f"trust.amd_roots: {path}: {reason}"]) from error
    notes.add(f"trust.amd_roots: {path}", bundle.skipped)
    return frozenset(bundle.roots)


def _read_tcg_log(path: str, notes: Notes) -> bytes:
    """Read the TCG log; empty if there is none or only root can read it."""
    try:
        if path:
            with open_regular(path) as file:
                return file.read(MAX_TCG_LOG_BYTES)
    except NotRegularError as error:
        notes.add(f"vtpm.tcg_log: {path}", [f"{error.strerror}: no TCG log is sent"])
    except OSError:
        pass
    return b""


def _read_os_release() -> str:
    try:
        return read_regular(_OS_RELEASE, max_bytes=_MAX_TEXT_BYTES).decode(
            errors="replace"
        )
    except OSError:
        return ""
