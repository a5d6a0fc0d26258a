"""Read the roots for the certificate of a release: from a file, or the system's.

`envelope` verifies a release with these roots.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from skragent.certificates import CertificateError, load_der, load_pem
from skragent.errors import ConfigError
from skragent.files import read_regular
from skragent.pem_bundle import MAX_BUNDLE_BYTES, Bundle, load_bundle

if TYPE_CHECKING:
    from cryptography import x509

# The bundle's path in distributions, if OpenSSL does not name it.
_USUAL_PATHS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def read_roots(path: str) -> Bundle[x509.Certificate]:
    """Read the certificates of a PEM file; an empty path means the system's bundle.

    Raises:
        ConfigError: the file cannot be read, or none of its certificates can.
    """
    path = path or find_system_bundle()
    try:
        pem = read_regular(path, max_bytes=MAX_BUNDLE_BYTES)
        return _load(pem)
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except CertificateError as error:
        raise ConfigError([f"{path}: {error}"]) from error


def _load(pem: bytes) -> Bundle[x509.Certificate]:
    """Load all certificates at once, which is faster, or one by one if that fails."""
    try:
        return Bundle(load_pem(pem))
    except CertificateError:
        return load_bundle(pem, load_der)


def find_system_bundle() -> str:
    """Return the path of the system's bundle of roots.

    Raises:
        ConfigError: none of the known paths exists.
    """
    default = ssl.get_default_verify_paths().cafile
    for path in (default, *_USUAL_PATHS):
        if path and Path(path).is_file():
            return path
    raise ConfigError(
        ["trust: this system has no bundle of roots; name tls_roots and release_roots"]
    )
