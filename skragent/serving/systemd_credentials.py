"""credentials.sock: systemd connects for each unit with LoadCredential=NAME:SOCKET.

The protocol is: connect, and read to the end. There is no request, no length and no
error. So:

- The address of the peer names the unit and the credential (`credential_protocol`). The
  agent trusts it only from uid 0.
- A connection that closes without a response is an empty credential, and the unit
  *starts* with it. So the agent puts each accepted connection into systemd's descriptor
  store first. If the agent is killed, the next agent gets the connection back.
- systemd then has a copy of the descriptor, and close(2) alone does not end the
  connection. shutdown(2) does.
- A rejection is more bytes than a unit may have (`credential_protocol`).
- A response is one send(2) from secret memory, so a killed agent cannot have sent a
  part of it. If an earlier agent may have sent a response, the agent rejects.

An orderly stop rejects the units that still wait. It may be a `systemctl stop`, after
which systemd closes its stored descriptors, and that would be an empty credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Protocol

from skragent.observe import Event, log, names
from skragent.serving.acceptor import Acceptor
from skragent.serving.credential_protocol import (
    SEND_FLAGS,
    CredentialAddress,
    CredentialName,
    Rejection,
    choose_credential_form,
    end,
    has_begun,
    mark_begun,
    parse_address,
    parse_credential,
)
from skragent.serving.peers import identify

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from skragent.keyring import HeldKey, Keyring
    from skragent.observe import Counters
    from skragent.serving.access import Access

SOCKET: Final = "credentials"

# Further connections wait in the backlog. If an administrator stops the agent and its
# sockets, systemd closes the backlog, and each connection in it is an empty credential.
# So the limit is larger than the number of units that start at the same time.
# FileDescriptorStoreMax= of the unit is larger as well.
MAX_CONNECTIONS: Final = 1024

# The time for systemd to read rejections in an orderly stop: TimeoutStopSec= is longer.
REJECT_SECONDS: Final = 30.0


class Store(Protocol):
    """systemd's descriptor store, by sd_notify(3)."""

    def store_connection(self, fd: int) -> str:
        """Store a copy of a descriptor, and return its name in the store.

        The name is empty if the store rejects it. The connection then ends with the
        agent.
        """
        ...

    def remove_fd(self, name: str) -> object:
        """Remove a descriptor from the store. An empty name does nothing."""
        ...


class _Request:
    """One connection: a unit that loads one credential."""

    def __init__(self, sock: socket.socket, stored_as: str) -> None:
        self.sock = sock
        self.stored_as = stored_as
        self.address = CredentialAddress("", "")
        self.name = CredentialName("", None)
        self.deadline: asyncio.TimerHandle | None = None
        self.rejection: Rejection | None = None


class CredentialServer:
    """Serves credentials to systemd.

    Args:
        sock: credentials.sock, bound.
        keyring: the held keys.
        access: the access rules.
        counters: the counters of the agent.
        wait_seconds: the longest time that a unit waits for a key.
        store: keeps connections while the agent restarts.
        restored: connections of an earlier agent, with their names in the store.
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
        self.wait_seconds = wait_seconds  # for connections from now on
        self._store = store
        self._restored = list(restored)
        self._requests: dict[int, _Request] = {}
        self._waiting: dict[str, set[_Request]] = defaultdict(set)
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._hangups = select.epoll()
        counters.connections[SOCKET] = counters.in_flight[SOCKET] = 0
        keyring.subscribe(self._on_change)

    async def start(self) -> None:
        """Serve the connections of an earlier agent, and begin to accept."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._hangups.fileno(), self._on_hangup)
        restored, self._restored = self._restored, []
        for stored_as, sock in restored:
            self._take(sock, stored_as)
        self._acceptor.start(self._loop)

    async def close(self, seconds: float = REJECT_SECONDS) -> None:
        """Stop accepting, and reject the units that still wait."""
        self._acceptor.close()
        for request in [r for waiting in self._waiting.values() for r in waiting]:
            self._reject(request, "serve.not_ready", "the agent stops")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        for request in list(
            self._requests.values()
        ):  # systemd has not read the rejection in time
            self._forget(request)
        self._loop.remove_reader(self._hangups.fileno())
        self._hangups.close()

    def change_access(self, access: Access) -> None:
        """Use other rules from now on, also for units that wait."""
        self._access = access
        for alias in list(self._waiting):
            self._on_change(alias)

    def _accept(self, sock: socket.socket) -> None:
        self._take(sock, self._store.store_connection(sock.fileno()))
        if len(self._requests) >= MAX_CONNECTIONS:
            self._acceptor.pause()  # until a connection ends

    def _take(self, sock: socket.socket, stored_as: str) -> None:
        sock.settimeout(0)
        request = _Request(sock, stored_as)
        self._requests[sock.fileno()] = request
        self._counters.connections[SOCKET] = len(self._requests)
        self._is_empty.clear()
        # EPOLLHUP needs no registration. It comes when the peer has closed both
        # directions. systemd shuts its sending direction down at once.
        self._hangups.register(sock.fileno(), 0)
        rejection = self._identify(request)
        if rejection is None and has_begun(sock):
            why = "an earlier agent was killed while it sent the response"
            rejection = "serve.not_ready", why
        if rejection:
            self._reject(request, *rejection)
        elif not self._respond(request):
            self._wait(request)

    def _identify(self, request: _Request) -> tuple[str, str] | None:
        """Find the unit and the credential, or return the code and reason to reject."""
        try:
            peer = identify(request.sock)
            address = parse_address(request.sock.getpeername())
        except OSError:
            return "serve.denied", "the kernel does not identify the caller"
        if peer.uid != 0:
            return (
                "serve.denied",
                f"the caller has uid {peer.uid}, not uid 0",
            )
        if address is None:
            return (
                "serve.bad_request",
                "the address of the caller is not one of systemd",
            )
        request.address = address
        name = parse_credential(address.credential)
        if name is None:
            return "serve.denied", "its name must be KEY, KEY.pem, KEY.der or KEY.jwk"
        request.name = name
        return None

    def _respond(self, request: _Request) -> bool:
        """Send the key or a rejection; return False if the unit must wait."""
        alias = request.name.alias
        entry = self._keyring.get(alias)
        if entry is None:
            self._reject(request, "serve.denied", "no such key is configured")
        elif not self._access.allows_unit(request.address.unit, alias):
            self._reject(request, "serve.denied", "no rule allows it")
        elif entry.key is None:
            return False
        else:
            self._send(request, entry.key)
        return True

    def _send(self, request: _Request, key: HeldKey) -> None:
        form = choose_credential_form(request.name.form, key.forms)
        if form is None:
            self._reject(
                request,
                "serve.not_acceptable",
                f"a key of type {key.kty} has no such form",
            )
            return
        view = key.forms[form]
        mark_begun(request.sock)
        try:
            sent = request.sock.send(view, SEND_FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._forget(request)  # the unit was stopped
            return
        if sent != len(view):  # never seen: the buffer of a socket is larger than a key
            self._reject(request, "internal", "the socket did not accept the whole key")
            return
        self._log(
            request,
            Event.CREDENTIAL_SERVED,
            names.CODE_OK,
            f"served version {key.version} of key {key.alias}",
        )
        self._end(request)

    def _wait(self, request: _Request) -> None:
        self._waiting[request.name.alias].add(request)
        self._counters.in_flight[SOCKET] += 1
        seconds = self.wait_seconds
        request.deadline = self._loop.call_later(
            seconds, self._on_deadline, request, seconds
        )

    def _on_deadline(self, request: _Request, seconds: float) -> None:
        entry = self._keyring.get(request.name.alias)
        why = entry.failure_code if entry else ""
        what = f"the agent did not get the key within {seconds:g} s"
        self._reject(request, "serve.not_ready", f"{what}: {why}" if why else what)

    def _on_change(self, alias: str) -> None:
        for request in list(self._waiting.get(alias, ())):
            self._respond(request)

    def _on_hangup(self) -> None:
        for fd, _events in self._hangups.poll(0):
            if request := self._requests.get(fd):
                self._forget(request)

    def _reject(self, request: _Request, code: str, why: str) -> None:
        """Make the unit fail, and log the reason: systemd does not log it."""
        self._stop_waiting(request)
        self._log(request, Event.CREDENTIAL_REFUSED, code, why)
        request.rejection = Rejection(request.sock)
        self._send_rejection(request, request.rejection)

    def _send_rejection(self, request: _Request, rejection: Rejection) -> None:
        fd = request.sock.fileno()
        if not rejection.send():
            self._loop.add_writer(fd, self._send_rejection, request, rejection)
            return
        self._loop.remove_writer(fd)
        self._end(request)

    def _end(self, request: _Request) -> None:
        """End a connection after its response."""
        end(request.sock)
        self._forget(request)

    def _forget(self, request: _Request) -> None:
        self._stop_waiting(request)
        fd = request.sock.fileno()
        self._loop.remove_writer(fd)
        self._hangups.unregister(fd)
        self._store.remove_fd(request.stored_as)
        request.sock.close()
        del self._requests[fd]
        self._counters.connections[SOCKET] = len(self._requests)
        if not self._requests:
            self._is_empty.set()
        self._acceptor.resume()

    def _stop_waiting(self, request: _Request) -> None:
        if request.deadline is not None:
            request.deadline.cancel()
            request.deadline = None
            self._counters.in_flight[SOCKET] -= 1
            self._waiting[request.name.alias].discard(request)

    def _log(self, request: _Request, event: Event, code: str, what: str) -> None:
        self._counters.requests_cell(SOCKET, "get", code).value += 1
        unit, credential = request.address
        log(
            event,
            f"credential {credential or '?'} of {unit or '?'}: {what}",
            unit=unit or None,
            credential=credential or None,
            key=request.name.alias or None,
            code=code,
        )
