"""The verifier's appraisal of evidence: bytes in, claims or a refusal out.

The package is written from the layouts of AMD, the TCG and Microsoft. It shares no code
with the emulated VM that builds the evidence, nor with the product's parsers, so that
a misreading cannot cancel itself out. It has no input, output or clock.
"""
