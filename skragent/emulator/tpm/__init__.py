"""The virtual TPM: swtpm, and the functions that the paravisor of Azure adds."""
