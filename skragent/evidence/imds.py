"""The instance metadata service: where this VM is, who it is, who vouches for it."""

from __future__ import annotations


class ImdsClient:
    """Asks IMDS; every method once, with bounded time and bytes."""

    def __init__(self, endpoint: str, timeout_seconds: float) -> None:
        raise NotImplementedError

    def location(self) -> str:
        """Ask for the Azure region's name, such as `westeurope`."""
        raise NotImplementedError

    def vm_id(self) -> str:
        """Ask for the VM's unique id, a GUID."""
        raise NotImplementedError

    def endorsements(self) -> bytes:
        """Ask THIM for the VCEK chain; gives its raw answer."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections."""
        raise NotImplementedError
