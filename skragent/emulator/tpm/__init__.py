"""The virtual TPM: swtpm behind the functions that Azure's paravisor adds."""
