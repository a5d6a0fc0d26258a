"""The attestation stage against real sockets; only the TPM is a substitute."""

from __future__ import annotations

import base64
import dataclasses
import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding
from support.deadlines import DEADLINE_SECONDS
from support.evidence import mint_world, quote_message, sign_attest
from support.evidence_amd import rsa_key as evidence_key
from support.evidence_amd import thim_answer
from support.release import (
    encode_answer,
    key_set,
    make_token,
    public_jwk,
    seal_token,
    token_claims,
)
from support.release_pki import (
    NOW,
    b64,
    from_b64url,
)
from support.release_server import Answer, Asked, Server, json_answer, make_tls, serve

from skragent.errors import AgentError, ConfigError, UnwrapError
from skragent.evidence.quote import SignedAttest
from skragent.evidence.tpm import WrappingKey
from skragent.job import ARENA_BYTES_PER_KEY, Job, KeyRequest
from skragent.releaser.attestation_stage import AttestationStage, Outcome
from skragent.releaser.job_io import Notes
from skragent.releaser.prefetch import Prefetch
from skragent.releaser.stopwatch import Stopwatch
from skragent.releaser.tpm_worker import TpmEvidence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from skragent.releaser.tpm_worker import TpmWorker

INNER_KEY = bytes(range(32))


class SoftwareTpmWorker:
    """What a vTPM would say and do, done by keys in memory."""

    def __init__(self) -> None:
        evidence = mint_world().evidence
        key = evidence_key("wrapping").public_key().public_numbers()
        self.quote = evidence.quote
        self.header_version = 2
        self._key = WrappingKey(evidence.wrapping_key_public, key.n, key.e, 0)

    def key(self) -> WrappingKey:
        return self._key

    @property
    def evidence(self) -> Future[TpmEvidence]:
        evidence = mint_world().evidence
        report = dataclasses.replace(evidence.hcl_report, version=self.header_version)
        future: Future[TpmEvidence] = Future()
        future.set_result(
            TpmEvidence(
                hcl_report=report,
                ak_certificate=evidence.ak_certificate,
                ak_public=evidence.ak_public,
                pcrs=evidence.pcrs,
                quote=self.quote,
                wrapping_key=self._key,
                certification=evidence.wrapping_key_certification,
            )
        )
        return future

    def decrypt(self, ciphertext: bytes, scheme: str) -> bytearray:
        assert scheme == "rsaes"
        key = evidence_key("wrapping")
        # The library does not tell bad padding: it opens to something random, which
        # now and then is not even that.
        try:
            opened = key.decrypt(ciphertext, padding.PKCS1v15())
        except ValueError:
            opened = b""
        if len(opened) != len(INNER_KEY):
            raise UnwrapError("it does not open")
        return bytearray(opened)


class FakeMaa:
    """Believes everything and seals its tokens to the wrapping key."""

    def __init__(self) -> None:
        self.origin = ""
        self.signer = "maa"
        self.published = ["maa"]
        self.sealed_to = "wrapping"
        self.refusal: Answer | None = None

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/certs":
            # The second response has the signer's key: the keys were rotated.
            published, self.published = self.published, [self.signer]
            return Answer(200, key_set(*published))
        return self.refusal or Answer(200, self._attest(asked.body))

    def _attest(self, body: bytes) -> bytes:
        info = json.loads(from_b64url(json.loads(body)["AttestationInfo"]))
        key = public_jwk(evidence_key("wrapping"), "Ephemeral", key_ops=["encrypt"])
        runtime = {"client-payload": info["ClientPayload"], "keys": [key]}
        claims = token_claims(iss=self.origin) | {"x-ms-runtime": runtime}
        jku = f"{self.origin}/certs"
        token = make_token(claims, signer=self.signer, kid=self.signer, jku=jku)
        public = evidence_key(self.sealed_to).public_key()
        inner_key = b64(public.encrypt(INNER_KEY, padding.PKCS1v15()))
        return encode_answer(seal_token(token) | {"EncryptedInnerKey": inner_key})


class World:
    """Everything that an attestation needs, and good."""

    def __init__(
        self, directory: Path, maa: FakeMaa, servers: dict[str, Server]
    ) -> None:
        self.directory = directory
        self.maa = maa
        self.imds_server = servers["imds"]
        self.maa_server = servers["maa"]
        self.tpm_worker = SoftwareTpmWorker()
        self.notes = Notes()
        self.changes: dict[str, Any] = {}

    def attest(self) -> Outcome:
        job = Job(
            **{
                "now": NOW.timestamp(),
                "timeout_seconds": DEADLINE_SECONDS,
                "keys": (
                    KeyRequest(alias="k", vault=self.maa_server.origin, name="k"),
                ),
                "arena_fd": -1,
                "arena_bytes": ARENA_BYTES_PER_KEY,
                "tcti": "",
                "tcg_log": str(self.directory / "no-such-log"),
                "imds_endpoint": self.imds_server.origin,
                "amd_roots": str(self.directory / "ark.pem"),
                "authority": "https://login.microsoftonline.com",
                "attestation_endpoint": self.maa_server.origin,
                "tls_roots": str(self.directory / "ca.pem"),
                "release_roots": "",
                **self.changes,
            }
        )
        with ThreadPoolExecutor() as executor:
            tpm_worker, stopwatch = cast("TpmWorker", self.tpm_worker), Stopwatch()
            prefetch = Prefetch(job, executor, stopwatch)
            try:
                return AttestationStage(
                    job, tpm_worker, prefetch, executor, stopwatch, notes=self.notes
                ).run()
            finally:
                prefetch.close()

    def failure(self) -> str:
        with pytest.raises(AgentError) as caught:
            self.attest()
        return caught.value.code


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    endorsements = mint_world().evidence.endorsements
    ark = endorsements.root.public_bytes(Encoding.PEM)
    (tmp_path / "ark.pem").write_bytes(ark)
    key_set("maa", "rotated")  # made here, and not in two of the servers' threads
    tls, _ = make_tls(tmp_path)
    maa = FakeMaa()
    imds = serve(lambda _asked: json_answer(thim_answer(endorsements)))
    with imds as imds_server, serve(maa, tls) as maa_server:
        maa.origin = maa_server.origin
        yield World(tmp_path, maa, {"imds": imds_server, "maa": maa_server})


def test_token_comes_of_it(world: World) -> None:
    outcome = world.attest()
    assert outcome.token.issuer == world.maa.origin
    assert outcome.token.wrapping_key_id == "Ephemeral"
    summary = outcome.summary
    assert summary.compliance_status == "azure-compliant-cvm"
    assert summary.vm_id == "D3FD4B09-37A3-40D5-8F2A-EA80762213CC"
    assert (summary.chip_generation, summary.report_version) == ("Milan", 3)
    assert summary.expires_at - summary.issued_at == 28800
    assert len(summary.verified) >= 6


def test_every_attestation_has_its_own_nonce(world: World) -> None:
    world.attest()
    world.attest()
    payloads = [
        json.loads(from_b64url(json.loads(asked.body)["AttestationInfo"]))
        for asked in world.maa_server.asked
        if asked.method == "POST"
    ]
    nonces = {base64.b64decode(p["ClientPayload"]["nonce"]) for p in payloads}
    assert len(nonces) == 2


def test_existing_log_is_sent_trimmed(world: World) -> None:
    log = world.directory / "log"
    log.write_bytes(b"none")  # as the unit's SetCredential= has it
    world.changes["tcg_log"] = str(log)
    assert world.attest()


def test_a_newer_version_of_the_evidence_is_noted(world: World) -> None:
    world.tpm_worker.header_version = 3
    world.attest()
    assert world.notes.all() == (
        "evidence: the header of the HCL report has version 3, decoded as version 2",
    )


def test_evidence_of_a_known_version_needs_no_note(world: World) -> None:
    world.attest()
    assert world.notes.all() == ()


def test_rotated_signing_keys_are_fetched_once_more(world: World) -> None:
    world.maa.signer = "rotated"
    world.attest()
    assert world.maa_server.paths().count("GET /certs") == 2


def test_unknown_signing_keys_are_fetched_only_once_more(world: World) -> None:
    world.maa.signer = "rotated"
    world.maa_server.answer = lambda asked: (
        Answer(200, key_set("maa")) if asked.path == "/certs" else world.maa(asked)
    )
    assert world.failure() == "token.signature"
    assert world.maa_server.paths().count("GET /certs") == 2


def test_response_sealed_to_another_key_does_not_decrypt(world: World) -> None:
    world.maa.sealed_to = "AK"
    assert world.failure() == "token.sealed"


def test_refusal_of_the_provider_is_reported(world: World) -> None:
    world.maa.refusal = json_answer(
        {"error": {"code": "PolicyEvaluationError", "message": "A Deny claim"}}, 400
    )
    assert world.failure() == "token.refused"


def test_inconsistent_evidence_is_reported_before_the_refusal(
    world: World,
) -> None:
    world.maa.refusal = Answer(400)
    world.tpm_worker.quote = SignedAttest(world.tpm_worker.quote.message, bytes(256))
    assert world.failure() == "evidence.signature"


def test_quote_of_other_pcrs_is_refused_by_us(world: World) -> None:
    other = tuple(reversed(mint_world().evidence.pcrs))
    world.tpm_worker.quote = sign_attest(quote_message(other))
    assert world.failure() == "evidence.quote"


def test_endorsements_to_an_untrusted_root_are_refused(world: World) -> None:
    world.changes["amd_roots"] = ""  # AMD's own
    assert world.failure() == "endorsements.root"


def test_missing_endorsements_are_reported(world: World) -> None:
    world.imds_server.answer = lambda _asked: Answer(503)
    assert world.failure() == "transport.server"


def test_missing_roots_file_is_reported_by_its_setting(world: World) -> None:
    world.changes["amd_roots"] = "/nonexistent"
    with pytest.raises(ConfigError) as caught:
        world.attest()
    assert "trust.amd_roots" in str(caught.value)


def test_region_chooses_the_provider_where_none_is_set(world: World) -> None:
    world.changes["attestation_endpoint"] = "auto"
    good = world.imds_server.answer
    world.imds_server.answer = lambda asked: (
        Answer(200, b"atlantis") if "/location" in asked.path else good(asked)
    )
    assert world.failure() == "token.endpoint"
    assert world.maa_server.asked == []
