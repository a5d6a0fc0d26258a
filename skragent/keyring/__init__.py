"""The keys that the agent holds, in secret memory."""

from __future__ import annotations

from skragent.keyring.held import HeldKey, PreservedRecord, hold_key, read_held_key
from skragent.keyring.ring import Entry, Keyring, KeyState

__all__ = [
    "Entry",
    "HeldKey",
    "KeyState",
    "Keyring",
    "PreservedRecord",
    "hold_key",
    "read_held_key",
]
