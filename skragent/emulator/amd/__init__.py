"""The AMD parts of the VM: the chip, its certificates and attestation reports."""
