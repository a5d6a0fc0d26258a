"""TLS trusts the readable certificates of a bundle; the others are described."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from support.odd_certificates import der, pem, with_boolean_01
from support.release_pki import intermediate_certificate, root_certificate

from skragent.errors import ConfigError
from skragent.tls_roots import make_tls_context

GOOD = der(root_certificate())
OTHER = der(intermediate_certificate())
BROKEN = pem(b"\x30\x03abc")


def write(directory: Path, *blocks: bytes) -> str:
    path = directory / "roots.pem"
    path.write_bytes(b"".join(blocks))
    return str(path)


def test_a_root_that_only_openssl_reads_is_trusted(tmp_path: Path) -> None:
    odd = with_boolean_01(root_certificate())
    context, skipped = make_tls_context(write(tmp_path, pem(odd), pem(OTHER)))
    assert context.get_ca_certs(binary_form=True) == [odd, OTHER]
    assert skipped == ()


def test_a_block_that_openssl_refuses_is_skipped_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, pem(GOOD), BROKEN, pem(OTHER))
    with pytest.raises(ssl.SSLError):
        ssl.create_default_context(cafile=path)
    context, skipped = make_tls_context(path)
    assert context.get_ca_certs(binary_form=True) == [GOOD, OTHER]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    (text,) = skipped
    assert text.startswith("certificate 2 of 3 (SHA-256 ")


@pytest.mark.parametrize("blocks", [(), (BROKEN,), (b"no certificate",)])
def test_a_file_without_a_readable_root_is_refused(
    tmp_path: Path, blocks: tuple[bytes, ...]
) -> None:
    path = write(tmp_path, *blocks)
    with pytest.raises(ConfigError) as caught:
        make_tls_context(path)
    assert path in caught.value.message


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="a FIFO"):
        make_tls_context(str(tmp_path / "fifo"))


def test_a_broken_block_in_the_systems_file_does_not_take_its_roots_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, pem(GOOD), BROKEN, pem(OTHER))
    monkeypatch.setenv("SSL_CERT_FILE", path)
    assert ssl.create_default_context().get_ca_certs() == []
    context, skipped = make_tls_context("")
    assert context.get_ca_certs(binary_form=True) == [GOOD, OTHER]
    assert len(skipped) == 1


def test_the_systems_roots_are_trusted_without_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", write(tmp_path, pem(GOOD)))
    context, skipped = make_tls_context("")
    assert context.get_ca_certs(binary_form=True) == [GOOD]
    assert skipped == ()
