"""An emulator of a confidential VM and of the Azure services around it."""
