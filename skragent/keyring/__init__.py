"""Room 4: what we hold, in secret memory."""

from __future__ import annotations

from skragent.keyring.held import HeldKey, hold_key
from skragent.keyring.ring import Entry, Keyring, KeyState

__all__ = ["Entry", "HeldKey", "KeyState", "Keyring", "hold_key"]
