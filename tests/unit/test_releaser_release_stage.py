"""The release of one key: its failure does not affect other keys."""

from __future__ import annotations

import dataclasses
import json
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256
from support.release import (
    KID,
    VAULT,
    VERSION,
    WRAPPING_KID,
    Release,
    wrap,
    wrapping_key,
)
from support.release_pki import (
    NOW,
    ec_key,
    pkcs8,
    root_certificate,
    rsa_key,
)
from typing_extensions import override

from skragent.errors import ReleaseDeniedError, UnwrapError
from skragent.identity import Identity
from skragent.job import (
    ARENA_BYTES_PER_KEY,
    FailedKey,
    KeyRequest,
    ReleasedKey,
)
from skragent.releaser import job_io, release_stage
from skragent.releaser.release_stage import ReleaseStage
from skragent.releaser.stopwatch import Stopwatch

if TYPE_CHECKING:
    from skragent.attestation.token import AttestationToken
    from skragent.release.envelope import ReleaseRequest
    from skragent.releaser.tpm_worker import TpmWorker
    from skragent.releaser.vault_clients import Vaults
    from skragent.secretmem import Arena

SECRET = "what a library knows"
REQUEST = KeyRequest(alias="mine", vault=VAULT, name="mykey")


class SoftwareTpmWorker:
    """Decrypts with the key that stands for the vTPM's."""

    modulus_bytes = 256

    def decrypt(self, ciphertext: bytes, scheme: str) -> bytearray:
        assert scheme == "oaep-sha256"
        oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
        try:
            return bytearray(wrapping_key().decrypt(ciphertext, oaep))
        except ValueError:
            raise UnwrapError("it does not open") from None


class FakeVaults:
    def __init__(self, release: Release | None) -> None:
        self.release_to_give = release
        self.requests: list[ReleaseRequest] = []

    def release(self, request: ReleaseRequest, token: object, who: Identity) -> str:
        assert token
        assert who == Identity()
        self.requests.append(request)
        if self.release_to_give is None:
            raise ReleaseDeniedError("no", code="release.denied.policy")
        return self.release_to_give.encode()


class BrokenVaults(FakeVaults):
    """Vaults whose library raises an unexpected exception."""

    @override
    def release(self, request: ReleaseRequest, token: object, who: Identity) -> str:
        raise LookupError(SECRET)


class PlainArena:
    """Ordinary memory in the shape of an arena."""

    def __init__(self) -> None:
        self.memory = bytearray(2 * ARENA_BYTES_PER_KEY)

    def view(self, offset: int, length: int) -> memoryview:
        return memoryview(self.memory)[offset : offset + length]


def make_step(release: Release | None) -> tuple[ReleaseStage, FakeVaults, PlainArena]:
    vaults, arena = FakeVaults(release), PlainArena()
    step = ReleaseStage(
        token=cast("AttestationToken", SimpleNamespace(wrapping_key_id=WRAPPING_KID)),
        vaults=cast("Vaults", vaults),
        tpm_worker=cast("TpmWorker", SoftwareTpmWorker()),
        arena=cast("Arena", arena),
        roots=(root_certificate(),),
        now=NOW,
        stopwatch=Stopwatch(),
    )
    return step, vaults, arena


def failure_code(release: Release | None) -> str:
    step, _, arena = make_step(release)
    result = step.run(0, REQUEST)
    assert isinstance(result, FailedKey)
    assert result.alias == "mine"
    assert arena.memory == bytes(len(arena.memory))
    return result.failure.code


def test_key_is_released_into_its_place_in_the_arena() -> None:
    step, vaults, arena = make_step(Release(rsa_key("released")))
    result = step.run(1, REQUEST)
    assert isinstance(result, ReleasedKey)
    assert (result.alias, result.kid, result.version) == ("mine", KID, VERSION)
    forms = {
        form: bytes(arena.view(part.offset, part.length))
        for form, part in result.forms.items()
    }
    assert forms["der"] == pkcs8(rsa_key("released"))
    assert forms["pem"].startswith(b"-----BEGIN PRIVATE KEY-----")
    assert json.loads(forms["jwk"])["kid"] == KID
    assert min(part.offset for part in result.forms.values()) == ARENA_BYTES_PER_KEY
    (request,) = vaults.requests
    assert request.enc == "RSA_AES_KEY_WRAP_256"


def test_result_holds_nothing_of_the_private_part() -> None:
    step, _, _ = make_step(Release(ec_key("released", ec.SECP256R1)))
    result = step.run(0, REQUEST)
    assert isinstance(result, ReleasedKey)
    private = ec_key("released", ec.SECP256R1).private_numbers().private_value
    assert "d" not in json.loads(result.public_jwk)
    assert str(private) not in repr(result)


def test_forms_do_not_overlap() -> None:
    step, _, _ = make_step(Release(os.urandom(32)))
    result = step.run(0, REQUEST)
    assert isinstance(result, ReleasedKey)
    parts = sorted((p.offset, p.offset + p.length) for p in result.forms.values())
    assert parts[0][0] == 0
    assert parts[0][1] <= parts[1][0]


def test_every_release_has_its_own_nonce() -> None:
    step, vaults, _ = make_step(Release(bytes(32)))
    step.run(0, REQUEST)
    step.run(1, REQUEST)
    assert len({request.nonce for request in vaults.requests}) == 2


def test_denial_is_this_keys_own() -> None:
    assert failure_code(None) == "release.denied.policy"


def test_swapped_private_key_leaves_nothing_behind() -> None:
    release = Release(rsa_key("released"), ciphertext=wrap(pkcs8(rsa_key("other"))))
    assert failure_code(release) == "release.key_mismatch"


def test_key_wrapped_for_another_does_not_open() -> None:
    release = Release(bytes(32), ciphertext=bytes(256) + wrap(bytes(32))[256:])
    assert failure_code(release) == "unwrap"


def test_forged_release_leaves_nothing_behind() -> None:
    release = Release(bytes(32))
    release.signer = "other"
    assert failure_code(release) == "release.signature"


def test_forms_that_do_not_fit_the_arena_are_a_malformed_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release_stage, "ARENA_BYTES_PER_KEY", 100)
    assert failure_code(Release(rsa_key("released"))) == "release.malformed"


@pytest.fixture
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_io, "_reported", set())


@pytest.mark.usefixtures("_nothing_told")
def test_a_bug_is_the_failure_of_its_key_and_reported_once_without_its_message(
    capfd: pytest.CaptureFixture[str],
) -> None:
    step, _, _ = make_step(None)
    broken = dataclasses.replace(step, vaults=cast("Vaults", BrokenVaults(None)))
    results = [broken.run(number, REQUEST) for number in range(2)]
    for result in results:
        assert isinstance(result, FailedKey)
        assert (result.failure.code, result.failure.disposition) == (
            "internal",
            "retry_slowly",
        )
        assert "LookupError" in result.failure.message
    told = capfd.readouterr().err
    assert told.count("builtins.LookupError") == 1
    assert SECRET not in told + repr(results)
