"""`skragent check-config` reads the files that the configuration names."""

from __future__ import annotations

import itertools
import os
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from support.odd_certificates import der, pem, with_boolean_01, with_version
from support.release_pki import NOW, intermediate_certificate, root_certificate

from skragent import exit_codes
from skragent.cli.main import main
from skragent.release.azure_credentials import MAX_CERTIFICATE_BYTES

KEY = f"""
[keys.disk]
vault = "https://v.vault.azure.net"
allow = [{{ user = {os.getuid()} }}]
"""
GOOD = pem(der(intermediate_certificate()))
ODD = pem(with_boolean_01(root_certificate()))
BROKEN = pem(b"\x30\x03abc")
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def certificate_pem(key: PrivateKey, days: int = 36500) -> bytes:
    name = x509.Name.from_rfc4514_string("CN=application")
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days))
    return pem(builder.sign(key, SHA256()).public_bytes(Encoding.DER))


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def locked_pem(key: PrivateKey) -> bytes:
    lock = BestAvailableEncryption(b"passphrase")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


CERTIFICATE = certificate_pem(RSA_KEY)
EC_CERTIFICATE = certificate_pem(EC_KEY)
APPLICATION = """
tenant_id = "t.example"
client_id = "00000000-0000-0000-0000-000000000000"
"""


@pytest.fixture(autouse=True)
def _systems_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "system.pem").write_bytes(GOOD)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.pem"))


class Checked:
    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.lines = text.splitlines()

    def about(self, start: str) -> list[str]:
        return [line for line in self.lines if line.startswith(start)]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Checker:
    return Checker(tmp_path, capsys)


class Checker:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys

    def write(self, name: str, content: bytes, mode: int = 0o400) -> str:
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(mode)
        return str(path)

    def __call__(self, text: str) -> Checked:
        config = self.directory / "skragent.toml"
        config.write_text(text + KEY)
        code = main(["check-config", "--config", str(config)])
        return Checked(code, self._capsys.readouterr().out)


@pytest.mark.parametrize("setting", ["amd_roots", "release_roots"])
def test_a_root_that_cryptography_refuses_is_a_warning_that_names_it(
    check: Checker, setting: str
) -> None:
    path = check.directory / "roots.pem"
    path.write_bytes(GOOD + ODD)
    checked = check(f'[trust]\n{setting} = "{path}"\n')
    assert checked.code == exit_codes.OK
    (line,) = checked.about(f"warning: trust.{setting}: {path}: ")
    assert "certificate 2 of 2 (commonName=" in line


def test_a_root_that_openssl_refuses_is_a_warning_that_names_it(
    check: Checker,
) -> None:
    path = check.directory / "roots.pem"
    path.write_bytes(GOOD + ODD + BROKEN)
    checked = check(f'[trust]\ntls_roots = "{path}"\n')
    assert checked.code == exit_codes.OK
    (line,) = checked.about(f"warning: trust.tls_roots: {path}: ")
    assert "certificate 3 of 3 (SHA-256 " in line


def test_the_systems_bundle_is_read_if_no_other_is_configured(check: Checker) -> None:
    path = check.directory / "system.pem"
    path.write_bytes(GOOD + ODD)
    checked = check("")
    assert checked.code == exit_codes.OK
    (line,) = checked.about(f"warning: trust.release_roots: {path}: ")
    assert "certificate 2 of 2" in line


def test_a_bundle_of_the_system_without_a_readable_root_is_a_warning(
    check: Checker,
) -> None:
    path = check.directory / "system.pem"
    path.write_bytes(ODD)
    checked = check("")
    assert checked.code == exit_codes.OK
    assert checked.about("warning: trust.release_roots: the system's roots: ")


@pytest.mark.parametrize(
    ("setting", "content"),
    [
        *itertools.product(
            ("amd_roots", "tls_roots", "release_roots"), (b"", b"hello", BROKEN)
        ),
        # OpenSSL reads this one, and reads the roots of TLS.
        ("amd_roots", pem(with_version(root_certificate(), 0x22))),
        ("release_roots", pem(with_version(root_certificate(), 0x22))),
    ],
)
def test_a_file_without_a_readable_root_is_a_problem(
    check: Checker, setting: str, content: bytes
) -> None:
    path = check.directory / "roots.pem"
    path.write_bytes(content)
    checked = check(f'[trust]\n{setting} = "{path}"\n')
    assert checked.code == exit_codes.CONFIG
    assert checked.about(f"trust.{setting}: {path}: ")


@pytest.mark.parametrize(
    ("table", "setting"),
    [
        ("trust", "amd_roots"),
        ("trust", "tls_roots"),
        ("trust", "release_roots"),
        ("vtpm", "tcg_log"),
        ("identity", "certificate"),
        ("identity", "secret_file"),
        ("identity", "token_file"),
    ],
)
def test_a_fifo_is_a_problem_and_not_waited_for(
    check: Checker, table: str, setting: str
) -> None:
    path = check.directory / "fifo"
    os.mkfifo(path)
    application = 'tenant_id = "t.example"\nclient_id = "' + "0" * 8
    application += '-0000-0000-0000-000000000000"\n'
    text = f"[{table}]\n{application if table == 'identity' else ''}"
    checked = check(f'{text}{setting} = "{path}"\n')
    assert checked.code == exit_codes.CONFIG
    (line,) = checked.about(f"{table}.{setting}: {path}: ")
    assert "this is a FIFO, not a regular file" in line


def test_a_missing_file_of_an_identity_is_a_warning(check: Checker) -> None:
    checked = check(f'[identity]{APPLICATION}secret_file = "/nonexistent/secret"\n')
    assert checked.code == exit_codes.OK
    assert checked.about("warning: identity.secret_file: /nonexistent/secret: No such")


@pytest.mark.parametrize("name", ["loop", r"a\u0000b"])
def test_a_name_that_leads_to_no_file_is_a_problem(check: Checker, name: str) -> None:
    loop = check.directory / "loop"
    loop.symlink_to(loop)
    path = f"{check.directory}/{name}"
    checked = check(f'[identity]{APPLICATION}certificate = "{path}"\n')
    assert checked.code == exit_codes.CONFIG
    assert len(checked.about("identity.certificate: ")) == 1


@pytest.mark.parametrize("table", ["identity", "identities.other"])
@pytest.mark.parametrize(
    ("setting", "content", "words"),
    [
        ("certificate", CERTIFICATE + locked_pem(RSA_KEY), "has a passphrase"),
        ("certificate", CERTIFICATE + key_pem(OTHER_KEY), "do not belong together"),
        ("certificate", EC_CERTIFICATE + key_pem(EC_KEY), "only an RSA"),
        ("certificate", CERTIFICATE, "no private key"),
        ("certificate", b"hello", "neither PEM nor a PFX file"),
        ("certificate", bytes(MAX_CERTIFICATE_BYTES + 1), "longer than"),
        ("secret_file", b"\n", "the file is empty"),
        ("secret_file", b"\xff", "it is not text"),
        ("token_file", b"", "the file is empty"),
    ],
)
def test_a_file_of_an_identity_that_cannot_be_used_is_a_problem(
    check: Checker, table: str, setting: str, content: bytes, words: str
) -> None:
    path = check.write("file", content)
    checked = check(f'[{table}]{APPLICATION}{setting} = "{path}"\n')
    assert checked.code == exit_codes.CONFIG
    (line,) = checked.about(f"{table}.{setting}: {path}: ")
    assert words in line


@pytest.mark.parametrize(
    ("setting", "content"),
    [
        ("certificate", CERTIFICATE + key_pem(RSA_KEY)),
        ("secret_file", b"the-secret\n"),
        ("token_file", b"a.platforms.token"),
    ],
)
def test_a_file_of_an_identity_that_can_be_used_is_not_mentioned(
    check: Checker, setting: str, content: bytes
) -> None:
    path = check.write("file", content)
    checked = check(f'[identity]{APPLICATION}{setting} = "{path}"\n')
    assert checked.code == exit_codes.OK
    assert not [line for line in checked.lines if path in line]


def test_an_expired_certificate_of_an_identity_is_a_warning(check: Checker) -> None:
    path = check.write("file", certificate_pem(RSA_KEY, days=1) + key_pem(RSA_KEY))
    checked = check(f'[identity]{APPLICATION}certificate = "{path}"\n')
    assert checked.code == exit_codes.OK
    (line,) = checked.about(f"warning: identity.certificate: {path}: ")
    assert f"the certificate expired on {NOW + timedelta(days=1):%Y-%m-%d}: put" in line


def test_a_secret_that_every_user_can_read_is_a_warning(check: Checker) -> None:
    path = check.write("secret", b"the-secret", mode=0o444)
    checked = check(f'[identity]{APPLICATION}secret_file = "{path}"\n')
    assert checked.code == exit_codes.OK
    (line,) = checked.about(f"warning: identity.secret_file: {path}: ")
    assert "every user of this machine can read it: set the owner" in line
    assert "the-secret" not in "".join(checked.lines)
