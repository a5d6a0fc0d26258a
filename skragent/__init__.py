"""Secure Key Release for everyone on an Azure confidential VM."""

__version__ = "0.2.0"
