"""`skragent get` against a substitute of the agent: a socket with fixed answers."""

from __future__ import annotations

import os
import pty
import resource
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.scripted_agent import KEY, agent, key, problem

from skragent import exit_codes
from skragent.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let no file grow beyond this; a full disk fails at the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def get(path: Path, *more: str) -> int:
    return main(["get", "disk", "--socket", str(path), *more])


def test_the_key_goes_to_stdout_as_it_is(
    path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with agent(path, key(b"application/octet-stream")):
        assert get(path, "--format", "raw") == exit_codes.OK
    assert capfdbinary.readouterr() == (KEY, b"")


@pytest.mark.parametrize(
    ("form", "media_type"),
    [
        ("jwk", b"application/jwk+json"),
        ("pem", b"application/x-pem-file"),
        ("der", b"application/pkcs8"),
        ("raw", b"application/octet-stream"),
    ],
)
def test_the_format_is_asked_for(
    path: Path, tmp_path: Path, form: str, media_type: bytes
) -> None:
    out = tmp_path / "out"
    with agent(path, key(media_type)) as requests:
        assert get(path, "--format", form, "--output", str(out)) == exit_codes.OK
    assert b"Accept: " + media_type in requests[0]


def test_the_version_is_asked_for(path: Path, tmp_path: Path) -> None:
    with agent(path, key()) as requests:
        get(path, "--version", "abc", "--output", str(tmp_path / "out"))
    assert requests[0].startswith(b"GET /v1/keys/disk?version=abc ")


def test_the_socket_may_be_taken_from_the_configuration(
    path: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    config = tmp_path / "skragent.toml"
    config.write_text(
        f'[agent]\napi_socket = "{path}"\n[keys.disk]\nvault = "https://v.example"\n'
    )
    with agent(path, key()):
        assert main(["get", "disk", "--config", str(config)]) == exit_codes.OK
    assert capfdbinary.readouterr().out == KEY


def test_an_output_file_is_for_its_owner_alone(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with agent(path, key()):
        assert get(path, "--output", str(out)) == exit_codes.OK
    assert out.read_bytes() == KEY
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_an_output_file_is_replaced_as_a_whole(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    out.chmod(0o644)
    with out.open() as reader, agent(path, key()):
        get(path, "--output", str(out))
        assert reader.read() == "before"
    assert out.read_bytes() == KEY
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["directory", "link", "dangling link", "pipe"])
def test_an_output_other_than_a_regular_file_is_rejected_and_kept(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    out, target = tmp_path / "out", tmp_path / "target"
    if kind == "directory":
        out.mkdir()
    elif kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to(target)
    if kind == "link":
        target.write_text("before")
    before = out.lstat()
    code = get(path, "--output", str(out))  # without a request
    assert code == exit_codes.CANTCREAT
    assert "not a regular file" in capsys.readouterr().err
    assert out.lstat() == before
    assert not target.exists() or target.read_text() == "before"


def test_an_output_that_cannot_be_written_leaves_nothing_behind(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with limited_files(len(KEY) - 1), agent(path, key()):
        code = get(path, "--output", str(tmp_path / "out"))
    assert code == exit_codes.CANTCREAT
    assert "output: " in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def test_a_directory_that_is_not_there_is_told_before_a_key_is_asked_for(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none" / "out"
    assert get(path, "--wait", "60", "--output", str(out)) == exit_codes.CANTCREAT
    said = capsys.readouterr().err
    assert said == f"skragent: output: {out}: No such file or directory\n"


@pytest.mark.parametrize("output", ["", "dir/", "."])
def test_an_output_that_names_no_file_is_a_mistake(path: Path, output: str) -> None:
    with pytest.raises(SystemExit) as caught:
        get(path, "--output", output)
    assert caught.value.code == exit_codes.USAGE


def test_a_dash_is_stdout(
    path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with agent(path, key()):
        assert get(path, "--output", "-") == exit_codes.OK
    assert capfdbinary.readouterr().out == KEY


def test_a_key_file_stays_as_it_was_where_the_answer_is_none(
    path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    nothing = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
    with agent(path, nothing):
        assert get(path, "--output", str(out)) == exit_codes.UNAVAILABLE
    assert out.read_text() == "before"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(404, "serve.denied"), exit_codes.NOPERM),
        (problem(503, "serve.not_ready"), exit_codes.TEMPFAIL),
        (problem(406, "serve.not_acceptable"), exit_codes.UNAVAILABLE),
        (b"nonsense\r\n\r\n", exit_codes.UNAVAILABLE),
    ],
)
def test_a_refusal_has_its_exit_code(
    path: Path, answer: bytes, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with agent(path, answer):
        assert get(path) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("skragent: ")


def test_without_an_agent_it_is_said_where_there_is_none(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(path) == exit_codes.TEMPFAIL
    assert str(path) in capsys.readouterr().err


def test_waiting_ends_when_the_key_is_there(
    path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    not_yet = problem(503, "serve.not_ready")
    with agent(path, not_yet, not_yet, key()):
        assert get(path, "--wait", "10") == exit_codes.OK
    assert capfdbinary.readouterr().out == KEY


def test_waiting_does_not_wait_for_what_will_not_come(path: Path) -> None:
    with agent(path, problem(404, "serve.denied")):
        assert get(path, "--wait", "10") == exit_codes.NOPERM


def test_waiting_ends_at_its_deadline(path: Path) -> None:
    assert get(path, "--wait", "0.02") == exit_codes.TEMPFAIL


@pytest.mark.parametrize(
    ("seconds", "asked"), [("1000", b"?wait=300.000 "), ("20", b"?wait=")]
)
def test_the_agent_itself_holds_the_request_as_long_as_it_can(
    path: Path, tmp_path: Path, seconds: str, asked: bytes
) -> None:
    with agent(path, key()) as requests:
        get(path, "--wait", seconds, "--output", str(tmp_path / "out"))
    assert asked in requests[0]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bytes]]:
    """Give each file that was written to the disk, and what was in it then."""
    files: list[tuple[Path, bytes]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        file = Path(f"/proc/self/fd/{fd}")
        files.append((file.readlink(), file.read_bytes()))
        real(fd)

    monkeypatch.setattr("os.fsync", fsync)
    return files


def test_a_key_file_is_on_the_disk_before_it_takes_its_place(
    path: Path, tmp_path: Path, synced: list[tuple[Path, bytes]]
) -> None:
    out = tmp_path / "out"
    with agent(path, key()):
        assert get(path, "--output", str(out)) == exit_codes.OK
    ((file, content),) = synced
    assert content == KEY
    assert file != out


def test_a_key_file_is_written_beside_the_one_that_it_replaces(
    path: Path, tmp_path: Path, synced: list[tuple[Path, bytes]]
) -> None:
    with agent(path, key()):
        get(path, "--output", str(tmp_path / "out"))
    ((file, _),) = synced
    assert file.parent == tmp_path  # of another filesystem it could not be renamed


@contextmanager
def on_a_terminal(*words: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run the command with stdout on a terminal; yields the terminal's other end."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "skragent.cli.main", *words],
        stdout=theirs,
        stderr=subprocess.PIPE,
    ) as command:
        os.close(theirs)
        try:
            yield ours, command
        finally:
            command.kill()
            os.close(ours)


def test_a_private_key_on_a_terminal_follows_a_warning(path: Path) -> None:
    words = ("get", "disk", "--socket", str(path))
    with agent(path, key()), on_a_terminal(*words) as (terminal, command):
        assert os.read(terminal, 100) == KEY
        _, said = command.communicate(timeout=DEADLINE_SECONDS)
    assert said == b"skragent: a private key follows on this terminal\n"


def test_a_private_key_in_a_pipe_follows_no_warning(path: Path, tmp_path: Path) -> None:
    words = ("get", "disk", "--socket", str(path), "--output", str(tmp_path / "out"))
    with agent(path, key()), on_a_terminal(*words) as (_, command):
        _, said = command.communicate(timeout=DEADLINE_SECONDS)
    assert said == b""
