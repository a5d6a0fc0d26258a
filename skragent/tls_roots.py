"""Make a TLS context with the roots of a file or of the system, read by OpenSSL.

OpenSSL reads some certificates that `cryptography` rejects. If one block of a file is
broken, OpenSSL uses no certificate of the file. Such a file is loaded certificate by
certificate.
"""

from __future__ import annotations

import ssl

from skragent.certificates import CertificateError
from skragent.errors import ConfigError
from skragent.files import read_regular
from skragent.pem_bundle import MAX_BUNDLE_BYTES, load_bundle


def make_tls_context(path: str) -> tuple[ssl.SSLContext, tuple[str, ...]]:
    """Return a context for TLS clients, and descriptions of skipped certificates.

    Args:
        path: a PEM file of roots; empty for the system's.

    Raises:
        ConfigError: the file cannot be read, or none of its certificates can.
    """
    if not path:
        return _make_context_of_system()
    try:
        # Read it first: OpenSSL opens the file itself, and would wait at a FIFO.
        pem = read_regular(path, max_bytes=MAX_BUNDLE_BYTES)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    try:
        return ssl.create_default_context(cafile=path), ()
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        pass
    try:
        bundle = load_bundle(pem, _require_openssl_reads)
    except CertificateError as error:
        raise _unusable(path, str(error)) from error
    context = ssl.create_default_context(cadata=b"".join(bundle.roots))
    return context, bundle.skipped


def _make_context_of_system() -> tuple[ssl.SSLContext, tuple[str, ...]]:
    """Use the system's roots, also if a block of their file is broken.

    OpenSSL ignores such a file without an error. Debian has no such file: each root is
    a file of a directory.
    """
    context = ssl.create_default_context()
    path = ssl.get_default_verify_paths().cafile
    if not path or context.cert_store_stats()["x509"]:
        return context, ()
    try:
        pem = read_regular(path, max_bytes=MAX_BUNDLE_BYTES)
        bundle = load_bundle(pem, _require_openssl_reads)
    except (OSError, CertificateError):
        return context, ()
    context.load_verify_locations(cadata=b"".join(bundle.roots))
    return context, bundle.skipped


def _require_openssl_reads(der: bytes) -> bytes:
    """Return the certificate; raise the error of Python's ssl if OpenSSL rejects it."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=der)
    return der


def _unusable(path: str, why: str) -> ConfigError:
    return ConfigError([f"{path}: it cannot be used as TLS roots: {why}"])
