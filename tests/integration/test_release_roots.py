"""Where the roots of a release's certificate are read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.release_pki import intermediate_certificate, root_certificate

from skragent.errors import ConfigError
from skragent.release.roots import MAX_BUNDLE_BYTES, find_system_bundle, read_roots

if TYPE_CHECKING:
    from pathlib import Path


def test_every_certificate_of_the_file_is_a_root(tmp_path: Path) -> None:
    roots = (root_certificate(), intermediate_certificate())
    file = tmp_path / "roots.pem"
    file.write_bytes(b"".join(cert.public_bytes(Encoding.PEM) for cert in roots))
    assert read_roots(str(file)) == roots


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
    monkeypatch.setattr("skragent.release.roots._USUAL_PLACES", ())
    with pytest.raises(ConfigError, match="release_roots"):
        find_system_bundle()


def test_environment_names_the_systems_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The releaser drops this variable; without it OpenSSL's own default counts.
    file = tmp_path / "bundle.pem"
    file.write_bytes(root_certificate().public_bytes(Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert read_roots("") == (root_certificate(),)
