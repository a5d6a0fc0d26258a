r"""The protocol of LoadCredential=NAME:SOCKET, as systemd speaks it.

systemd connects from an abstract address, `\0HEX/unit/UNIT/NAME` (systemd:
exec-credential.c), and reads to the end. Every process can choose such an address, so
the server trusts it only from uid 0.

A rejection is more than the 1 MiB that the credentials of a unit may have (systemd:
CREDENTIALS_TOTAL_SIZE_MAX). It is the only response that makes the unit fail (measured
on systemd 252: status 243/CREDENTIALS). Fewer bytes would be a credential of zeros, and
the unit would start with it. So a rejection that has begun must be finished.

The agent marks the socket before it sends the first byte. An agent that gets the
connection from systemd's descriptor store after a restart finds the mark. It cannot
know how many bytes were sent, and the credential may be complete. So it rejects.
"""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from skragent.job import ALIAS_PATTERN
from skragent.serving.units import is_unit_name

if TYPE_CHECKING:
    from collections.abc import Collection

    from skragent.job import Form

# A credential's name is printable ASCII without a colon (systemd: fdname_is_valid).
_ADDRESS: Final = re.compile(rb"\0[0-9a-f]{1,16}/unit/([^/\0]+)/([!-.0-9;-~ ]+)")
_MAX_NAME: Final = 255  # the name of a credential is the name of a file
_NAME: Final = re.compile(rf"({ALIAS_PATTERN})(?:\.([a-z]+))?")
# systemd formats the address as `@HEX/unit/UNIT/NAME` with a random number, and fails
# with EINVAL if it is longer: sun_path has 108 bytes with its NUL (unix(7)).
_MAX_ADDRESS_BYTES: Final = 107
MAX_NAMES_BYTES: Final = _MAX_ADDRESS_BYTES - len(f"@{2**64 - 1:x}/unit//")
_GLOB: Final = re.compile(r"\[[^]]*\]|\?|\*")
_FORMS: Final[dict[str, Form]] = {"pem": "pem", "der": "der", "jwk": "jwk"}

# The forms for a name without a suffix, in the order of preference.
_DEFAULT_FORMS: Final[tuple[Form, ...]] = ("pem", "raw")


class CredentialAddress(NamedTuple):
    """A unit and the credential that it loads."""

    unit: str
    credential: str


class CredentialName(NamedTuple):
    """The parts of the name of a credential."""

    alias: str
    form: Form | None  # None: the default form of the key


def parse_address(address: bytes | str | None) -> CredentialAddress | None:
    """Parse the address of a peer; None if it is not an address of systemd."""
    match = _ADDRESS.fullmatch(address) if isinstance(address, bytes) else None
    if match is None:
        return None
    try:
        unit, credential = (part.decode("ascii") for part in match.groups())
    except UnicodeDecodeError:
        return None
    if not is_unit_name(unit) or len(credential) > _MAX_NAME:
        return None
    return CredentialAddress(unit, credential)


def parse_credential(name: str) -> CredentialName | None:
    """Parse KEY, KEY.pem, KEY.der or KEY.jwk; None for any other name.

    The name of a key has no dot (config_rules), so the result is unambiguous.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    alias, suffix = match.groups()
    if suffix is None:
        return CredentialName(alias, None)
    return CredentialName(alias, _FORMS[suffix]) if suffix in _FORMS else None


def judge_name_lengths(unit: str, alias: str) -> str:
    """Return why LoadCredential= cannot work with such long names, or an empty text.

    Args:
        unit: the unit of a rule: a name, a template or a glob. The shortest name that
            it matches counts.
        alias: the name of the key for workloads.
    """
    shortest = _GLOB.sub(lambda found: "" if found[0] == "*" else "x", unit)
    shortest = shortest.replace("@.", "@x.")
    together = len(shortest) + len(alias)
    if together > MAX_NAMES_BYTES:
        return (
            f"the names of the unit and of the key `{alias}` have {together}"
            f" characters together; systemd's LoadCredential= works up to"
            f" {MAX_NAMES_BYTES}: shorten one of them"
        )
    suffix = max(map(len, _FORMS)) + 1
    if together + suffix > MAX_NAMES_BYTES:
        return (
            f"the name of the unit and `{alias}.pem` have {together + suffix}"
            f" characters together; systemd's LoadCredential= works up to"
            f" {MAX_NAMES_BYTES}: write LoadCredential={alias}:…"
        )
    return ""


def choose_credential_form(
    wanted: Form | None, available: Collection[Form]
) -> Form | None:
    """Return the form to send, or None if the key does not have the form."""
    if wanted is not None:
        return wanted if wanted in available else None
    return next((form for form in _DEFAULT_FORMS if form in available), None)


REJECTION_BYTES: Final = 1024 * 1024 + 1
SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_ZEROS: Final = bytes(64 * 1024)

# SO_PRIORITY has no effect on Unix sockets, and 0 to 6 need no privilege: socket(7).
_MARK: Final = 1


def mark_begun(connection: socket.socket) -> None:
    """Mark a connection: bytes may have been sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _MARK)


def has_begun(connection: socket.socket) -> bool:
    """Return whether an earlier agent may have sent bytes."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == _MARK


class Rejection:
    """The bytes of one rejection, sent as fast as the peer reads them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = REJECTION_BYTES
        mark_begun(connection)

    def send(self) -> bool:
        """Send as much as the socket accepts, and return whether that was all."""
        try:
            while self._left > 0:
                self._left -= self._connection.send(_ZEROS, SEND_FLAGS)
        except BlockingIOError:
            return False
        except OSError:  # systemd has read enough and closed
            pass
        return True


def end(connection: socket.socket) -> None:
    """End a connection, also for the copy in systemd's store. close(2) would not."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
