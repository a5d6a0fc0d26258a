"""Which roots a release's certificate must chain to: a file's, or the system's.

I/O, small: it finds and reads one PEM file. What is trusted for it is `envelope`'s.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509

from skragent.errors import ConfigError

MAX_BUNDLE_BYTES = 4 * 1024 * 1024  # Debian's has 220 kB

# Where distributions keep the bundle, should OpenSSL not say.
_USUAL_PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def read_roots(path: str) -> tuple[x509.Certificate, ...]:
    """Read the certificates of a PEM file; an empty path means the system's bundle.

    Raises:
        ConfigError: there is none, or it does not parse.
    """
    path = path or find_system_bundle()
    try:
        with Path(path).open("rb") as file:
            pem = file.read(MAX_BUNDLE_BYTES + 1)
        if len(pem) > MAX_BUNDLE_BYTES:
            raise ConfigError([f"{path}: longer than {MAX_BUNDLE_BYTES} bytes"])
        return tuple(x509.load_pem_x509_certificates(pem))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError([f"{path}: no PEM file of certificates: {error}"]) from error


def find_system_bundle() -> str:
    """Find the system's bundle of roots.

    Raises:
        ConfigError: there is none where they are kept.
    """
    said = ssl.get_default_verify_paths().cafile
    for path in (said, *_USUAL_PLACES):
        if path and Path(path).is_file():
            return path
    raise ConfigError(
        ["trust: this system has no bundle of roots; name tls_roots and release_roots"]
    )
