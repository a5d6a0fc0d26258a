"""The commands where a stream, an argument or a file is not as usual."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import COMMANDS
from support.deadlines import DEADLINE_SECONDS
from support.scripted_agent import agent, document
from support.serving import ALIAS, FORMS, held_key, ring_with
from support.serving_server import serving

from skragent import exit_codes
from skragent.cli.main import main
from skragent.config import MAX_CONFIG_BYTES
from skragent.job import Form

GOOD = (
    '[vtpm]\ntcti = "swtpm"\n[keys.disk]\nvault = "https://v.example"\n'
    f"allow = [{{ user = {os.getuid()} }}]\n"
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "skragent.toml"
    path.write_text(GOOD)
    return path


def shell(redirection: str, *words: str) -> tuple[int, str]:
    """Run a command with a stream redirected; gives its exit code and its stderr."""
    outcome = subprocess.run(
        [
            *("sh", "-c", f'"$@" {redirection}', "sh"),
            *(sys.executable, "-I", "-m", "skragent.cli.main", *words),
        ],
        stderr=subprocess.PIPE,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return outcome.returncode, outcome.stderr.decode()


def test_a_command_may_run_with_its_stdout_closed(config: Path) -> None:
    assert shell(">&-", "check-config", "--config", str(config)) == (0, "")


@pytest.mark.parametrize("words", [("refresh", "--wait"), ("status",)])
def test_an_agent_may_be_asked_with_stdout_closed(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    key = {
        "name": "db",
        "state": "current",
        "version": "0" * 32,
        "released_at": 0,
        "attempts": 1,
    }
    status = {"version": "1", "state": "ready", "keys": [key], "started_at": 1}
    order = {"refreshing": ["db"], "attempts": {"db": 0}, "started_at": 1}
    answers = [document(status)]
    if words[0] == "refresh":
        answers.insert(0, document(order).replace(b"200 OK", b"202 Accepted", 1))
    path = tmp_path / "s"
    with agent(path, *answers):
        assert shell(">&-", *words, "--socket", str(path)) == (0, "")


# Each as a person may have it: no locale, and one of ISO 8859-1 (which the machine
# need not have: this is what Python makes of it).
LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "iso8859-1:strict"},
    {"PYTHONIOENCODING": "ascii:strict"},
]


def in_locale(locale: dict[str, str], *words: str) -> tuple[int, str, str]:
    """Run a command; gives its exit code and what it printed."""
    outcome = subprocess.run(
        [sys.executable, "-m", "skragent.cli.main", *words],
        capture_output=True,
        env={"PATH": os.environ["PATH"]} | locale,
        cwd=Path(__file__).parents[2],
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return outcome.returncode, outcome.stdout.decode("ascii"), outcome.stderr.decode()


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_in_any_locale(locale: dict[str, str], command: str) -> None:
    code, out, err = in_locale(locale, command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: skragent {command} ")


def test_a_character_that_the_locale_does_not_have_is_written_in_ascii() -> None:
    _, out, _ = in_locale(LOCALES[0], "emulator", "--help")
    assert "attestation providers of all regions, ...)" in " ".join(out.split())


@pytest.mark.parametrize("locale", [*LOCALES, {"LC_ALL": "C.UTF-8"}])
@pytest.mark.parametrize("name", ["schl\u00fcssel", "k\u2026y", "\udcff", "\N{KEY}"])
def test_a_message_with_any_name_is_printed_in_any_locale(
    tmp_path: Path, locale: dict[str, str], name: str
) -> None:
    document_of_keys = document({"keys": [{"name": name, "state": "waiting"}]})
    path = tmp_path / "s"
    with agent(path, document_of_keys):
        words = ("wait", "--timeout", "0", "--socket", str(path))
        outcome = subprocess.run(
            [sys.executable, "-m", "skragent.cli.main", *words],
            capture_output=True,
            env={"PATH": os.environ["PATH"]} | locale,
            cwd=Path(__file__).parents[2],
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    assert outcome.returncode == exit_codes.TEMPFAIL
    assert outcome.stderr.startswith(b"skragent: serve.not_ready: not held after 0 s: ")


def test_a_request_with_a_name_of_odd_bytes_is_reported(tmp_path: Path) -> None:
    """A reply goes to stdout, which is stricter than stderr by itself."""
    path = tmp_path / "s"
    with agent(
        path, document({"refreshing": ["\udcff\u2026"]}).replace(b"200", b"202")
    ):
        outcome = subprocess.run(
            [sys.executable, "-m", "skragent.cli.main", "refresh", "--socket", path],
            capture_output=True,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            cwd=Path(__file__).parents[2],
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert outcome.stdout.decode() == "refreshing: \\udcff\u2026\n"


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_help_may_be_asked_for_with_streams_closed(redirection: str) -> None:
    code, _ = shell(redirection, "report", "--help")
    assert code == 0


def test_an_error_does_not_go_to_stdout_when_stderr_is_closed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, _ = shell(f'>"{out}" 2>&-', "get", ALIAS, "--socket", f"{tmp_path}/none")
    assert code == exit_codes.TEMPFAIL
    assert out.read_bytes() == b""


def test_output_that_does_not_fit_is_told_in_one_line(config: Path) -> None:
    code, said = shell(">/dev/full", "check-config", "--config", str(config))
    assert code == exit_codes.CANTCREAT
    assert said == "skragent: output: stdout: No space left on device\n"


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_a_key_that_could_not_be_written_to_stdout_is_told_in_one_line(
    tmp_path: Path, redirection: str
) -> None:
    with serving(tmp_path, ring_with(held_key())) as server:
        code, said = shell(redirection, "get", ALIAS, "--socket", str(server.path))
    assert code == exit_codes.CANTCREAT
    assert re.fullmatch(r"skragent: output: stdout: [A-Za-z ]+\n", said)


@pytest.mark.parametrize("form", FORMS)
def test_the_real_api_gives_every_format_as_it_is(tmp_path: Path, form: Form) -> None:
    out = tmp_path / "out"
    words = ["--format", form, "--output", str(out)]
    with serving(tmp_path, ring_with(held_key())) as server:
        assert main(["get", ALIAS, "--socket", str(server.path), *words]) == 0
    assert out.read_bytes() == FORMS[form]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("other", exit_codes.NOPERM),
        ("\udcff", exit_codes.NOPERM),
        ("waiting", exit_codes.TEMPFAIL),
    ],
)
def test_the_real_api_refuses_with_the_exit_code_that_help_tells(
    tmp_path: Path, name: str, code: int
) -> None:
    ring = ring_with(held_key(), waiting=["waiting"])
    with serving(tmp_path, ring) as server:
        assert main(["get", name, "--socket", str(server.path)]) == code


def test_a_directory_that_is_not_there_cannot_be_written_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none" / "key"
    with serving(tmp_path, ring_with(held_key())) as server:
        words = ["--socket", str(server.path), "--output", str(out)]
        assert main(["get", ALIAS, *words]) == exit_codes.CANTCREAT
    said = capsys.readouterr()
    assert said.err == f"skragent: output: {out}: No such file or directory\n"
    assert said.out == ""


def test_a_wait_other_than_a_number_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["get", "k", "--wait", "soon"])
    assert caught.value.code == exit_codes.USAGE
    assert "argument --wait: must be from 0 to 86400" in capsys.readouterr().err


@pytest.mark.parametrize("filler", ["#", "ä"])
def test_a_file_that_is_too_long_is_not_used_in_part(
    config: Path, filler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(GOOD + "#" + filler * MAX_CONFIG_BYTES)
    assert main(["check-config", "--config", str(config)]) == exit_codes.CONFIG
    assert "longer than" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("run", (exit_codes.UNAVAILABLE, exit_codes.OSERR, exit_codes.CONFIG)),
        (
            "get",
            (
                exit_codes.UNAVAILABLE,
                exit_codes.CANTCREAT,
                exit_codes.TEMPFAIL,
                exit_codes.NOPERM,
            ),
        ),
        ("check-config", (exit_codes.CONFIG,)),
        ("report", (1, exit_codes.UNAVAILABLE, exit_codes.CONFIG)),
    ],
)
def test_help_names_the_exit_codes(
    command: str, codes: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    _, _, said = capsys.readouterr().out.lower().partition("exit status")
    assert all(re.search(rf"\b{code}\b", said) for code in codes)
