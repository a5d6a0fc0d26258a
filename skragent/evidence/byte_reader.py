"""A cursor over bytes, by which the parsers of this package read every field.

Every read is bounds-checked. A read beyond the end raises `MalformedEvidenceError` with
the name of the structure.
"""

from __future__ import annotations

from typing import Literal

from skragent.errors import MalformedEvidenceError


class Reader:
    """Reads integers and byte strings from front to back.

    Args:
        data: the whole structure.
        what: the structure's name, for messages.
        order: the byte order of integers: big for TPM 2.0, little for AMD, HCL, TCG.
    """

    def __init__(
        self, data: bytes, what: str, order: Literal["big", "little"] = "big"
    ) -> None:
        self._data = data
        self._at = 0
        self._what = what
        self._order = order

    @property
    def position(self) -> int:
        """The number of bytes read so far."""
        return self._at

    @property
    def left(self) -> int:
        """The number of bytes that remain."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """Read exactly `size` bytes."""
        if size > self.left:
            raise MalformedEvidenceError(
                f"{self._what} is cut short: {size} bytes wanted at offset {self._at},"
                f" {self.left} left"
            )
        start = self._at
        self._at += size
        return self._data[start : self._at]

    def number(self, size: int) -> int:
        """Read an unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), self._order)

    def sized(self) -> bytes:
        """Read a TPM2B: a two-byte size, then as many bytes."""
        return self.take(self.number(2))

    def end(self) -> None:
        """Raise an error if bytes remain."""
        if self.left:
            raise MalformedEvidenceError(
                f"{self._what} has {self.left} bytes too many at its end"
            )
