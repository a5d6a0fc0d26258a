"""Secure Key Release agent for Azure confidential VMs."""

__version__ = "0.2.0"
