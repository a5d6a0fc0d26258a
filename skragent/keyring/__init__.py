"""Held keys, in secret memory."""

from __future__ import annotations

from skragent.keyring.held_keys import HeldKey, PreservedRecord, hold_key, read_held_key
from skragent.keyring.keyring import Entry, Keyring, KeyState

__all__ = [
    "Entry",
    "HeldKey",
    "KeyState",
    "Keyring",
    "PreservedRecord",
    "hold_key",
    "read_held_key",
]
