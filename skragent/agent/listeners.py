"""The agent's listening sockets: bound by the agent, or inherited from systemd.

The sockets are bound before the event loop and the first releaser start, so that a
second agent fails before it sends any request.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from skragent.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skragent.config import AgentConfig

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


class UnixSocket:
    """A listening Unix socket; a context manager that removes a socket that it bound.

    An inherited socket stays open: `signals_and_limits.has_connection` reads it later.
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
