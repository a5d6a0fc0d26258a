"""Attestation: exchange evidence for a token of Microsoft Azure Attestation (MAA).

RFC 9334 calls MAA the Verifier and the token an Attestation Result. `maa` sends the
requests, `guest` encodes and decodes their bodies, `token` verifies the token, and
`regions` lists the shared providers.
"""

from __future__ import annotations

from typing import Final

# Limits of responses. They are here because `maa` imports no parser and `guest` no
# network library.
MAX_RESPONSE_BYTES: Final = 256 * 1024  # observed: 12 kB, with a sealed token
MAX_KEY_SET_BYTES: Final = 512 * 1024  # observed: 10 kB
