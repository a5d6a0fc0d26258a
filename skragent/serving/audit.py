"""The audit log: served and denied keys, in the journal.

There is one line for each pair of caller and key, and not for each request, because a
workload may send thousands of requests per second and a hostile one would fill the
journal. The metrics count requests.

A denial is logged at the next tick, after its response. Otherwise the time of the
response would show whether the key exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skragent.config_rules import shown
from skragent.observe import Event, log, names

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.keyring import HeldKey
    from skragent.observe import Counters
    from skragent.serving.peers import Peer

# Pairs of caller and key that are not logged again. With more pairs, some lines repeat.
_MAX_LOGGED: Final = 4096
# Lines within a tick. The number of omitted lines is logged after them.
_MAX_LINES: Final = 50


class Audit:
    """Logs each pair of caller and key once."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._served: dict[tuple[int, str, str, str, str], None] = {}
        self._denied: set[tuple[int, str, str, bool]] = set()
        self._pending: list[Callable[[], None]] = []
        self._lines = 0  # in this tick
        self._omitted = 0

    def forget_denials(self) -> None:
        """Log denials again, because the rules have changed."""
        self._denied.clear()

    def tick(self) -> None:
        """Write the pending lines; called each second, and at the end."""
        pending, self._pending = self._pending, []
        for write in pending:
            write()
        if self._omitted:
            log(
                Event.ACCESS_UNSAID,
                f"{self._omitted} more lines about served and denied keys were omitted"
                " within one second",
                count=self._omitted,
            )
        self._lines = self._omitted = 0

    def served(self, peer: Peer, key: HeldKey, operation: str) -> None:
        """Log that a caller gets a key: once for each version."""
        pair = (peer.uid, peer.unit, key.alias, key.version, operation)
        if pair in self._served:
            return
        if len(self._served) >= _MAX_LOGGED:
            del self._served[next(iter(self._served))]  # the oldest
        self._served[pair] = None
        if not self._has_room():
            return
        half = "the public half of key" if operation == "public" else "key"
        log(
            Event.KEY_SERVED,
            f"{_caller(peer)} got {half} {key.alias}, version {key.version}",
            key=key.alias,
            version=key.version,
            operation=operation,
            uid=peer.uid,
            gid=peer.gid,
            pid=peer.pid,
            unit=peer.unit or None,
        )

    def denied(
        self, peer: Peer, name: str, operation: str, *, is_configured: bool
    ) -> None:
        """Log that a caller is denied: once for each key, and once for unknown keys."""
        self._counters.denied[names.DENIED_NO_RULE] += 1
        pair = (peer.uid, peer.unit, name if is_configured else "", is_configured)
        if pair in self._denied:
            return
        if len(self._denied) >= _MAX_LOGGED:
            self._denied.clear()
        self._denied.add(pair)
        if not self._has_room():
            return
        why = "no rule allows it" if is_configured else "no such key is configured"

        def write() -> None:
            log(
                Event.ACCESS_DENIED,
                f"{_caller(peer)} was denied key {shown(name)}: {why}",
                key=name if is_configured else None,
                operation=operation,
                uid=peer.uid,
                gid=peer.gid,
                pid=peer.pid,
                unit=peer.unit or None,
            )

        self._pending.append(write)

    def _has_room(self) -> bool:
        if self._lines >= _MAX_LINES:
            self._omitted += 1
            return False
        self._lines += 1
        return True


def _caller(peer: Peer) -> str:
    return f"uid {peer.uid}" + (f" in {peer.unit}" if peer.unit else "")
