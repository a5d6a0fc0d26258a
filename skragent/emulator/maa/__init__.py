"""Microsoft Azure Attestation."""
