"""AMD's side of the VM: certificates and attestation reports."""
