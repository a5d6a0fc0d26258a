"""The boundary to the library `cryptography`: every exception becomes one error.

Certificates and keys come from services, files and a TPM, and the library has many
exceptions for bytes that it cannot use: ValueError, TypeError (a passphrase is needed),
UnsupportedAlgorithm, InvalidVersion, DuplicateExtension, UnsupportedGeneralNameType,
warnings that a filter turns into exceptions, and `pyo3_runtime.PanicException`, which
derives from BaseException. It also parses lazily: the names, the key and the extensions
of a certificate may fail at their first use. So every load, and every use of a loaded
object that may fail, is inside `reading`. Callers decide on trust.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_pem_private_key,
    pkcs12,
)

from skragent.errors import AgentError
from skragent.quoting import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

MAX_REASON_CHARACTERS: Final = 160

# The module of PyO3's PanicException, which cannot be imported by name.
_PANIC_MODULE: Final = "pyo3_runtime"

_PAIR: Final = "the certificate or its private key"

# `warnings.catch_warnings` changes state of the whole process: one thread at a time.
_filters: Final = threading.Lock()


class CertificateError(ValueError):
    """A certificate or a key that the library cannot use; the text is for people."""


@contextlib.contextmanager
def reading(what: str, *, quotes_reason: bool = True) -> Iterator[None]:
    """Raise a CertificateError for every exception of the library.

    AgentError, MemoryError and exceptions that end a process or a thread pass.

    Args:
        what: the name of the object, for the message.
        quotes_reason: False for private keys: the library's text may quote its input.
    """
    try:
        yield
    except (AgentError, CertificateError, MemoryError):
        raise
    except Exception as error:
        if quotes_reason:
            raise CertificateError(
                f"{what} cannot be read: {_reason(error)}"
            ) from error
        raise CertificateError(f"{what} cannot be read") from None
    except BaseException as error:
        if type(error).__module__ != _PANIC_MODULE:
            raise
        raise CertificateError(f"{what} cannot be read: the library failed") from None


def load_der(der: bytes) -> x509.Certificate:
    """Load one certificate in DER.

    A serial number that RFC 5280 forbids is accepted: AMD gives VCEKs number 0.

    Raises:
        CertificateError: the library rejects it.
    """
    with reading("the certificate"), _without_warnings():
        return x509.load_der_x509_certificate(der)


def load_pem(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Load every certificate of a PEM text; fail if one of them cannot be read.

    Raises:
        CertificateError: there is none, or the library rejects one.
    """
    with reading("the PEM text"), _without_warnings():
        return tuple(x509.load_pem_x509_certificates(pem))


def require_names(certificate: x509.Certificate) -> None:
    """Require a subject and an issuer whose values have a length that X.520 allows.

    The library only warns of a wrong length, at every use.

    Raises:
        CertificateError: a name is missing or does not fit.
    """
    with (
        reading("a name in the certificate"),
        _filters,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("error", message="Attribute's length must be")
        if not (certificate.subject and certificate.issuer):
            raise CertificateError("the certificate has no subject or no issuer")


def load_private_key(der: bytes | bytearray) -> PrivateKeyTypes:
    """Load a private key in DER (PKCS#8), without checking its numbers.

    The caller compares the key with a public key, so OpenSSL's primality test of p and
    q would only take time.

    Raises:
        CertificateError: not such a key. The message never quotes the library.
    """
    with reading("the private key", quotes_reason=False):
        return load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)


def load_pem_pair(data: bytes) -> tuple[PrivateKeyTypes, x509.Certificate]:
    """Load the private key and the first certificate of a PEM text.

    Raises:
        CertificateError: one of them is missing, cannot be read or has a passphrase.
            The message never quotes the library.
    """
    with reading(_PAIR, quotes_reason=False):
        return load_pem_private_key(data, None), x509.load_pem_x509_certificate(data)


def load_pfx_pair(
    data: bytes,
) -> tuple[PrivateKeyTypes | None, x509.Certificate | None]:
    """Load the private key and its certificate from a PFX file without a password.

    Raises:
        CertificateError: it cannot be read, or has a password. The message never quotes
            the library.
    """
    with reading(_PAIR, quotes_reason=False):
        key, certificate, _ = pkcs12.load_key_and_certificates(data, None)
        return key, certificate


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: Exception) -> str:
    text = str(error).partition("See https://")[0]  # the library's own manual
    return quote(text, MAX_REASON_CHARACTERS).rstrip(". ") or type(error).__name__
