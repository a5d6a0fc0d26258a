"""Who was given what, and who was refused: a line in the journal for each kind.

Not one for each request: a workload may ask thousands of times a second, and a
hostile one would fill the journal. The numbers are in the metrics.

A refusal is written at the next tick and not before its answer: who is refused could
tell by the time which names exist.
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

# So many pairs of caller and key are remembered; beyond it, something is said twice.
_REMEMBERED: Final = 4096
# What is written within a tick; beyond it, how much there was is said.
_LINES: Final = 50


class Audit:
    """Remembers what was said already."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._served: dict[tuple[int, str, str, str, str], None] = {}
        self._denied: set[tuple[int, str, str, bool]] = set()
        self._to_say: list[Callable[[], None]] = []
        self._lines = 0  # in this tick
        self._unsaid = 0

    def forget_denials(self) -> None:
        """Say everything again: the rules changed."""
        self._denied.clear()

    def tick(self) -> None:
        """Write what is to be said; called each second, and at the end."""
        to_say, self._to_say = self._to_say, []
        for say in to_say:
            say()
        if self._unsaid:
            log(
                Event.ACCESS_UNSAID,
                f"{self._unsaid} more callers were given keys or refused within a"
                " second than are written down",
                count=self._unsaid,
            )
        self._lines = self._unsaid = 0

    def served(self, peer: Peer, key: HeldKey, operation: str) -> None:
        """Note that a caller is given a key: once for each version."""
        what = (peer.uid, peer.unit, key.alias, key.version, operation)
        if what in self._served:
            return
        if len(self._served) >= _REMEMBERED:
            del self._served[next(iter(self._served))]  # the one noted first
        self._served[what] = None
        if not self._has_room():
            return
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

    def denied(
        self, peer: Peer, name: str, operation: str, *, is_configured: bool
    ) -> None:
        """Note that a caller is refused: once for each key, and once for no key."""
        self._counters.denied[names.DENIED_NO_RULE] += 1
        who = (peer.uid, peer.unit, name if is_configured else "", is_configured)
        if who in self._denied:
            return
        if len(self._denied) >= _REMEMBERED:
            self._denied.clear()
        self._denied.add(who)
        if not self._has_room():
            return
        why = "no rule allows it" if is_configured else "there is no such key"

        def say() -> None:
            log(
                Event.ACCESS_DENIED,
                f"{_who(peer)} asked for key {shown(name)}, and {why}",
                key=name if is_configured else None,
                operation=operation,
                uid=peer.uid,
                gid=peer.gid,
                pid=peer.pid,
                unit=peer.unit or None,
            )

        self._to_say.append(say)

    def _has_room(self) -> bool:
        if self._lines >= _LINES:
            self._unsaid += 1
            return False
        self._lines += 1
        return True


def _who(peer: Peer) -> str:
    return f"uid {peer.uid}" + (f" in {peer.unit}" if peer.unit else "")
