"""Microsoft Entra ID."""
