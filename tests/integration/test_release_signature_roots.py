"""The roots for a release's certificate, from a file or from the system."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.odd_certificates import der, pem, with_boolean_01
from support.release_pki import intermediate_certificate, root_certificate

from skragent.errors import ConfigError
from skragent.pem_bundle import MAX_BUNDLE_BYTES
from skragent.release.signature_roots import find_system_bundle, read_roots

if TYPE_CHECKING:
    from pathlib import Path


def test_every_certificate_of_the_file_is_a_root(tmp_path: Path) -> None:
    roots = (root_certificate(), intermediate_certificate())
    file = tmp_path / "roots.pem"
    file.write_bytes(b"".join(cert.public_bytes(Encoding.PEM) for cert in roots))
    assert read_roots(str(file)).roots == roots
    assert read_roots(str(file)).skipped == ()


def test_a_root_that_cryptography_refuses_is_skipped_and_named(tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    odd = pem(with_boolean_01(root_certificate()))
    file.write_bytes(odd + pem(der(intermediate_certificate())))
    bundle = read_roots(str(file))
    assert bundle.roots == (intermediate_certificate(),)
    (skipped,) = bundle.skipped
    assert skipped.startswith("certificate 1 of 2 (commonName=")


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="a FIFO"):
        read_roots(str(tmp_path / "fifo"))


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff" * 100])
def test_file_without_certificates_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        read_roots(str(file))


def test_file_beyond_the_size_limit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(b"#" * (MAX_BUNDLE_BYTES + 1))
    with pytest.raises(ConfigError, match="longer"):
        read_roots(str(file))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.pem"):
        read_roots(str(tmp_path / "no.pem"))


def test_system_without_a_bundle_says_what_to_configure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    monkeypatch.setattr("skragent.release.signature_roots._USUAL_PATHS", ())
    with pytest.raises(ConfigError, match="release_roots"):
        find_system_bundle()


def test_environment_names_the_systems_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The releaser drops this variable; without it OpenSSL's own default counts.
    file = tmp_path / "bundle.pem"
    file.write_bytes(root_certificate().public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert read_roots("").roots == (root_certificate(),)
