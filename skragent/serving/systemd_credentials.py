"""credentials.sock: systemd asks for a unit with LoadCredential=NAME:SOCKET.

The protocol is: connect, read to the end. No request, no length, no error. So:

- Who asks is in the peer's address (`credential_address`), believed only of root.
- A connection that is closed unanswered is an empty credential, with which the unit
  *starts*. So none ever is: one that is accepted goes to systemd's store of
  descriptors first, and an agent that is killed finds it there when it comes back.
- systemd holds a copy then, so that close(2) alone would end nothing: shutdown(2) does.
- A refusal is more than the 1 MiB that a unit's credentials may have. It is the one
  thing that makes the unit fail (measured on systemd 252: 243/CREDENTIALS).
- An answer is one send(2) from secret memory: a killed agent cannot send half of it.
  What an agent may have answered already, its successor refuses (see `refusal`).

An orderly end refuses who still waits: it may be a `systemctl stop`, after which
systemd closes what it stores, and that again would be an empty credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Protocol

from skragent.observe import Event, log, names
from skragent.serving.acceptor import Acceptor
from skragent.serving.credential_address import (
    CredentialAddress,
    CredentialName,
    choose_credential_form,
    parse_address,
    parse_credential,
)
from skragent.serving.peers import identify
from skragent.serving.rejection import SEND_FLAGS, Rejection, end, has_begun, mark_begun

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from skragent.keyring import HeldKey, Keyring
    from skragent.observe import Counters
    from skragent.serving.access import Access

SOCKET: Final = "credentials"

# More stay in the backlog, and wait there; but systemd accepts and closes those, which
# is an empty credential, where somebody stops the agent with its sockets. So there are
# more than units that start at once. FileDescriptorStoreMax= of the unit has room.
MAX_CONNECTIONS: Final = 1024

# What an orderly end waits for refusals to be taken: TimeoutStopSec= is longer.
REFUSE_SECONDS: Final = 30.0


class Store(Protocol):
    """Where descriptors outlive us: systemd's, by sd_notify(3)."""

    def store_connection(self, fd: int) -> str:
        """Keep a copy of a descriptor; gives the name that it is kept under.

        The name is empty if it is not kept: then it does not outlive the agent.
        """
        ...

    def remove_fd(self, name: str) -> object:
        """Let go of it; nothing is done for an empty name."""
        ...


class _Asker:
    """One connection: a unit that wants one credential."""

    def __init__(self, sock: socket.socket, stored_as: str) -> None:
        self.sock = sock
        self.stored_as = stored_as
        self.address = CredentialAddress("", "")
        self.name = CredentialName("", None)
        self.deadline: asyncio.TimerHandle | None = None
        self.refusal: Rejection | None = None


class CredentialServer:
    """Serves credentials to systemd.

    Args:
        sock: credentials.sock, bound.
        keyring: what is held.
        access: who may have it.
        counters: what is counted.
        wait_seconds: how long a unit waits for a key that is not there yet.
        store: keeps connections while the agent is restarted.
        restored: what the agent before us had accepted, with the names in the store.
    """

    def __init__(
        self,
        sock: socket.socket,
        keyring: Keyring,
        access: Access,
        counters: Counters,
        *,
        wait_seconds: float,
        store: Store,
        restored: Sequence[tuple[str, socket.socket]] = (),
    ) -> None:
        self._acceptor = Acceptor(sock, self._accept)
        self._keyring = keyring
        self._access = access
        self._counters = counters
        self.wait_seconds = wait_seconds  # of those that come from now on
        self._store = store
        self._restored = list(restored)
        self._askers: dict[int, _Asker] = {}
        self._waiting: dict[str, set[_Asker]] = defaultdict(set)
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._gone = select.epoll()
        counters.connections[SOCKET] = counters.in_flight[SOCKET] = 0
        keyring.subscribe(self._on_change)

    async def start(self) -> None:
        """Go on with what was accepted before us, and begin to accept."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._gone.fileno(), self._on_gone)
        restored, self._restored = self._restored, []
        for stored_as, sock in restored:
            self._take_in(sock, stored_as)
        self._acceptor.start(self._loop)

    async def close(self, seconds: float = REFUSE_SECONDS) -> None:
        """Accept nobody more, and refuse who still waits."""
        self._acceptor.close()
        for asker in [a for lot in self._waiting.values() for a in lot]:
            self._refuse(asker, "serve.not_ready", "the agent is stopped")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        for asker in list(self._askers.values()):  # it does not read; nothing helps
            self._forget(asker)
        self._loop.remove_reader(self._gone.fileno())
        self._gone.close()

    def change_access(self, access: Access) -> None:
        """Use other rules from now on, also for units that wait."""
        self._access = access
        for alias in list(self._waiting):
            self._on_change(alias)

    def _accept(self, sock: socket.socket) -> None:
        self._take_in(sock, self._store.store_connection(sock.fileno()))
        if len(self._askers) >= MAX_CONNECTIONS:
            self._acceptor.pause()  # until one is gone

    def _take_in(self, sock: socket.socket, stored_as: str) -> None:
        sock.settimeout(0)
        asker = _Asker(sock, stored_as)
        self._askers[sock.fileno()] = asker
        self._counters.connections[SOCKET] = len(self._askers)
        self._is_empty.clear()
        # No event is asked for: EPOLLHUP comes all the same, when the other end is
        # closed wholly. systemd shuts its sending half down at once.
        self._gone.register(sock.fileno(), 0)
        refusal = self._identify(asker)
        if refusal is None and has_begun(sock):
            refusal = "serve.not_ready", "an agent was killed while it answered"
        if refusal:
            self._refuse(asker, *refusal)
        elif not self._answer(asker):
            self._wait(asker)

    def _identify(self, asker: _Asker) -> tuple[str, str] | None:
        """Learn who asks for what; gives the code and the words of a refusal."""
        try:
            peer = identify(asker.sock)
            address = parse_address(asker.sock.getpeername())
        except OSError:
            return "serve.denied", "the kernel does not tell who asks"
        if peer.uid != 0:
            return "serve.denied", f"uid {peer.uid} asked, who is not systemd"
        if address is None:
            return "serve.bad_request", "this is not how systemd asks"
        asker.address = address
        name = parse_credential(address.credential)
        if name is None:
            return "serve.denied", "a credential is KEY, KEY.pem, KEY.der or KEY.jwk"
        asker.name = name
        return None

    def _answer(self, asker: _Asker) -> bool:
        """Answer or refuse, where there is something to say."""
        alias = asker.name.alias
        entry = self._keyring.get(alias)
        if entry is None:
            self._refuse(asker, "serve.denied", "no such key is configured")
        elif not self._access.allows_unit(asker.address.unit, alias):
            self._refuse(asker, "serve.denied", "no rule allows it")
        elif entry.key is None:
            return False
        else:
            self._send(asker, entry.key)
        return True

    def _send(self, asker: _Asker, key: HeldKey) -> None:
        form = choose_credential_form(asker.name.form, key.forms)
        if form is None:
            self._refuse(
                asker,
                "serve.not_acceptable",
                f"a key of type {key.kty} has no such form",
            )
            return
        view = key.forms[form]
        mark_begun(asker.sock)
        try:
            sent = asker.sock.send(view, SEND_FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._forget(asker)  # the unit was stopped meanwhile
            return
        if sent != len(view):  # never seen: a socket holds more than any key
            self._refuse(asker, "internal", "the key was not taken at once")
            return
        self._note(
            asker,
            Event.CREDENTIAL_SERVED,
            names.CODE_OK,
            f"version {key.version} of key {key.alias} was given",
        )
        self._end(asker)

    def _wait(self, asker: _Asker) -> None:
        self._waiting[asker.name.alias].add(asker)
        self._counters.in_flight[SOCKET] += 1
        seconds = self.wait_seconds
        asker.deadline = self._loop.call_later(
            seconds, self._on_deadline, asker, seconds
        )

    def _on_deadline(self, asker: _Asker, seconds: float) -> None:
        entry = self._keyring.get(asker.name.alias)
        why = entry.failure_code if entry else ""
        what = f"the key did not come within {seconds:g} s"
        self._refuse(asker, "serve.not_ready", f"{what}: {why}" if why else what)

    def _on_change(self, alias: str) -> None:
        for asker in list(self._waiting.get(alias, ())):
            self._answer(asker)

    def _on_gone(self) -> None:
        for fd, _events in self._gone.poll(0):
            if asker := self._askers.get(fd):
                self._forget(asker)

    def _refuse(self, asker: _Asker, code: str, why: str) -> None:
        """Make the unit fail, and say why in the journal: systemd itself does not."""
        self._wait_no_more(asker)
        self._note(asker, Event.CREDENTIAL_REFUSED, code, why)
        asker.refusal = Rejection(asker.sock)
        self._send_refusal(asker, asker.refusal)

    def _send_refusal(self, asker: _Asker, refusal: Rejection) -> None:
        fd = asker.sock.fileno()
        if not refusal.send():
            self._loop.add_writer(fd, self._send_refusal, asker, refusal)
            return
        self._loop.remove_writer(fd)
        self._end(asker)

    def _end(self, asker: _Asker) -> None:
        """End a connection that was answered."""
        end(asker.sock)
        self._forget(asker)

    def _forget(self, asker: _Asker) -> None:
        self._wait_no_more(asker)
        fd = asker.sock.fileno()
        self._loop.remove_writer(fd)
        self._gone.unregister(fd)
        self._store.remove_fd(asker.stored_as)
        asker.sock.close()
        del self._askers[fd]
        self._counters.connections[SOCKET] = len(self._askers)
        if not self._askers:
            self._is_empty.set()
        self._acceptor.resume()

    def _wait_no_more(self, asker: _Asker) -> None:
        if asker.deadline is not None:
            asker.deadline.cancel()
            asker.deadline = None
            self._counters.in_flight[SOCKET] -= 1
            self._waiting[asker.name.alias].discard(asker)

    def _note(self, asker: _Asker, event: Event, code: str, what: str) -> None:
        self._counters.requests_cell(SOCKET, "get", code).value += 1
        unit, credential = asker.address
        log(
            event,
            f"credential {credential or '?'} of {unit or '?'}: {what}",
            unit=unit or None,
            credential=credential or None,
            key=asker.name.alias or None,
            code=code,
        )
