"""How the emulated verifier judges evidence: bytes in, claims or a refusal out.

Written from the layouts of AMD, the TCG and Microsoft, and independent both of what
builds the evidence (the emulated VM) and of what checks it in the product, so that one
misreading cannot cancel itself out. No input or output, no clock.
"""
