"""Read binary structures and JSON members; refuse missing or invalid values.

MAA answers `InvalidParameter` for evidence that does not verify and
`InvalidOperation` for evidence that cannot be decoded.
"""

from __future__ import annotations

import json
from typing import Any

from skragent.emulator.encoding import NotBase64Error, decode_base64
from skragent.emulator.service import RefusalError


def invalid(message: str) -> RefusalError:
    """Return the refusal of evidence that does not verify."""
    return RefusalError(400, "InvalidParameter", message)


def undecodable(what: str) -> RefusalError:
    """Return the refusal of evidence that cannot be decoded."""
    return RefusalError(400, "InvalidOperation", f"Bad message: {what}")


def member(document: dict[str, Any], name: str, kind: type) -> Any:  # noqa: ANN401 - any JSON
    """Return a member of the given type."""
    value = document.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise invalid(f"{name} is missing or is not of type {kind.__name__}.")
    return value


def base64_member(document: dict[str, Any], name: str) -> bytes:
    """Return the bytes of a base64 member."""
    return decoded(member(document, name, str), name)


def decoded(text: object, name: str) -> bytes:
    """Decode base64, or refuse."""
    try:
        return decode_base64(text)
    except NotBase64Error as error:
        raise undecodable(f"{name} is {error}.") from error


def parsed_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object, or refuse."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise undecodable(f"{name} is not JSON.") from error
    if not isinstance(value, dict):
        raise invalid(f"{name} is not a JSON object.")
    return value


class Reader:
    """Reads a binary structure from front to back."""

    def __init__(self, data: bytes, what: str, order: str = "big") -> None:
        self._data = data
        self._offset = 0
        self._what = what
        self._order: Any = order  # "big" as TPM 2.0, "little" as the TCG log

    @property
    def rest(self) -> bytes:
        """The unread bytes."""
        return self._data[self._offset :]

    def take(self, size: int) -> bytes:
        """Read bytes."""
        end = self._offset + size
        if end > len(self._data):
            raise invalid(f"{self._what} is too short.")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def uint(self, size: int) -> int:
        """Read an unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), self._order)

    def sized(self, size_bytes: int = 2) -> bytes:
        """Read bytes with a length prefix (TPM2B)."""
        return self.take(self.uint(size_bytes))

    def expect(self, size: int, value: int, name: str) -> None:
        """Read an integer that must have a given value."""
        if self.uint(size) != value:
            raise invalid(f"{self._what}: {name} is not {value:#x}.")

    def finish(self) -> None:
        """Require that all bytes have been read."""
        if self.rest:
            raise invalid(f"{self._what} has trailing bytes.")
