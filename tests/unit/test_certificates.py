"""Every exception of `cryptography` becomes a CertificateError."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from support.odd_certificates import der, pem, with_boolean_01, with_version
from support.release_pki import pkcs8, root_certificate, rsa_key

import skragent
from skragent.certificates import (
    MAX_REASON_CHARACTERS,
    CertificateError,
    load_der,
    load_pem,
    load_private_key,
    reading,
    require_names,
)
from skragent.errors import BindingError

GOOD = root_certificate()


class PanicException(BaseException):
    """Stands for PyO3's, which cannot be imported."""


PanicException.__module__ = "pyo3_runtime"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("v"),
        TypeError("a passphrase is needed"),
        KeyError("k"),
        UnsupportedAlgorithm("u"),
        InvalidSignature(),
        x509.InvalidVersion("i", 34),
        x509.DuplicateExtension("d", x509.ObjectIdentifier("1.2.3")),
        x509.UnsupportedGeneralNameType("g"),
        UserWarning("w"),
        OverflowError("o"),
        RecursionError("r"),
        PanicException("p"),
    ],
)
def test_every_exception_of_the_library_becomes_one(error: BaseException) -> None:
    refused = pytest.raises(CertificateError, match="the thing cannot be read")
    with refused, reading("the thing"):
        raise error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(), MemoryError(), BindingError("b")]
)
def test_other_exceptions_pass(error: BaseException) -> None:
    with pytest.raises(type(error)), reading("the thing"):
        raise error


def test_the_librarys_words_are_one_short_printable_line() -> None:
    with pytest.raises(CertificateError) as caught, reading("it"):
        raise ValueError("a\n\x1b[31m" + "b" * 1000)
    text = str(caught.value)
    assert text.startswith("it cannot be read: a ?[31mbb")
    assert len(text) == len("it cannot be read: ") + MAX_REASON_CHARACTERS


def test_words_about_a_private_key_are_not_repeated() -> None:
    refused = pytest.raises(CertificateError)
    with refused as caught, reading("the key", quotes_reason=False):
        raise ValueError("SECRET")
    assert str(caught.value) == "the key cannot be read"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x84\xff\xff\xff\xff",
        der(GOOD)[:-1],
        der(GOOD) + b"\0",
        with_version(GOOD, 0x22),
        with_boolean_01(GOOD),
        pem(der(GOOD)),
    ],
)
def test_bytes_that_are_not_a_der_certificate_are_refused(data: bytes) -> None:
    with pytest.raises(CertificateError):
        load_der(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----",
        pem(b"\x30\x00"),
        pem(der(GOOD)) + pem(with_version(GOOD, 0x22)),
        pem(der(GOOD), "PRIVATE KEY"),
        der(GOOD),
    ],
)
def test_text_without_pem_certificates_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateError):
        load_pem(data)


def test_a_certificate_is_loaded_from_both_forms() -> None:
    assert load_der(der(GOOD)) == GOOD
    assert load_pem(pem(der(GOOD)) * 2) == (GOOD, GOOD)
    require_names(GOOD)


def test_loading_does_not_change_the_warnings_of_the_process() -> None:
    before = list(warnings.filters)
    load_der(der(GOOD))
    require_names(GOOD)
    assert warnings.filters == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x00",
        pkcs8(rsa_key("k"))[:-1],
        der(GOOD),
        rsa_key("k").private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")
        ),
    ],
)
def test_bytes_that_are_not_a_private_key_are_refused(data: bytes) -> None:
    with pytest.raises(CertificateError) as caught:
        load_private_key(data)
    assert str(caught.value) == "the private key cannot be read"


def test_no_other_module_loads_certificates_or_private_keys() -> None:
    """`demo` reads a key of its own agent, and the emulator its own files."""
    loads = re.compile(
        r"load_(der|pem)_(x509_certificates?|private_key)|pkcs12(?! -in)"
    )
    package = Path(skragent.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if loads.search(path.read_text()) and "emulator" not in path.parts
    }
    assert found == {"certificates.py", "cli/demo.py"}


def test_a_private_key_is_loaded() -> None:
    key = load_private_key(pkcs8(rsa_key("k")))
    assert key.public_key() == rsa_key("k").public_key()
