"""Who was given what, and who was refused: a line in the journal for each kind.

Not one for each request: a workload may ask thousands of times a second, and a
hostile one would fill the journal. The numbers are in the metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skragent.observe import Event, log, names

if TYPE_CHECKING:
    from skragent.keyring import HeldKey
    from skragent.observe import Counters
    from skragent.serving.peers import Peer

# So many pairs of caller and key are remembered, and no more.
_REMEMBERED: Final = 4096


class Audit:
    """Remembers what was said already."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._served: dict[tuple[int, str, str, str, str], None] = {}
        self._denied: set[tuple[int, str, str]] = set()

    def forget_denials(self) -> None:
        """Say everything again: the rules changed."""
        self._denied.clear()

    def served(self, peer: Peer, key: HeldKey, operation: str) -> None:
        """Note that a caller is given a key: once for each version."""
        what = (peer.uid, peer.unit, key.alias, key.version, operation)
        if what in self._served:
            return
        if len(self._served) >= _REMEMBERED:
            del self._served[next(iter(self._served))]  # the one noted first
        self._served[what] = None
        half = "the public half of key" if operation == "public" else "key"
        log(
            Event.KEY_SERVED,
            f"{_who(peer)} was given {half} {key.alias}, version {key.version}",
            key=key.alias,
            version=key.version,
            operation=operation,
            uid=peer.uid,
            gid=peer.gid,
            pid=peer.pid,
            unit=peer.unit or None,
        )

    def denied(self, peer: Peer, alias: str | None) -> None:
        """Note that a caller is refused; `alias` is None where there is no such key."""
        self._counters.denied[names.DENIED_NO_RULE] += 1
        if alias is None:
            return
        who = (peer.uid, peer.unit, alias)
        if who in self._denied or len(self._denied) >= _REMEMBERED:
            return
        self._denied.add(who)
        log(
            Event.ACCESS_DENIED,
            f"{_who(peer)} asked for key {alias}, and no rule allows it",
            key=alias,
            uid=peer.uid,
            gid=peer.gid,
            pid=peer.pid,
            unit=peer.unit or None,
        )


def _who(peer: Peer) -> str:
    return f"uid {peer.uid}" + (f" in {peer.unit}" if peer.unit else "")
