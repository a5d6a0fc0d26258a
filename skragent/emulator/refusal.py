"""How a service says no, before it is put into that service's envelope."""

from __future__ import annotations


class RefusalError(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        code: the service's own code, such as `InvalidParameter`.
        message: what it tells the client.
        inner: the code of Key Vault's `innererror`, where there is one.
        headers: extra headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner
        self.headers = headers or {}
