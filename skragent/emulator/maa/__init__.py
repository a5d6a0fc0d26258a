"""Microsoft Azure Attestation: service, tokens and appraisal of evidence."""
