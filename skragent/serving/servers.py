"""The HTTP servers on api.sock and admin.sock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skragent.serving.admin import SOCKET as ADMIN_SOCKET
from skragent.serving.admin import AdminApi
from skragent.serving.admission import SHARED
from skragent.serving.api import SOCKET as API_SOCKET
from skragent.serving.api import KeyApi
from skragent.serving.listener import Listener

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from skragent.keyring import Keyring
    from skragent.observe import Counters
    from skragent.serving.access import Access
    from skragent.serving.admin import Control
    from skragent.serving.admission import Limits
    from skragent.serving.peers import Peer

# The time for peers to read responses when the agent stops; a stop takes 2 s in all.
CLOSE_SECONDS: Final = 1.0


class ApiServer:
    """Serves keys to workloads.

    Args:
        sock: api.sock, bound.
        keyring: the held keys.
        access: the access rules.
        counters: the counters of the agent.
        now: returns the wall time.
        due_at: returns the wall time of the next attempt to release a key; None if no
            attempt is planned.
        limits: the limits of the socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        keyring: Keyring,
        access: Access,
        counters: Counters,
        *,
        now: Callable[[], float],
        due_at: Callable[[str], float | None],
        limits: Limits | None = None,
    ) -> None:
        self._api = KeyApi(keyring, access, counters, now=now, due_at=due_at)
        self._listener = Listener(
            sock,
            self._api.handle,
            counters=counters,
            name=API_SOCKET,
            limits=limits,
            on_tick=self._api.tick,
        )
        self._listener.owner_of = self._owner_of
        self._use_access(access)
        self._keyring = keyring
        keyring.subscribe(self._abort_readers_of_dropped_key)

    async def start(self) -> None:
        """Begin to accept."""
        await self._listener.start()

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop accepting; give peers some seconds to read responses; close."""
        await self._listener.close(seconds)
        self._api.tick()

    def change_access(self, access: Access) -> None:
        """Use other rules from now on, also for open connections.

        If the old rules named no unit, open connections have no unit.
        """
        self._use_access(access)
        self._api.change_access(access)

    def change_limits(self, limits: Limits) -> None:
        """Use other limits from now on; open connections stay open."""
        self._listener.change_limits(limits)

    def _use_access(self, access: Access) -> None:
        self._access = access
        self._listener.wants_unit = access.wants_units
        self._listener.named_gids = access.gids

    def _owner_of(self, peer: Peer) -> int:
        return peer.uid if self._access.knows(peer) else SHARED

    def _abort_readers_of_dropped_key(self, alias: str) -> None:
        # The agent wipes a dropped key next. A peer that has read half of the key must
        # not get zeros. Few peers are that slow, so readers of other keys end as well.
        entry = self._keyring.get(alias)
        if entry is None or entry.key is None:
            self._listener.abort_sending()


class AdminServer:
    """Serves administrators.

    Args:
        sock: admin.sock, bound.
        keyring: the held keys.
        counters: the counters of the agent.
        control: the operations of the agent.
        limits: the limits of the socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        keyring: Keyring,
        counters: Counters,
        control: Control,
        *,
        limits: Limits | None = None,
    ) -> None:
        api = AdminApi(keyring, counters, control)
        self._listener = Listener(
            sock,
            api.handle,
            counters=counters,
            name=ADMIN_SOCKET,
            limits=limits,
            accepts_body=api.accepts_body,
        )

    async def start(self) -> None:
        """Begin to accept."""
        await self._listener.start()

    def change_limits(self, limits: Limits) -> None:
        """Use other limits from now on; open connections stay open."""
        self._listener.change_limits(limits)

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop accepting; give peers some seconds to read responses; close."""
        await self._listener.close(seconds)
