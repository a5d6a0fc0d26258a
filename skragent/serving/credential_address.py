r"""What systemd says when it asks for a credential. Pure: bytes and text in, names out.

A unit with LoadCredential=NAME:SOCKET makes systemd connect from an abstract address,
`\0HEX/unit/UNIT/NAME` (systemd: exec-credential.c). Whoever connects chooses that
address, so it is believed only of root: that is decided by who calls this.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from skragent.serving.units import is_unit_name

if TYPE_CHECKING:
    from collections.abc import Collection

    from skragent.job import Form

# A credential's name is printable ASCII without a colon (systemd: fdname_is_valid).
_ADDRESS: Final = re.compile(rb"\0[0-9a-f]{1,16}/unit/([^/\0]+)/([!-.0-9;-~ ]+)")
_MAX_NAME: Final = 255  # of a credential: systemd's is a file's name
_NAME: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})(?:\.([a-z]+))?")
# systemd writes the address as a text, `@HEX/unit/UNIT/NAME` with a random number, and
# gives it up (EINVAL) if it is longer: sun_path has 108 bytes with its NUL (unix(7)).
_MAX_ADDRESS_BYTES: Final = 107
MAX_NAMES_BYTES: Final = _MAX_ADDRESS_BYTES - len(f"@{2**64 - 1:x}/unit//")
_GLOB: Final = re.compile(r"\[[^]]*\]|\?|\*")
_FORMS: Final[dict[str, Form]] = {"pem": "pem", "der": "der", "jwk": "jwk"}

# What a service most likely wants where it does not say: PEM, or the bytes themselves.
_DEFAULT_FORMS: Final[tuple[Form, ...]] = ("pem", "raw")


class CredentialAddress(NamedTuple):
    """Which unit asks for which credential."""

    unit: str
    credential: str


class CredentialName(NamedTuple):
    """A credential's name, taken apart."""

    alias: str
    form: Form | None  # None: the key's default


def parse_address(address: bytes | str | None) -> CredentialAddress | None:
    """Read a peer's address; None where it is not one of systemd's."""
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
    """Read KEY, KEY.pem, KEY.der or KEY.jwk; None where it is none of them.

    A key's name has no dot (config_rules), so there is one way to read it.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    alias, suffix = match.groups()
    if suffix is None:
        return CredentialName(alias, None)
    return CredentialName(alias, _FORMS[suffix]) if suffix in _FORMS else None


def judge_name_lengths(unit: str, alias: str) -> str:
    """Say that LoadCredential= cannot work because names are too long; else empty.

    Args:
        unit: of a rule: a name, a template or a glob, which is taken at its shortest.
        alias: the key's name for workloads.
    """
    shortest = _GLOB.sub(lambda found: "" if found[0] == "*" else "x", unit)
    shortest = shortest.replace("@.", "@x.")
    together = len(shortest) + len(alias)
    if together > MAX_NAMES_BYTES:
        return (
            f"the unit's name and the key's, `{alias}`, have {together} characters"
            f" together; systemd's LoadCredential= works up to {MAX_NAMES_BYTES}:"
            " shorten one of them"
        )
    suffix = max(map(len, _FORMS)) + 1
    if together + suffix > MAX_NAMES_BYTES:
        return (
            f"the unit's name and `{alias}.pem` have {together + suffix} characters"
            f" together; systemd's LoadCredential= works up to {MAX_NAMES_BYTES}:"
            f" write LoadCredential={alias}:…"
        )
    return ""


def choose_credential_form(
    wanted: Form | None, available: Collection[Form]
) -> Form | None:
    """Choose the form to send; None where the key has not what is wanted."""
    if wanted is not None:
        return wanted if wanted in available else None
    return next((form for form in _DEFAULT_FORMS if form in available), None)
