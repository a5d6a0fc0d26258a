"""Files that a configuration or a command line names are read without waiting."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from skragent.files import NotRegularError, open_regular, read_regular, read_whole


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert read_regular(str(path), max_bytes=7) == b"content"


def test_a_symbolic_link_to_a_regular_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(str(tmp_path / "link"), max_bytes=7) == b"content"


def test_a_file_of_procfs_that_says_that_it_is_empty_is_read() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    assert b"Name:" in read_regular("/proc/self/status", max_bytes=65536)


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with pytest.raises(OSError, match="longer than 6 bytes") as caught:
        read_regular(str(path), max_bytes=6)
    assert caught.value.errno == errno.EFBIG


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotRegularError) as caught:
        open_regular(str(tmp_path / "fifo"))
    assert caught.value.strerror == "this is a FIFO, not a regular file"


def test_a_fifo_with_a_writer_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    end = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        with pytest.raises(NotRegularError):
            read_regular(str(tmp_path / "fifo"), max_bytes=100)
    finally:
        os.close(end)


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/dev/null", "a character device"), ("/dev/zero", "a character device")],
)
def test_a_device_is_refused(path: str, kind: str) -> None:
    with pytest.raises(NotRegularError, match=kind):
        read_regular(path, max_bytes=100)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotRegularError, match="a directory"):
        read_regular(str(tmp_path), max_bytes=100)


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        with pytest.raises(NotRegularError, match="a socket"):
            read_regular(str(tmp_path / "sock"), max_bytes=100)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_is_an_os_error(name: str) -> None:
    with pytest.raises(OSError, match="name"):
        read_regular(f"/{name}", max_bytes=100)


def test_a_missing_file_is_reported_in_the_words_of_the_system() -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_regular("/nonexistent/file", max_bytes=100)


def test_a_descriptor_is_not_leaked_for_what_is_refused(tmp_path: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(10):
        with pytest.raises(NotRegularError):
            open_regular(str(tmp_path))
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_file_that_has_nothing_to_read_yet_is_an_os_error() -> None:
    """An example is /proc/kmsg, which is a regular file."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb") as file, pytest.raises(BlockingIOError):
        read_whole(file, max_bytes=10)
    os.close(writer)
