"""The client of a vault: every failure of library or vault is an AgentError."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS
from support.release import (
    ISSUER,
    NONCE,
    WRAPPING_KID,
    key_set,
    make_token,
    wrapping_key,
)
from support.release_pki import NOW
from support.release_server import (
    ACCESS_TOKEN,
    Answer,
    Asked,
    Server,
    access_tokens,
    challenge,
    json_answer,
    make_tls,
    serve,
)

from skragent.attestation.token import (
    AttestationToken,
    parse_signing_keys,
    verify_token,
)
from skragent.errors import AgentError, Disposition
from skragent.evidence.tpm_public import RsaPublic
from skragent.identity import Identity
from skragent.release.envelope import ReleaseRequest
from skragent.release.vault import VaultClient, vault_scope
from skragent.transport import HttpClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def refusal(status: int, inner: str, message: str, code: str = "Forbidden") -> Answer:
    error: dict[str, Any] = {"code": code, "message": message}
    if inner:
        error["innererror"] = {"code": inner}
    return json_answer({"error": error}, status, **{"x-ms-request-id": "the-request"})


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve(lambda _asked: json_answer(ACCESS_TOKEN)) as server:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", server.origin)
        yield server


class FakeVault:
    """Demands an access token as every vault does; then says what it is told to."""

    def __init__(self) -> None:
        self.origin = ""
        self.answer = json_answer({"value": "the release"})
        self.challenge_resource = ""

    def __call__(self, asked: Asked) -> Answer:
        if "Authorization" in asked.headers:
            return self.answer
        # The library checks that the vault's host lies within the resource.
        resource = self.challenge_resource or vault_scope(self.origin).removesuffix(
            "/.default"
        )
        return challenge(resource)


@pytest.fixture
def fake() -> FakeVault:
    return FakeVault()


@pytest.fixture
def server(fake: FakeVault, tmp_path: Path) -> Iterator[Server]:
    tls, _ = make_tls(tmp_path)
    with serve(fake, tls) as server:
        fake.origin = server.origin
        yield server


@pytest.fixture
def vault(server: Server, imds: Server, tmp_path: Path) -> Iterator[VaultClient]:
    assert imds.origin
    with make_client(server.origin, tmp_path) as client:
        yield client


@contextlib.contextmanager
def make_client(
    origin: str, directory: Path, timeout_seconds: float = DEADLINE_SECONDS
) -> Iterator[VaultClient]:
    with (
        HttpClient(
            timeout_seconds=timeout_seconds,
            ca_file=str(directory / "ca.pem"),
            use_proxies=True,
        ) as http,
        access_tokens(Identity(), DEADLINE_SECONDS) as tokens,
    ):
        yield VaultClient(
            origin,
            tokens,
            session=http.new_session(),
        )


@pytest.fixture(scope="module")
def token() -> AttestationToken:
    numbers = wrapping_key().public_key().public_numbers()
    return verify_token(
        make_token(),
        signing_keys=parse_signing_keys(key_set()),
        issuer=ISSUER,
        now=NOW,
        nonce=NONCE,
        wrapping_key=RsaPublic(numbers.n, numbers.e),
    )


def request(vault: VaultClient, version: str = "") -> ReleaseRequest:
    return ReleaseRequest(
        vault=vault.url,
        name="mykey",
        version=version,
        enc="RSA_AES_KEY_WRAP_256",
        nonce="n",
        wrapping_key_id=WRAPPING_KID,
    )


def failure(vault: VaultClient, token: AttestationToken) -> AgentError:
    with pytest.raises(AgentError) as caught:
        vault.release(request(vault), token)
    return caught.value


def test_release_request_has_the_form_of_the_service(
    vault: VaultClient, server: Server, token: AttestationToken
) -> None:
    assert vault.release(request(vault), token) == "the release"
    first, release = server.asked
    assert first.body == b""  # nothing is said before we are authorised
    assert json.loads(release.body) == {
        "target": token.raw,
        "nonce": "n",
        "enc": "RSA_AES_KEY_WRAP_256",
    }
    assert release.path.startswith("/keys/mykey//release?api-version=")
    assert release.headers["Authorization"] == "Bearer the-access-token"


def test_version_asked_for_is_in_the_path(
    vault: VaultClient, server: Server, token: AttestationToken
) -> None:
    version = "0" * 32
    vault.release(request(vault, version), token)
    assert server.asked[-1].path.startswith(f"/keys/mykey/{version}/release?")


def test_warm_vault_is_asked_once_more_and_no_more(
    vault: VaultClient, server: Server, imds: Server, token: AttestationToken
) -> None:
    vault.warm("mykey")
    assert len(server.asked) == 1
    assert "Authorization" not in server.asked[0].headers
    assert len(imds.asked) == 1
    vault.release(request(vault), token)
    assert len(server.asked) == 2
    assert len(imds.asked) == 1
    assert server.connections == 1


def test_second_release_needs_no_challenge(
    vault: VaultClient, server: Server, token: AttestationToken
) -> None:
    vault.release(request(vault), token)
    vault.release(request(vault), token)
    assert len(server.asked) == 3
    assert server.connections == 1


def test_warm_up_ignores_a_response_other_than_a_challenge(
    vault: VaultClient, server: Server
) -> None:
    server.answer = lambda _asked: refusal(403, "ForbiddenByFirewall", "Client address")
    vault.warm("mykey")
    assert len(server.asked) == 1


def test_warming_a_vault_that_cannot_be_reached_is_a_failure(
    vault: VaultClient, server: Server
) -> None:
    server.answer = lambda _asked: Answer(then="reset")
    with pytest.raises(AgentError) as caught:
        vault.warm("mykey")
    assert caught.value.code == "transport.reset"


CANNOT_BE_VERIFIED = "Target environment attestation statement cannot be verified."
NOT_MET = "Target environment attestation does not meet key release policy requirements"
NO_PERMISSION = (
    "The user, group or application 'appid=a;oid=o;iss=i' does not have keys release"
    " permission on key vault 'v;location=l'."
)
NO_ROLE = "Caller is not authorized to perform action on resource.\r\nCaller: appid=a"
FIREWALL = "Client address (x) is not authorized and caller is not a trusted service"
DISABLED = "Operation release is not allowed on a disabled key."
NO_LINK = (
    "Public network access is disabled and request is not from a trusted service nor"
    " via an approved private link.\r\nCaller: appid=a"
)
NO_APPROVED_LINK = "Connection is not an approved private link and caller was ignored"
NO_LOCAL_ROLE = (
    "Not authorized to access Microsoft.KeyVault/managedHsm/keys/release/action on"
    " '/keys/mykey' (Activity ID: 7c86b9f6-0000-4000-8000-000000000000)"
)
EXPIRED = "Operation release is not allowed on an expired key."
NOT_YET = "Operation release is not allowed on a key that is not yet valid."
CONFLICT = "There was a conflict while recovering the soft-deleted key 'https://v'."
STANDARD = "Hardware key operation not allowed on standard vault"
TOO_MANY = "Request was not processed because too many requests were received."


@pytest.mark.parametrize(
    ("answer", "code", "disposition"),
    [
        (refusal(403, "AccessDenied", CANNOT_BE_VERIFIED), "unverified", "reattest"),
        (refusal(403, "", CANNOT_BE_VERIFIED), "unverified", "reattest"),
        (refusal(403, "", NOT_MET), "denied.policy", "denied"),
        (refusal(403, "AccessDenied", NOT_MET), "denied.policy", "denied"),
        (refusal(403, "AccessDenied", NO_PERMISSION), "denied.permission", "denied"),
        (refusal(403, "ForbiddenByRbac", NO_ROLE), "denied.permission", "denied"),
        (refusal(403, "ForbiddenByFirewall", FIREWALL), "denied.firewall", "denied"),
        (refusal(403, "ForbiddenByRbac", ""), "denied.permission", "denied"),
        (refusal(403, "", NO_ROLE), "denied.permission", "denied"),
        (refusal(403, "", NO_PERMISSION), "denied.permission", "denied"),
        (refusal(403, "ForbiddenByPolicy", "x"), "denied.permission", "denied"),
        (
            refusal(403, "", NO_LOCAL_ROLE, "AccessDenied"),
            "denied.permission",
            "denied",
        ),
        (refusal(403, "", "x", "AccessDenied"), "denied.permission", "denied"),
        (refusal(403, "ForbiddenByConnection", NO_LINK), "denied.connection", "denied"),
        (refusal(403, "ForbiddenByConnection", "x"), "denied.connection", "denied"),
        (refusal(403, "", NO_LINK), "denied.connection", "denied"),
        (refusal(403, "", NO_APPROVED_LINK), "denied.connection", "denied"),
        (refusal(403, "KeyExpired", EXPIRED), "expired", "retry_slowly"),
        (refusal(403, "", EXPIRED), "expired", "retry_slowly"),
        (refusal(403, "KeyNotYetValid", NOT_YET), "not_yet_valid", "retry_slowly"),
        (refusal(403, "", NOT_YET), "not_yet_valid", "retry_slowly"),
        (refusal(403, "", FIREWALL), "denied.firewall", "denied"),
        (refusal(403, "", DISABLED), "denied.disabled", "denied"),
        (refusal(403, "KeyDisabled", DISABLED), "denied.disabled", "denied"),
        (refusal(403, "", STANDARD), "denied", "denied"),
        (refusal(404, "", "A key with", "KeyNotFound"), "not_found", "denied"),
        (refusal(400, "", "AKV.SKR.1001: The", "BadParameter"), "denied", "denied"),
        (refusal(409, "", CONFLICT, "Conflict"), "conflict", "retry"),
        (refusal(409, "ObjectIsBeingRecovered", "x"), "conflict", "retry"),
        (refusal(409, "ObjectIsBeingDeleted", "x"), "conflict", "retry"),
        (refusal(409, "ObjectIsDeletedButRecoverable", "x"), "not_found", "denied"),
    ],
)
def test_every_refusal_of_a_vault_has_its_code(
    vault: VaultClient,
    fake: FakeVault,
    token: AttestationToken,
    *,
    answer: Answer,
    code: str,
    disposition: str,
) -> None:
    fake.answer = answer
    error = failure(vault, token)
    assert error.code == f"release.{code}"
    assert error.disposition is Disposition(disposition)
    assert error.hint


# What middleboxes answer with, JSON of other formats among it.
PAGES = (b"", b"<html>blocked</html>", b"[" * 1000, b"\xff")
OTHERS_JSON: tuple[object, ...] = (
    *({}, [], "no", 7, {"error": "blocked"}, {"error": {}}, {"error": None}),
    *({"error": {"code": "Forbidden"}}, {"error": {"message": "x"}}),
    *({"code": "Forbidden", "message": "x"}, {"error": [{"code": "x"}]}),
    *({"error": {"code": 403, "message": "x"}}, {"error": {"code": "", "message": ""}}),
    {"error": {"code": "x", "message": "y", "innererror": "z"}},
)
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(s, p) for s in (400, 403, 404, 409) for p in PAGES),
        *(Answer(s, p, JSON) for s in (400, 403, 404, 409) for p in PAGES),
        *(json_answer(body, s) for s in (400, 403, 404) for body in OTHERS_JSON),
        *(
            refusal(s, "AccessDenied", NO_PERMISSION)
            for s in (402, 405, 406, 410, 411, 412, 413, 415, 418, 421, 425, 451)
        ),
        Answer(
            403, refusal(403, "AccessDenied", NOT_MET).body, {"Content-Type": "x/y"}
        ),
    ],
    ids=repr,
)
def test_an_answer_that_is_not_in_the_vaults_own_format_is_a_transport_fault(
    vault: VaultClient, fake: FakeVault, token: AttestationToken, answer: Answer
) -> None:
    fake.answer = answer
    error = failure(vault, token)
    assert error.code == "transport.unexpected"
    assert error.disposition is Disposition.RETRY
    assert "proxy" in error.hint


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusal(429, "", TOO_MANY, "Throttled"), "transport.throttled"),
        (Answer(408), "transport.timeout"),
        (Answer(500), "transport.server"),
        (Answer(502, b"<html>", {"Content-Type": "text/html"}), "transport.server"),
        (Answer(503, b"{", {"Content-Type": "application/json"}), "transport.server"),
        (Answer(302, headers={"Location": "/elsewhere"}), "transport.unexpected"),
        (Answer(401), "identity.refused"),
        (refusal(401, "", "[TokenExpired] Error", "Unauthorized"), "identity.refused"),
        (Answer(then="reset"), "transport.reset"),
        (Answer(200, b"{", then="cut"), "transport.reset"),
        (Answer(200, bytes(1024 * 1024 + 1)), "transport.oversized"),
        (Answer(200, b"no json"), "release.malformed"),
        (Answer(200, b"no", {"Content-Type": "application/json"}), "release.malformed"),
        (Answer(200, b"\xff", {"Content-Type": "text/plain"}), "release.malformed"),
        (Answer(200, b"z", {"Content-Encoding": "gzip"}), "transport.unexpected"),
        (json_answer({}), "release.malformed"),
        (json_answer([]), "release.malformed"),
        (json_answer([1, 2]), "release.malformed"),
        (json_answer("text"), "release.malformed"),
        (json_answer(None), "release.malformed"),
    ],
)
def test_every_library_error_is_ours(
    vault: VaultClient,
    server: Server,
    fake: FakeVault,
    token: AttestationToken,
    *,
    answer: Answer,
    code: str,
) -> None:
    fake.answer = answer
    assert failure(vault, token).code == code
    authorised = [asked for asked in server.asked if "Authorization" in asked.headers]
    assert len(authorised) == 1  # tried once


@pytest.mark.usefixtures("imds")
def test_a_vault_that_hangs_is_a_timeout_and_is_asked_once(
    server: Server, fake: FakeVault, token: AttestationToken, tmp_path: Path
) -> None:
    fake.answer = Answer(then="hang")
    with make_client(server.origin, tmp_path, SHORT_SECONDS) as vault:
        assert failure(vault, token).code == "transport.timeout"
    authorised = [asked for asked in server.asked if "Authorization" in asked.headers]
    assert len(authorised) <= 1  # on a busy machine the time ends before that


def test_answer_without_length_is_bounded_too(
    vault: VaultClient, fake: FakeVault, token: AttestationToken
) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    chunked = {"Transfer-Encoding": "chunked"}
    fake.answer = Answer(200, chunk * 17 + b"0\r\n\r\n", chunked)
    assert failure(vault, token).code == "transport.oversized"


def test_refusal_names_the_key_and_the_request(
    vault: VaultClient, fake: FakeVault, token: AttestationToken
) -> None:
    fake.answer = refusal(403, "ForbiddenByRbac", NO_ROLE)
    message = failure(vault, token).message
    assert f"{vault.url}/keys/mykey" in message
    assert "x-ms-request-id the-request" in message
    assert "not authorized to perform action on resource. Caller" in message


@pytest.mark.parametrize("status", [409, 429, 503])
def test_retry_after_is_returned_and_not_slept(
    vault: VaultClient, fake: FakeVault, token: AttestationToken, status: int
) -> None:
    fake.answer = Answer(status, headers={"Retry-After": "3600"})
    assert failure(vault, token).retry_after == 3600


def test_retry_after_does_not_put_off_the_confirmation_of_a_denial(
    vault: VaultClient, fake: FakeVault, token: AttestationToken
) -> None:
    fake.answer = refusal(403, "KeyDisabled", DISABLED)
    fake.answer.headers["Retry-After"] = "3600"
    assert failure(vault, token).retry_after is None


def test_error_holds_neither_token(
    vault: VaultClient, fake: FakeVault, token: AttestationToken
) -> None:
    fake.answer = Answer(500)
    error = failure(vault, token)
    said = f"{error.message} {error.hint}"
    assert token.raw not in said
    assert "the-access-token" not in said


def test_our_token_is_not_for_another_service(
    vault: VaultClient, fake: FakeVault, imds: Server, token: AttestationToken
) -> None:
    fake.challenge_resource = "https://storage.azure.com"
    assert failure(vault, token).code == "identity.challenge"
    assert imds.asked == []


def test_vault_without_a_listener_is_refused(
    imds: Server, server: Server, tmp_path: Path, token: AttestationToken
) -> None:
    assert imds.origin
    assert server.origin
    with make_client("https://127.0.0.1:1", tmp_path) as vault:
        assert failure(vault, token).code == "transport.refused"


def test_certificate_of_an_untrusted_issuer_is_refused(
    imds: Server, server: Server, tmp_path: Path, token: AttestationToken
) -> None:
    assert imds.origin
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    make_tls(stranger)
    with make_client(server.origin, stranger) as vault:
        assert failure(vault, token).code == "transport.tls"
    assert server.asked == []


@pytest.mark.parametrize(
    ("vault_url", "scope"),
    [
        ("https://v.vault.azure.net", "https://vault.azure.net/.default"),
        ("https://h.managedhsm.azure.net/", "https://managedhsm.azure.net/.default"),
        ("https://v.vault.localhost:8443", "https://vault.localhost:8443/.default"),
    ],
)
def test_scope_is_guessed_from_the_host(vault_url: str, scope: str) -> None:
    assert vault_scope(vault_url) == scope


def public_key(kid: str) -> Answer:
    """What GET /keys/NAME answers (KeyBundle of Azure's REST specification)."""
    return json_answer(
        {
            "key": {"kid": kid, "kty": "RSA-HSM", "n": "AQAB", "e": "AQAB"},
            "attributes": {"enabled": True, "exportable": True},
        }
    )


def test_latest_version_comes_from_the_vaults_key_id(
    vault: VaultClient, fake: FakeVault, server: Server
) -> None:
    fake.answer = public_key(f"{server.origin}/keys/mykey/{'a' * 32}")
    assert vault.latest_version("mykey") == "a" * 32
    assert server.paths()[-1].startswith("GET /keys/mykey/?api-version=")


@pytest.mark.parametrize(
    "answer",
    [
        refusal(403, "AccessDenied", NO_PERMISSION),
        refusal(403, "ForbiddenByPolicy", NO_PERMISSION),
        refusal(403, "ForbiddenByRbac", NO_ROLE),
        refusal(403, "", NO_ROLE),
        refusal(403, "", NO_LOCAL_ROLE, "AccessDenied"),
    ],
)
def test_an_identity_without_permission_gets_no_version(
    vault: VaultClient, fake: FakeVault, answer: Answer
) -> None:
    fake.answer = answer
    assert vault.latest_version("mykey") == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            refusal(403, "", NO_LOCAL_ROLE, "AccessDenied"),
            "`Managed HSM Crypto Service Release User`",
        ),
        (
            refusal(403, "ForbiddenByRbac", NO_ROLE),
            "`Key Vault Crypto Service Release User`",
        ),
        (refusal(403, "ForbiddenByPolicy", NO_PERMISSION), "access policy"),
        (refusal(403, "AccessDenied", NO_PERMISSION), "access policy"),
        (refusal(403, "ForbiddenByConnection", NO_LINK), "private endpoint"),
        (refusal(403, "KeyExpired", EXPIRED), "`exp`"),
        (refusal(403, "KeyNotYetValid", NOT_YET), "`nbf`"),
    ],
)
def test_the_remedy_is_of_the_kind_of_vault_that_refused(
    vault: VaultClient,
    fake: FakeVault,
    token: AttestationToken,
    *,
    answer: Answer,
    words: str,
) -> None:
    fake.answer = answer
    assert words in failure(vault, token).hint


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusal(403, "ForbiddenByFirewall", FIREWALL), "release.denied.firewall"),
        (refusal(404, "", "A key with", "KeyNotFound"), "release.not_found"),
        (refusal(429, "", TOO_MANY, "Throttled"), "transport.throttled"),
        (Answer(then="reset"), "transport.reset"),
        (Answer(200, b"no json"), "release.malformed"),
        (json_answer({}), "release.malformed"),
        (json_answer({"key": {"kid": "https://v/keys/mykey"}}), "release.malformed"),
    ],
)
def test_a_version_that_the_vault_does_not_return_is_a_failure(
    vault: VaultClient, fake: FakeVault, answer: Answer, code: str
) -> None:
    fake.answer = answer
    with pytest.raises(AgentError) as caught:
        vault.latest_version("mykey")
    assert caught.value.code == code
