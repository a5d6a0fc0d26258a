"""The keys that the agent holds, in secret memory."""

from __future__ import annotations

from skragent.keyring.held import HeldKey, KeyRecord, hold_key, read_held_key
from skragent.keyring.ring import Entry, Keyring, KeyState

__all__ = [
    "Entry",
    "HeldKey",
    "KeyRecord",
    "KeyState",
    "Keyring",
    "hold_key",
    "read_held_key",
]
