"""How much the verifier may answer. Apart, so that asking needs none of the parsers."""

from __future__ import annotations

from typing import Final

MAX_ANSWER_BYTES: Final = 256 * 1024  # sealed tokens seen have 12 kB
MAX_KEY_SET_BYTES: Final = 512 * 1024  # sets seen have about 10 kB
