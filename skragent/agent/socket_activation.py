"""The agent's sockets: inherited from systemd (sd_listen_fds(3)), or bound by itself.

The sockets are bound before the event loop and the first releaser start, so that a
second agent fails before it sends any request.

An agent that cannot start rejects the credential connections that it inherited. systemd
would close them after the failure, and each of those units would start with an empty
credential.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import select
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from skragent.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from skragent.agent.clock import Clock
    from skragent.config import AgentConfig

# Less than TimeoutStartSec=, and long enough for a busy machine to read a rejection.
REJECT_SECONDS: Final = 30.0

# The first part of the names of stored descriptors: connections of units that wait for
# a credential, and memory of held keys.
CREDENTIAL_PREFIX: Final = "credential-"
KEY_PREFIX: Final = "key-"

_MAX_SHOWN: Final = 20  # characters of a variable

_BACKLOG: Final = 1024
_PROBE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class SocketKind:
    """One of the agent's Unix sockets, as in skragent.socket."""

    name: str  # FileDescriptorName=
    setting: str  # in the configuration's [agent]
    mode: int
    group: str = ""  # may connect; access rules decide about keys


API: Final = SocketKind("api", "api_socket", 0o660, "skragent")
CREDENTIALS: Final = SocketKind("credentials", "credentials_socket", 0o600)
ADMIN: Final = SocketKind("admin", "admin_socket", 0o600)


@dataclass(frozen=True, slots=True)
class Inherited:
    """The descriptors that systemd passes to the agent."""

    listeners: Mapping[str, socket.socket]  # by FileDescriptorName=
    credentials: tuple[tuple[str, socket.socket], ...] = ()  # stored connections
    keys: tuple[tuple[str, int], ...] = ()  # descriptors of the memory of held keys


def inherited_sockets(environment: Mapping[str, str]) -> Inherited:
    """Return the descriptors that systemd passes, and unset its variables.

    See sd_listen_fds(3). A descriptor that is neither a socket nor a held key's memory,
    such as a file of OpenFile=, is closed.

    Raises:
        ListenError: listen.inherited: the variables are malformed.
    """
    if "LISTEN_FDS" not in environment:
        return Inherited({})
    from systemd.daemon import listen_fds_with_names  # noqa: PLC0415 - only if systemd started the agent

    listeners: dict[str, socket.socket] = {}
    credentials: list[tuple[str, socket.socket]] = []
    keys: list[tuple[str, int]] = []
    try:
        passed = listen_fds_with_names(unset_environment=True)
    except (OSError, ValueError) as error:
        raise ListenError(
            f"LISTEN_FDS {environment['LISTEN_FDS'][:_MAX_SHOWN]!r} cannot be used:"
            f" {error}",
            code="listen.inherited",
            hint="If systemd did not start the agent, unset LISTEN_FDS.",
        ) from error
    for fd, name in sorted(passed.items()):
        if name.startswith(KEY_PREFIX):
            keys.append((name, fd))
        elif (sock := _socket_of(fd)) is None:
            continue
        elif name.startswith(CREDENTIAL_PREFIX):
            credentials.append((name, sock))
        else:
            listeners[name] = sock
    return Inherited(listeners, tuple(credentials), tuple(keys))


def _socket_of(fd: int) -> socket.socket | None:
    """Return a descriptor as a socket; close it if it is not one."""
    try:
        return socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None


class UnixSocket:
    """A listening Unix socket; a context manager that removes a socket that it bound.

    An inherited socket stays open: `process_control.has_connection` reads it later.
    """

    def __init__(
        self, kind: SocketKind, path: str, inherited: socket.socket | None = None
    ) -> None:
        self._path: Path | None = None
        self._inode = 0
        if inherited is not None:
            _require_listener(inherited, kind)
            self.sock = inherited
        else:
            self.sock = _bind(Path(path), kind)
            self._path = Path(path)
            self._inode = self._path.stat().st_ino

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is None:
            return
        self.sock.close()
        # Another agent may have replaced the socket.
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


@dataclass(frozen=True, slots=True)
class Sockets:
    """The agent's listening sockets."""

    api: socket.socket
    credentials: socket.socket | None
    admin: socket.socket | None


@contextlib.contextmanager
def open_sockets(
    config: AgentConfig, inherited: Mapping[str, socket.socket]
) -> Iterator[Sockets]:
    """Listen on the configured sockets, or on those from systemd.

    Raises:
        ListenError: a socket cannot be bound. Sockets that were bound are removed.
    """
    with contextlib.ExitStack() as stack:

        def listen(kind: SocketKind) -> socket.socket:
            path = getattr(config, kind.setting)
            unix = UnixSocket(kind, path, inherited.get(kind.name))
            return stack.enter_context(unix).sock

        def listen_if_wanted(kind: SocketKind) -> socket.socket | None:
            is_wanted = kind.name in inherited or getattr(config, kind.setting)
            return listen(kind) if is_wanted else None

        yield Sockets(
            api=listen(API),
            credentials=listen_if_wanted(CREDENTIALS),
            admin=listen_if_wanted(ADMIN),
        )


def bind_metrics(address: str) -> socket.socket:
    """Listen on HOST:PORT.

    Raises:
        ListenError: listen.in_use, listen.failed
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family)
    except OSError as error:
        raise _failure(f"the metrics address {address}", error) from error


def _bind(path: Path, kind: SocketKind) -> socket.socket:
    _remove_stale_socket(path, kind)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Other users cannot connect before the group and the mode are set.
        with _umask(0o177):
            sock.bind(str(path))
        if kind.group:
            with contextlib.suppress(KeyError, PermissionError):
                os.chown(path, -1, grp.getgrnam(kind.group).gr_gid)
        path.chmod(kind.mode)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _failure(str(path), error) from error
    return sock


def _remove_stale_socket(path: Path, kind: SocketKind) -> None:
    """Remove a socket on which no process listens. Other files are not removed."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failure(str(path), error) from error
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"{path} exists and is not a socket",
            code="listen.not_a_socket",
            hint=f"Move it away, or set agent.{kind.setting} to another path.",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            _unlink(path)
            return
        except OSError as error:
            raise _failure(str(path), error) from error
    raise ListenError(
        f"{path}: another agent listens there",
        code="listen.in_use",
        hint="`systemctl status skragent` shows whether the service runs.",
    )


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _failure(str(path), error) from error


def _require_listener(sock: socket.socket, kind: SocketKind) -> None:
    """Check that a descriptor from systemd is a listening Unix stream socket."""
    is_ours = (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    if not is_ours or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ListenError(
            "the inherited socket is not a listening Unix stream socket",
            code="listen.inherited",
            hint=f"FileDescriptorName={kind.name} needs ListenStream=PATH.",
        )


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _failure(what: str, error: OSError) -> ListenError:
    in_use = error.errno == errno.EADDRINUSE
    return ListenError(
        f"cannot listen on {what}: {error.strerror or error}",
        code="listen.in_use" if in_use else "listen.failed",
        hint="Another process listens there: `ss -lntp` shows which one."
        if in_use
        else "The directory must exist, and the agent must be able to write in it.",
    )


def reject_connections(connections: Iterable[socket.socket], clock: Clock) -> None:
    """Reject all connections, and wait until the rejections are read."""
    from skragent.serving.credential_protocol import Rejection, end  # noqa: PLC0415 - rare

    deadline = clock.boottime() + REJECT_SECONDS
    connected = [sock for sock in connections if sock.fileno() >= 0]
    left = {sock.fileno(): (sock, Rejection(sock)) for sock in connected}
    poll = select.poll()
    for fd in left:
        poll.register(fd, select.POLLOUT)
    while left and (seconds := deadline - clock.boottime()) > 0:
        for fd, _event in poll.poll(seconds * 1000):
            sock, rejection = left[fd]
            if rejection.send():
                end(sock)
                poll.unregister(fd)
                del left[fd]
