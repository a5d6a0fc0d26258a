from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from skragent.agent.listeners import ADMIN, API, UnixSocket, bind_metrics
from skragent.errors import ListenError

if TYPE_CHECKING:
    from pathlib import Path


def code_of(path: Path) -> str:
    with pytest.raises(ListenError) as caught:
        UnixSocket(API, str(path))
    return caught.value.code


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def test_the_socket_listens_at_once(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        assert connects(tmp_path / "s")


def test_the_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660


def test_the_umask_is_restored(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with UnixSocket(API, str(tmp_path / "s")):
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_the_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_agents_socket_is_not_removed_at_the_end(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        (tmp_path / "s").rename(tmp_path / "ours")
        (tmp_path / "s").touch()
    assert (tmp_path / "s").exists()


def test_a_socket_with_a_listener_is_not_replaced(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "s")):
        assert code_of(tmp_path / "s") == "listen.in_use"
        assert connects(tmp_path / "s")


def test_a_socket_without_a_listener_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    with UnixSocket(API, str(tmp_path / "s")):
        assert connects(tmp_path / "s")


def test_a_file_at_the_path_is_an_error_and_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    assert code_of(tmp_path / "s") == "listen.not_a_socket"
    assert (tmp_path / "s").read_text() == "precious"


def test_a_link_to_a_socket_is_an_error(tmp_path: Path) -> None:
    with UnixSocket(API, str(tmp_path / "real")):
        (tmp_path / "s").symlink_to(tmp_path / "real")
        assert code_of(tmp_path / "s") == "listen.not_a_socket"


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nowhere" / "s") == "listen.failed"


def test_a_path_that_is_too_long_for_a_socket_is_an_error(tmp_path: Path) -> None:
    assert code_of(tmp_path / ("s" * 120)) == "listen.failed"


def test_an_inherited_socket_is_used_and_its_file_is_kept(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as inherited:
        inherited.bind(str(tmp_path / "s"))
        inherited.listen()
        with UnixSocket(API, "/nowhere", inherited) as api:
            assert api.sock is inherited
        assert (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),  # not listening
    ],
)
def test_an_inherited_socket_of_another_kind_is_an_error(
    family: socket.AddressFamily, kind: socket.SocketKind
) -> None:
    with socket.socket(family, kind) as inherited:
        with pytest.raises(ListenError) as caught:
            UnixSocket(API, "/nowhere", inherited)
        assert caught.value.code == "listen.inherited"


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("[::1]", socket.AF_INET6)]
)
def test_the_metrics_listen_on_the_configured_address(
    host: str, family: socket.AddressFamily
) -> None:
    bound = bind_metrics(f"{host}:0")
    with bound:
        assert bound.family == family
        assert bound.getsockname()[0] == host.strip("[]")


def test_the_error_of_a_metrics_port_in_use_names_the_address() -> None:
    first = bind_metrics("127.0.0.1:0")
    with first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(ListenError) as caught:
            bind_metrics(address)
        assert caught.value.code == "listen.in_use"
        assert address in caught.value.message


def test_a_metrics_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(ListenError) as caught:
        bind_metrics("192.0.2.1:9469")
    assert caught.value.code == "listen.failed"


def test_only_its_owner_may_connect_to_the_admin_socket(tmp_path: Path) -> None:
    with UnixSocket(ADMIN, str(tmp_path / "s")):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
