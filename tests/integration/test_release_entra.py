"""Applications of Microsoft Entra ID: tokens by certificate, secret or token file."""

from __future__ import annotations

import base64
import json
import os
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS
from support.odd_certificates import pem, with_version
from support.release_server import (
    Answer,
    Asked,
    Server,
    access_tokens,
    json_answer,
    make_tls,
    serve,
)

from skragent.errors import IdentityError
from skragent.identity import Identity
from skragent.release.azure_credentials import MAX_SECRET_BYTES, MAX_TOKEN_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCOPE = "https://vault.azure.net/.default"
TENANT = "aaaaaaaa-2222-3333-4444-555555555555"
CLIENT = "11111111-2222-3333-4444-555555555555"
TOKEN = {"access_token": "the-token", "token_type": "Bearer", "expires_in": 3599}
SECRET = "s3cret~of.the-application"


@dataclass
class Entra:
    """Entra ID, as far as a token takes it."""

    server: Server
    ca_file: str
    answer: Answer = field(default_factory=lambda: json_answer(TOKEN))

    def say(self, asked: Asked) -> Answer:
        if asked.path.endswith("/.well-known/openid-configuration"):
            start = f"{self.server.origin}/{TENANT}"
            return json_answer(
                {
                    "issuer": f"{start}/v2.0",
                    "authorization_endpoint": f"{start}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{start}/oauth2/v2.0/token",
                }
            )
        return self.answer

    def fetch(self, who: Identity, seconds: float = DEADLINE_SECONDS) -> str:
        with access_tokens(
            who, seconds, authority=self.server.origin, ca_file=self.ca_file
        ) as tokens:
            return tokens.get_token_info(SCOPE).token

    def form(self) -> dict[str, str]:
        """Give what the token was asked for with."""
        asked = self.server.asked[-1]
        assert asked.path == f"/{TENANT}/oauth2/v2.0/token"
        return dict(urllib.parse.parse_qsl(asked.body.decode()))


@pytest.fixture
def entra(tmp_path: Path) -> Iterator[Entra]:
    context, ca_file = make_tls(tmp_path)
    with serve(lambda _asked: Answer(500), context) as server:
        found = Entra(server, ca_file)
        server.answer = found.say
        yield found


def write(directory: Path, text: str) -> str:
    path = directory / "file"
    path.write_text(text)
    return str(path)


def application(**file: str) -> Identity:
    return Identity(tenant_id=TENANT, client_id=CLIENT, **file)


def test_an_application_is_known_by_its_secret(entra: Entra, tmp_path: Path) -> None:
    who = application(secret_file=write(tmp_path, f"{SECRET}\n"))
    assert entra.fetch(who) == TOKEN["access_token"]
    form = entra.form()
    assert (form["client_id"], form["client_secret"]) == (CLIENT, SECRET)
    assert form["scope"] == SCOPE


def test_an_application_is_known_by_its_certificate(
    entra: Entra, tmp_path: Path
) -> None:
    who = application(certificate=write(tmp_path, certificate()))
    assert entra.fetch(who) == TOKEN["access_token"]
    claims = entra.form()["client_assertion"].split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["iss"] == CLIENT


def test_a_workload_is_known_by_its_platforms_token(
    entra: Entra, tmp_path: Path
) -> None:
    who = application(token_file=write(tmp_path, "a.platforms.token"))
    assert entra.fetch(who) == TOKEN["access_token"]
    assert entra.form()["client_assertion"] == "a.platforms.token"


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (
            (401, "invalid_client", "AADSTS7000215: Invalid client secret provided."),
            "identity.denied",
        ),
        (
            (
                400,
                "unauthorized_client",
                "AADSTS700016: Application was not found in the directory.",
            ),
            "identity.denied",
        ),
        (
            (
                400,
                "temporarily_unavailable",
                "AADSTS90033: A transient error has occurred.",
            ),
            "identity.unavailable",
        ),
    ],
)
def test_a_refusal_is_reported_with_its_code(
    entra: Entra, tmp_path: Path, refusal: tuple[int, str, str], code: str
) -> None:
    status, error, text = refusal
    entra.answer = json_answer({"error": error, "error_description": text}, status)
    with pytest.raises(IdentityError) as caught:
        entra.fetch(application(secret_file=write(tmp_path, SECRET)))
    assert caught.value.code == code
    assert text.partition(":")[0] in caught.value.message
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, b"<html>"),
        Answer(503, headers={"Retry-After": "1"}),
        Answer(429, headers={"Retry-After": "1"}),
        Answer(then="reset"),
        Answer(200, b"no json"),
    ],
)
def test_temporary_failures_are_retried(
    entra: Entra, tmp_path: Path, answer: Answer
) -> None:
    entra.answer = answer
    with pytest.raises(IdentityError) as caught:
        entra.fetch(application(secret_file=write(tmp_path, SECRET)))
    assert caught.value.code == "identity.unavailable"
    if answer.status >= 429:
        assert caught.value.hint.startswith("Passes by itself: Entra ID")


def test_an_entra_id_that_hangs_is_asked_again(entra: Entra, tmp_path: Path) -> None:
    entra.answer = Answer(then="hang")
    with pytest.raises(IdentityError) as caught:
        entra.fetch(application(secret_file=write(tmp_path, SECRET)), SHORT_SECONDS)
    assert caught.value.code == "identity.unavailable"


def test_a_file_that_is_not_there_is_named(entra: Entra) -> None:
    for who in (
        application(secret_file="/nonexistent/secret"),
        application(certificate="/nonexistent/secret"),
        application(token_file="/nonexistent/secret"),
    ):
        with pytest.raises(IdentityError) as caught:
            entra.fetch(who)
        assert caught.value.code == "identity.unreadable"
        assert "/nonexistent/secret: No such file" in caught.value.message


@pytest.mark.parametrize("kind", ["secret_file", "certificate"])
@pytest.mark.parametrize("text", ["\N{SNOWMAN}" + SECRET, "x" * (MAX_SECRET_BYTES + 1)])
def test_a_file_that_cannot_be_used_is_named_and_not_quoted(
    entra: Entra, tmp_path: Path, kind: str, text: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(IdentityError) as caught:
        entra.fetch(application(**{kind: path}))
    assert caught.value.code == "identity.unreadable"
    assert caught.value.message.startswith(f"{path}: ")
    assert text not in caught.value.message
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    "kind",
    ["secret_file", "certificate", "token_file"],
)
def test_a_fifo_is_refused_without_waiting(
    entra: Entra, tmp_path: Path, kind: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(IdentityError) as caught:
        entra.fetch(application(**{kind: str(tmp_path / "fifo")}))
    assert caught.value.code == "identity.unreadable"
    assert "this is a FIFO, not a regular file" in caught.value.message


def test_a_private_key_with_a_passphrase_is_reported_and_not_a_type_error(
    entra: Entra, tmp_path: Path
) -> None:
    path = write(tmp_path, certificate(BestAvailableEncryption(b"passphrase")))
    with pytest.raises(IdentityError) as caught:
        entra.fetch(application(certificate=path))
    assert caught.value.code == "identity.unreadable"
    assert "passphrase" in caught.value.message


def test_a_certificate_with_a_version_that_does_not_exist_cannot_be_used(
    entra: Entra, tmp_path: Path
) -> None:
    key, _, block = certificate().partition("-----BEGIN CERTIFICATE-----")
    good = x509.load_pem_x509_certificate(
        f"-----BEGIN CERTIFICATE-----{block}".encode()
    )
    text = key + pem(with_version(good, 0x22)).decode()
    with pytest.raises(IdentityError) as caught:
        entra.fetch(application(certificate=write(tmp_path, text)))
    assert caught.value.code == "identity.unreadable"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * (MAX_TOKEN_BYTES + 1)])
def test_a_platforms_token_that_cannot_be_used_is_named(
    entra: Entra, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(IdentityError) as caught:
        entra.fetch(application(token_file=str(tmp_path / "token")))
    assert caught.value.code == "identity.unreadable"
    assert str(tmp_path / "token") in caught.value.message


def test_a_platforms_token_goes_over_the_wire_as_it_is_in_the_file(
    entra: Entra, tmp_path: Path
) -> None:
    who = application(token_file=write(tmp_path, "a.platforms.token\n"))
    assert entra.fetch(who) == TOKEN["access_token"]
    form = entra.form()
    assert form["client_assertion"] == "a.platforms.token\n"
    assert form["client_assertion_type"].endswith(":jwt-bearer")


def certificate(encryption: KeySerializationEncryption | None = None) -> str:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name.from_rfc4514_string("CN=application")
    now = datetime.now(UTC)  # noqa: TID251 - the library looks at the real clock
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    private = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()
    )
    return (private + certificate.public_bytes(Encoding.PEM)).decode()
