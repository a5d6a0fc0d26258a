"""Room 2: what the verifier, Microsoft Azure Attestation, says."""
