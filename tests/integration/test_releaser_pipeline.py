"""Complete jobs in this process: a real TPM, real sockets, a real arena."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS
from support.evidence import build_hcl, claims, mint_world
from support.evidence_amd import thim_answer
from support.evidence_swtpm import Swtpm, run_swtpm
from support.odd_certificates import der as der_of
from support.odd_certificates import pem, with_boolean_01, with_version
from support.release import (
    VERSION,
    Release,
    encode_answer,
    key_set,
    make_token,
    seal_token,
    token_claims,
)
from support.release_pki import (
    NOW,
    b64,
    from_b64url,
    intermediate_certificate,
    pkcs8,
    root_certificate,
    rsa_key,
    uint,
    vault_certificate,
    x5c,
)
from support.release_server import (
    ACCESS_TOKEN,
    Answer,
    Asked,
    Server,
    challenge,
    json_answer,
    make_tls,
    serve,
)
from support.releaser import join_parts, read_result

from skragent.evidence.tpm import Vtpm
from skragent.evidence.tpm_public import parse_tpm2b_public
from skragent.identity import Identity
from skragent.job import Job, KeyRequest, Result, arena_bytes
from skragent.release.vault import vault_scope
from skragent.releaser import pipeline, straggler_timeout
from skragent.releaser.stopwatch import Stopwatch
from skragent.secretmem import Arena, create_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.swtpm,
    # The releaser leaves its connections to the process's end, which is not here.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

INNER_KEY = bytes(range(32))


def read_public(tpm2b_public: bytes) -> rsa.RSAPublicKey:
    numbers = parse_tpm2b_public(tpm2b_public).rsa
    return rsa.RSAPublicNumbers(numbers.exponent, numbers.modulus).public_key()


class FakeAzure:
    """IMDS, provider and vault: they believe everything and do their part of it."""

    def __init__(self) -> None:
        self.origins: dict[str, str] = {}
        self.wrapping_key: rsa.RSAPublicKey | None = None
        self.keys = {"good": rsa_key("released"), "other": rsa_key("other")}
        self.identity = json_answer(ACCESS_TOKEN)

    def imds(self, asked: Asked) -> Answer:
        if "/identity/" in asked.path:
            return self.identity
        return json_answer(thim_answer(mint_world().evidence.endorsements))

    def maa(self, asked: Asked) -> Answer:
        if asked.path == "/certs":
            return Answer(200, key_set())
        info = json.loads(from_b64url(json.loads(asked.body)["AttestationInfo"]))
        key = read_public(base64.b64decode(info["TpmInfo"]["EncKeyPub"]))
        self.wrapping_key = key
        numbers = key.public_numbers()
        jwk = {"kty": "RSA", "kid": "E", "use": "enc"}
        jwk |= {"n": uint(numbers.n), "e": uint(numbers.e)}
        runtime = {"client-payload": info["ClientPayload"], "keys": [jwk]}
        issuer = self.origins["maa"]
        said = token_claims(iss=issuer) | {"x-ms-runtime": runtime}
        sealed = seal_token(make_token(said, jku=f"{issuer}/certs"))
        inner_key = b64(key.encrypt(INNER_KEY, padding.PKCS1v15()))
        return Answer(200, encode_answer(sealed | {"EncryptedInnerKey": inner_key}))

    def vault(self, asked: Asked) -> Answer:
        url = self.origins["vault"]
        if "Authorization" not in asked.headers:
            return challenge(vault_scope(url).removesuffix("/.default"))
        name = asked.path.split("/")[2]
        if name not in self.keys:
            missing = {"code": "KeyNotFound", "message": "A key with (name/id)"}
            return json_answer({"error": missing}, 404)
        release = Release(self.keys[name], ciphertext=self._wrap(self.keys[name]))
        leaf = vault_certificate("127.0.0.1")
        release.header["x5c"] = x5c(leaf, intermediate_certificate())
        release.request["kid"] = f"{url}/keys/{name}"
        release.jwk["kid"] = f"{url}/keys/{name}/{VERSION}"
        release.key_hsm["header"]["kid"] = "E"
        return json_answer({"value": release.encode()})

    def _wrap(self, key: rsa.RSAPrivateKey) -> bytes:
        assert self.wrapping_key is not None
        transfer_key = os.urandom(32)
        oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
        head = self.wrapping_key.encrypt(transfer_key, oaep)
        return head + keywrap.aes_key_wrap_with_padding(transfer_key, pkcs8(key))


class World:
    def __init__(
        self, directory: Path, azure: FakeAzure, servers: dict[str, Server]
    ) -> None:
        self.azure = azure
        self.servers = servers
        self.directory = directory
        self.changes: dict[str, Any] = {}
        self.arena: Arena = create_arena(arena_bytes(4))

    def run(
        self, *names: str, emit: Callable[[Result], None] = lambda _part: None
    ) -> Result:
        """Do a job in this process; `emit` takes each part of the result at once."""
        job = self.make_job(*names, arena_fd=os.dup(self.arena.fd))
        parts: list[Result] = []

        def take(part: Result) -> None:
            parts.append(part)
            emit(part)

        parts.append(pipeline.run_release(job, Stopwatch(), take))
        return join_parts(parts)

    def make_job(self, *names: str, arena_fd: int) -> Job:
        vault = self.azure.origins["vault"]
        return Job(
            **{
                "now": NOW.timestamp(),
                "timeout_seconds": DEADLINE_SECONDS,
                "keys": tuple(
                    KeyRequest(alias=f"my-{name}", vault=vault, name=name)
                    for name in names
                ),
                "arena_fd": arena_fd,
                "arena_bytes": self.arena.size,
                "tcti": f"swtpm:path={self.directory}/tpm.sock",
                "tcg_log": "",
                "imds_endpoint": self.azure.origins["imds"],
                "amd_roots": str(self.directory / "ark.pem"),
                "authority": "https://login.microsoftonline.com",
                "attestation_endpoint": self.azure.origins["maa"],
                "tls_roots": str(self.directory / "ca.pem"),
                "release_roots": str(self.directory / "release.pem"),
                **self.changes,
            }
        )


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Swtpm]:
    """A TPM as Azure's: an AK, and an HCL report that names it."""
    with run_swtpm(tmp_path) as tpm:
        tpm.create_ak()
        with Vtpm(tpm.tcti) as vtpm:
            numbers = parse_tpm2b_public(vtpm.read_ak_public()).rsa
        ak = {"kty": "RSA", "kid": "HCLAkPub", "key_ops": ["sign"]}
        ak |= {"n": uint(numbers.modulus), "e": uint(numbers.exponent)}
        said = claims(keys=[ak])
        report = build_hcl(json.dumps(said).encode(), padding_bytes=0)
        tpm.define(0x01400001, report)
        tpm.define(0x01C101D0, b"\x30\x00")
        yield tpm


@pytest.fixture
def world(
    tmp_path: Path, tpm: Swtpm, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    assert tpm.tcti
    key_set()  # made here, and not in two of the servers' threads
    vault_certificate("127.0.0.1")
    endorsements = mint_world().evidence.endorsements
    for file, cert in (("ark", endorsements.root), ("release", root_certificate())):
        (tmp_path / f"{file}.pem").write_bytes(cert.public_bytes(Encoding.PEM))
    tls, _ = make_tls(tmp_path)
    azure = FakeAzure()
    with (
        serve(azure.imds) as imds,
        serve(azure.maa, tls) as maa,
        serve(azure.vault, tls) as vault,
    ):
        servers = {"imds": imds, "maa": maa, "vault": vault}
        azure.origins = {name: s.origin for name, s in servers.items()}
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", imds.origin)
        yield World(tmp_path, azure, servers)


def test_job_releases_its_keys(world: World) -> None:
    result = world.run("good", "none", "other")
    assert result.failure is None
    assert {key.alias for key in result.released} == {"my-good", "my-other"}
    for key in result.released:
        part = key.forms["der"]
        der = bytes(world.arena.view(part.offset, part.length))
        assert der == pkcs8(world.azure.keys[key.alias.removeprefix("my-")])
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("my-none", "release.not_found")
    assert result.attestation is not None
    assert result.attestation.issuer == world.azure.origins["maa"]


def test_key_is_in_the_arena_when_the_process_has_ended(world: World) -> None:
    job = world.make_job("good", arena_fd=world.arena.fd)
    done = subprocess.run(
        (sys.executable, "-I", "-m", "skragent.releaser"),
        input=msgspec.json.encode(job),
        capture_output=True,
        pass_fds=(world.arena.fd,),
        env={"IDENTITY_ENDPOINT": "http://stray", "REQUESTS_CA_BUNDLE": "/stray"},
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    result = read_result(done.stdout)
    part = result.released[0].forms["der"]
    der = bytes(world.arena.view(part.offset, part.length))
    assert der == pkcs8(rsa_key("released"))
    said = done.stdout + done.stderr
    for private in (der, der[100:200], b64(der).encode(), der[100:200].hex().encode()):
        assert private not in said
    assert b"PRIVATE KEY" not in said
    assert done.stderr == b""


def test_roots_that_cannot_be_read_are_skipped_and_noted(world: World) -> None:
    odd = pem(with_boolean_01(root_certificate()))
    for name in ("ark", "release", "ca"):
        path = world.directory / f"{name}.pem"
        broken = pem(b"\x30\x03abc") if name == "ca" else b""
        path.write_bytes(odd + path.read_bytes() + broken)
    result = world.run("good")
    assert [key.alias for key in result.released] == ["my-good"]
    starts = [note.partition(" (")[0] for note in result.notes]
    assert sorted(starts) == [
        f"trust.amd_roots: {world.directory}/ark.pem: certificate 1 of 2",
        f"trust.release_roots: {world.directory}/release.pem: certificate 1 of 2",
        f"trust.tls_roots: {world.directory}/ca.pem: certificate 3 of 3",
    ]
    assert all("SHA-256 " in note for note in result.notes)


def test_a_job_that_fails_for_a_skipped_root_has_the_note(world: World) -> None:
    ark = mint_world().evidence.endorsements.root
    other = der_of(root_certificate())
    path = world.directory / "ark.pem"
    path.write_bytes(pem(with_version(ark, 0x22)) + pem(other))
    result = world.run("good")
    assert result.failure is not None
    assert result.failure.code == "endorsements.root"
    assert result.notes[0].startswith(f"trust.amd_roots: {path}: certificate 1 of 2")


def test_a_tcg_log_that_is_a_fifo_is_left_out_and_noted(world: World) -> None:
    fifo = world.directory / "fifo"
    os.mkfifo(fifo)
    world.changes["tcg_log"] = str(fifo)
    result = world.run("good")
    assert [key.alias for key in result.released] == ["my-good"]
    assert result.notes == (
        f"vtpm.tcg_log: {fifo}: this is a FIFO, not a regular file: no TCG log is sent",
    )


@pytest.mark.parametrize("setting", ["amd_roots", "tls_roots", "release_roots"])
def test_roots_that_are_a_fifo_fail_the_job_without_waiting(
    world: World, setting: str
) -> None:
    os.mkfifo(world.directory / "fifo")
    world.changes[setting] = str(world.directory / "fifo")
    result = world.run("good")
    failure = result.failure or result.failed[0].failure
    assert failure.code == "config.invalid"
    assert "this is a FIFO, not a regular file" in failure.message


def test_many_keys_cost_one_attestation_and_one_access_token(world: World) -> None:
    world.run("good", "other", "good", "other")
    assert world.servers["maa"].paths().count("GET /certs") == 1
    assert len(world.servers["maa"].asked) == 2
    identity = [p for p in world.servers["imds"].paths() if "/identity/" in p]
    assert len(identity) == 1
    assert len(world.servers["vault"].asked) == 5  # the challenge, and each key once


def test_a_second_job_releases_with_the_token_of_the_first(world: World) -> None:
    first = world.run("none")
    assert first.token
    maa, imds = len(world.servers["maa"].asked), world.servers["imds"].paths()
    world.changes["token"] = first.token
    second = world.run("good")  # as many keys: `unique` is where it was
    assert [key.alias for key in second.released] == ["my-good"]
    assert second.attestation is None
    assert second.token == ""
    part = second.released[0].forms["der"]
    der = bytes(world.arena.view(part.offset, part.length))
    assert der == pkcs8(world.azure.keys["good"])
    assert len(world.servers["maa"].asked) == maa
    more = world.servers["imds"].paths()[len(imds) :]
    assert all("/identity/" in path for path in more)


def test_a_token_is_of_no_use_once_a_pcr_has_changed(world: World, tpm: Swtpm) -> None:
    world.changes["token"] = world.run("none").token
    tpm.extend(7)
    failure = world.run("good").failure
    assert failure is not None
    assert (failure.code, failure.disposition) == ("token.wrapping_key", "reattest")


def test_a_token_without_its_unique_field_is_of_no_use(world: World) -> None:
    world.changes["token"] = world.run("none").token
    world.arena.wipe()
    failure = world.run("good").failure
    assert failure is not None
    assert failure.code == "token.wrapping_key"


def test_each_job_that_attests_has_a_wrapping_key_of_its_own(world: World) -> None:
    first = world.run("good").token
    world.run("good")  # its `unique` is in the arena now
    world.changes["token"] = first
    assert world.run("good").failure is not None


def test_each_key_is_asked_for_by_its_own_identity(world: World) -> None:
    vault = world.azure.origins["vault"]
    theirs = Identity(client_id="11111111-2222-3333-4444-555555555555")
    world.changes["keys"] = (
        KeyRequest(alias="ours", vault=vault, name="good"),
        KeyRequest(alias="theirs", vault=vault, name="other", identity=theirs),
    )
    result = world.run()
    assert {key.alias for key in result.released} == {"ours", "theirs"}
    asked = [p for p in world.servers["imds"].paths() if "/identity/" in p]
    assert sorted("client_id=11111111-2222-" in path for path in asked) == [False, True]


def test_requests_of_one_key_are_as_few_as_can_be(world: World) -> None:
    world.run("good")
    assert {name: len(s.asked) for name, s in world.servers.items()} == {
        "imds": 2,  # THIM, identity
        "maa": 2,  # signing keys, attest
        "vault": 2,  # challenge, release
    }
    assert world.servers["vault"].connections == 1


def test_identity_that_is_not_there_fails_every_key_and_no_attestation(
    world: World,
) -> None:
    world.azure.identity = json_answer(
        {"error": "invalid_request", "error_description": "Identity not found"}, 400
    )
    result = world.run("good", "other")
    assert result.failure is None
    assert result.attestation is not None
    codes = [key.failure.code for key in result.failed]
    assert codes == ["identity.not_found", "identity.not_found"]


def test_imds_that_is_being_updated_is_waited_for(world: World) -> None:
    world.azure.identity = Answer(410)
    (failed,) = world.run("good").failed
    assert failed.failure.code == "identity.unavailable"
    assert failed.failure.retry_after == 70


def test_an_access_token_is_for_one_job(world: World) -> None:
    for jobs in (1, 2):
        assert world.run("good").released
        asked = [p for p in world.servers["imds"].paths() if "/identity/" in p]
        assert len(asked) == jobs


def test_a_429_that_azures_library_remembers_ends_with_its_job(world: World) -> None:
    world.azure.identity = Answer(429, headers={"Retry-After": "3600"})
    (failed,) = world.run("good").failed
    assert failed.failure.code == "identity.unavailable"
    assert failed.failure.retry_after == 3600
    world.azure.identity = json_answer(ACCESS_TOKEN)
    assert world.run("good").released


def test_released_keys_do_not_wait_for_a_vault_that_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(straggler_timeout, "STRAGGLER_TIMEOUT_SECONDS", SHORT_SECONDS)
    vault = world.azure.origins["vault"]
    with socket.create_server(("127.0.0.1", 0)) as mute:  # it never says anything
        other = f"https://127.0.0.1:{mute.getsockname()[1]}"
        world.changes |= {
            "keys": (
                KeyRequest(alias="hung", vault=other, name="good"),
                KeyRequest(alias="home", vault=vault, name="good"),
            ),
        }
        result = world.run()
    assert [key.alias for key in result.released] == ["home"]
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("hung", "transport.timeout")
    assert failed.failure.disposition == "retry"
    assert "requested again by itself" in failed.failure.message  # and not timed out


@pytest.mark.parametrize(("vaults", "keys_of_each"), [(4, 10), (80, 1)])
def test_no_number_of_vaults_that_hang_holds_a_key_back(
    world: World, vaults: int, keys_of_each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(straggler_timeout, "STRAGGLER_TIMEOUT_SECONDS", 0.0)
    with contextlib.ExitStack() as stack:
        mutes = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(vaults)
        ]
        hung = [
            KeyRequest(
                alias=f"hung-{number}-{name}",
                vault=f"https://127.0.0.1:{mute.getsockname()[1]}",
                name=f"k{name}",
            )
            for number, mute in enumerate(mutes)
            for name in range(keys_of_each)
        ]
        vault = world.azure.origins["vault"]
        home = KeyRequest(alias="home", vault=vault, name="good")
        world.changes["keys"] = (*hung, home)
        world.arena = create_arena(arena_bytes(len(hung) + 1))
        result = world.run()
    assert [key.alias for key in result.released] == ["home"]
    assert {key.failure.code for key in result.failed} == {"transport.timeout"}


def test_a_vault_that_released_one_key_is_waited_for_with_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(straggler_timeout, "STRAGGLER_TIMEOUT_SECONDS", 0.0)
    result = world.run("good", "other", "good", "other")
    assert len(result.released) == 4


def test_entra_id_that_hangs_delays_only_keys_of_applications(world: World) -> None:
    vault, secret = world.azure.origins["vault"], world.directory / "secret"
    secret.write_text("s")
    uuid = "11111111-2222-3333-4444-555555555555"
    theirs = Identity(tenant_id=uuid, client_id=uuid, secret_file=str(secret))
    attest, attested = world.servers["maa"].answer, threading.Event()

    def attest_and_tell(asked: Asked) -> Answer:
        attested.set()
        return attest(asked)

    def end_later(mute: socket.socket) -> None:
        assert attested.wait(DEADLINE_SECONDS)
        mute.shutdown(socket.SHUT_RDWR)  # connected clients get a reset

    world.servers["maa"].answer = attest_and_tell
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        ThreadPoolExecutor() as executor,
    ):
        executor.submit(end_later, mute)
        world.changes |= {
            "authority": f"https://127.0.0.1:{mute.getsockname()[1]}",
            "keys": (
                KeyRequest(alias="ours", vault=vault, name="good"),
                KeyRequest(alias="theirs", vault=vault, name="other", identity=theirs),
            ),
        }
        result = world.run()
    assert [key.alias for key in result.released] == ["ours"]
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("theirs", "identity.unavailable")


def test_a_key_is_delivered_while_its_vault_stalls_on_another(world: World) -> None:
    answer = world.servers["vault"].answer
    is_delivered = threading.Event()

    def stall(asked: Asked) -> Answer:
        if "/keys/other/" in asked.path and asked.body:
            assert is_delivered.wait(DEADLINE_SECONDS)
        return answer(asked)

    def hear(part: Result) -> None:
        if part.released:
            is_delivered.set()

    world.servers["vault"].answer = stall
    world.changes["timeout_seconds"] = 60.0
    result = world.run("good", "other", emit=hear)
    assert [key.alias for key in result.released] == ["my-good", "my-other"]


def test_a_failure_starts_no_straggler_timeout(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(straggler_timeout, "STRAGGLER_TIMEOUT_SECONDS", 0.0)
    vault, answer = world.azure.origins["vault"], world.servers["vault"].answer
    refused = threading.Event()

    def slow(asked: Asked) -> Answer:
        if "/keys/good/" in asked.path and asked.body:
            assert refused.wait(DEADLINE_SECONDS)
        answered = answer(asked)
        if "/keys/none/" in asked.path and asked.body:
            refused.set()
        return answered

    world.servers["vault"].answer = slow
    theirs = Identity(client_id="11111111-2222-3333-4444-555555555555")
    world.changes["keys"] = (
        KeyRequest(alias="none", vault=vault, name="none", identity=theirs),
        KeyRequest(alias="good", vault=vault, name="good"),
    )
    assert [key.alias for key in world.run().released] == ["good"]


def test_provider_that_refuses_ends_the_job(world: World) -> None:
    refusal = {"error": {"code": "PolicyEvaluationError", "message": "A Deny claim"}}
    world.servers["maa"].answer = lambda _asked: json_answer(refusal, 400)
    result = world.run("good")
    assert result.failure is not None
    assert result.failure.code == "token.refused"
    assert result.attestation is None
    releases = [a for a in world.servers["vault"].asked if a.body]
    assert releases == []


def test_release_roots_that_cannot_be_read_end_the_job(world: World) -> None:
    world.changes["release_roots"] = "/nonexistent"
    result = world.run("good")
    assert result.failure is not None
    assert result.failure.code == "config.invalid"


def test_job_leaves_nothing_loaded_in_the_tpm(world: World, tpm: Swtpm) -> None:
    for _ in range(4):  # libtpms holds three transient objects
        assert world.run("good").failure is None
    with tpm.esys() as esys:
        more, handles = esys.get_capability(1, 0x80000000, 8)  # TPM_CAP_HANDLES
    assert not more
    assert len(handles.data.handles) == 0
