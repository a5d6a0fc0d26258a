"""Azure Key Vault and Managed HSM: keys, permissions and release."""
