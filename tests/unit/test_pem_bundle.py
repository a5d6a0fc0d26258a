"""Bundles of roots: an unreadable certificate does not affect the others."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from support.odd_certificates import der, pem, with_boolean_01, with_version
from support.release_pki import intermediate_certificate, root_certificate

from skragent.certificates import CertificateError, load_der
from skragent.pem_bundle import MAX_CERTIFICATES, MAX_NAMED, load_bundle

GOOD = root_certificate()
OTHER = intermediate_certificate()
ODD = with_boolean_01(GOOD)
NO_BASE64 = b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n"


def test_openssl_reads_the_odd_certificate_and_cryptography_refuses_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "odd.pem").write_bytes(pem(ODD))
    ssl.create_default_context(cafile=str(tmp_path / "odd.pem"))
    with pytest.raises(CertificateError):
        load_der(ODD)
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("needs the openssl command")
    shown = subprocess.run(
        [
            *(openssl, "x509", "-noout", "-ext", "basicConstraints"),
            *("-in", tmp_path / "odd.pem"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CA:TRUE" in shown.stdout


def test_every_certificate_of_a_good_bundle_is_a_root() -> None:
    bundle = load_bundle(pem(der(GOOD)) + pem(der(OTHER)), load_der)
    assert bundle.roots == (GOOD, OTHER)
    assert bundle.skipped == ()


def test_a_certificate_that_cannot_be_read_is_skipped_and_named() -> None:
    text = b"# roots\n" + pem(der(GOOD)) + pem(ODD) + b"\xff\xff\n" + pem(der(OTHER))
    bundle = load_bundle(text, load_der)
    assert bundle.roots == (GOOD, OTHER)
    (skipped,) = bundle.skipped
    fingerprint = hashlib.sha256(ODD).digest().hex(":").upper()
    assert skipped.startswith("certificate 2 of 3 (")
    assert "commonName=" in skipped
    assert f"SHA-256 {fingerprint})" in skipped
    assert "is skipped" in skipped


@pytest.mark.parametrize(
    "block",
    [
        NO_BASE64,
        b"-----BEGIN CERTIFICATE-----\nMAA=\n",  # no end
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        pem(b"\x30\x03abc"),
        pem(with_version(GOOD, 0x22)),
        (
            b"-----BEGIN CERTIFICATE-----\nProc-Type: 4,ENCRYPTED\n\nMAA=\n"
            b"-----END CERTIFICATE-----\n"
        ),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_broken_block_is_skipped_at_any_place(block: bytes, place: int) -> None:
    blocks = [pem(der(GOOD)), pem(der(OTHER))]
    blocks.insert(place, block)
    bundle = load_bundle(b"".join(blocks), load_der)
    assert bundle.roots == (GOOD, OTHER)
    (skipped,) = bundle.skipped
    assert skipped.startswith(f"certificate {place + 1} of 3")


def test_the_older_label_is_read_and_other_blocks_are_not() -> None:
    text = pem(b"key", "PRIVATE KEY") + pem(der(GOOD), "X509 CERTIFICATE")
    assert load_bundle(text, load_der).roots == (GOOD,)


@pytest.mark.parametrize(
    "text", [b"", b"no certificate", b"\xff" * 100, pem(ODD), NO_BASE64]
)
def test_a_bundle_without_a_readable_certificate_is_an_error(text: bytes) -> None:
    with pytest.raises(CertificateError, match="no certificate that can be read"):
        load_bundle(text, load_der)


def test_the_certificates_of_a_bundle_are_bounded_in_number() -> None:
    with pytest.raises(CertificateError, match="more than"):
        load_bundle(NO_BASE64 * (MAX_CERTIFICATES + 1), load_der)


def test_only_the_first_skipped_ones_are_named() -> None:
    bundle = load_bundle(pem(der(GOOD)) + NO_BASE64 * (MAX_NAMED + 5), load_der)
    assert len(bundle.skipped) == MAX_NAMED + 1
    assert bundle.skipped[-1] == "5 more certificates are skipped"
