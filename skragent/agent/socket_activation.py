"""The agent's listening sockets: inherited from systemd, or bound with care.

No event loop here: they are bound before the first releaser starts, so that a second
agent is refused before it has asked anybody for anything.
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

# Less than TimeoutStartSec=, and long enough for a busy machine to read it all.
REFUSE_SECONDS: Final = 30.0

# What the names of stored descriptors begin with: connections of units that wait for a
# credential, and memory of held keys.
CREDENTIAL_PREFIX: Final = "credential-"
KEY_PREFIX: Final = "key-"

_MAX_SHOWN: Final = 20  # characters of a variable

_BACKLOG: Final = 1024
_PROBE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class SocketKind:
    """One of the agent's Unix sockets, as skragent.socket describes it too."""

    name: str  # FileDescriptorName=
    setting: str  # in the configuration's [agent]
    mode: int
    group: str = ""  # who may connect at all; rules decide the rest


API: Final = SocketKind("api", "api_socket", 0o660, "skragent")
CREDENTIALS: Final = SocketKind("credentials", "credentials_socket", 0o600)
ADMIN: Final = SocketKind("admin", "admin_socket", 0o600)


@dataclass(frozen=True, slots=True)
class Inherited:
    """What systemd hands over when it starts us."""

    listeners: Mapping[str, socket.socket]  # by FileDescriptorName=
    credentials: tuple[tuple[str, socket.socket], ...] = ()  # stored connections
    keys: tuple[tuple[str, int], ...] = ()  # stored memory of held keys: descriptors


def inherited_sockets(environment: Mapping[str, str]) -> Inherited:
    """Take the sockets that systemd listens on or stores for us, by their names.

    Source: sd_listen_fds(3). They are taken once: the variables are unset. What has a
    name that is nobody's is closed: a descriptor that was stored is not stored again.
    A file of OpenFile= is closed, too: only sockets are listened on.

    Raises:
        ListenError: listen.inherited: the variables are not as systemd writes them.
    """
    if "LISTEN_FDS" not in environment:
        return Inherited({})
    from systemd.daemon import listen_fds_with_names  # noqa: PLC0415 - see above

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
    """Take a descriptor as a socket; close what is none."""
    try:
        return socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None


class UnixSocket:
    """A listening Unix socket; a context manager that removes what it made.

    One that was inherited is left open: who cannot go on looks whether somebody waits.
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
        # Only if it is ours still: another agent may have come in between.
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


@dataclass(frozen=True, slots=True)
class Sockets:
    """All that the agent listens on."""

    api: socket.socket
    credentials: socket.socket | None
    admin: socket.socket | None


@contextlib.contextmanager
def open_sockets(
    config: AgentConfig, inherited: Mapping[str, socket.socket]
) -> Iterator[Sockets]:
    """Listen on everything that is configured, or on what systemd hands over.

    Raises:
        ListenError: one cannot be had; what was made is removed again.
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
    """Listen for scrapers on HOST:PORT.

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
    _make_way(path, kind)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Until it has its group and its mode nobody else can connect.
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


def _make_way(path: Path, kind: SocketKind) -> None:
    """Remove a socket that nobody listens on any more, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failure(str(path), error) from error
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"{path} is there already and is no socket",
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
        hint="`systemctl status skragent` tells whether the service runs.",
    )


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _failure(str(path), error) from error


def _require_listener(sock: socket.socket, kind: SocketKind) -> None:
    """Refuse a unit file that hands over something else than our socket."""
    is_ours = (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    if not is_ours or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ListenError(
            "the socket that was handed over is no listening Unix stream socket",
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
        hint="Something else listens there: `ss -lntp` tells what."
        if in_use
        else "The directory must be there, and be ours to write in.",
    )


def refuse_orphans(connections: Iterable[socket.socket], clock: Clock) -> None:
    """Refuse all of them, and wait until that is taken."""
    from skragent.serving.credential_protocol import Rejection, end  # noqa: PLC0415 - seldom

    deadline = clock.boottime() + REFUSE_SECONDS
    open_ones = [sock for sock in connections if sock.fileno() >= 0]
    left = {sock.fileno(): (sock, Rejection(sock)) for sock in open_ones}
    poll = select.poll()
    for fd in left:
        poll.register(fd, select.POLLOUT)
    while left and (seconds := deadline - clock.boottime()) > 0:
        for fd, _event in poll.poll(seconds * 1000):
            sock, refusal = left[fd]
            if refusal.send():
                end(sock)
                poll.unregister(fd)
                del left[fd]
