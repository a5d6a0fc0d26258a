"""The commands of an administrator, against a running agent."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.e2e import SKRAGENT, Agent, config_for, create_key, run_command

from skragent.client import SkragentError
from skragent.emulator.service import Request, Response

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

ENOUGH = str(DEADLINE_SECONDS)

# nohup, cron and some CI runners ignore SIGINT, and processes inherit that. So these
# tests set the disposition of SIGINT explicitly.
ACCEPTS_CTRL_C = ("env", "--default-signal=INT")
IGNORES_CTRL_C = ("env", "--ignore-signal=INT")


@pytest.fixture
def agent(emulator: EmulatorThread, directory: Path) -> Iterator[Agent]:
    if "db" not in emulator.instance.vault.store.names:
        create_key(emulator, "db:EC")
    with Agent(directory, config_for(emulator, directory, "demo", "db")) as agent:
        agent.until(lambda: agent.holds("demo") and agent.holds("db"))
        yield agent


def test_the_status_is_a_table_for_people(agent: Agent) -> None:
    done = run_command(agent, "status")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == [
        "KEY",
        "STATE",
        "VERSION",
        "AGE",
        "NEXT",
        "LAST",
        "FAILURE",
    ]
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["demo", "current"],
        ["db", "current"],
    ]
    assert "attestation token: until" in done.stdout
    assert "rules on units: none" in done.stdout


def test_the_status_is_json_for_programs(agent: Agent) -> None:
    status = json.loads(run_command(agent, "status", "--json").stdout)
    assert status["state"] == "ready"
    assert {key["name"] for key in status["keys"]} == {"demo", "db"}
    assert all(key["due_at"] > key["released_at"] for key in status["keys"])
    assert status["memory"] in ("memfd_secret", "locked")


def test_a_refresh_releases_again(agent: Agent) -> None:
    before = agent.client.get_key("db").released_at
    done = run_command(agent, "refresh", "db")
    assert (done.returncode, done.stdout) == (0, "refreshing: db\n")
    agent.until(lambda: agent.log.read_text().count("key db: version") == 2)
    agent.until(lambda: agent.client.get_key("db").released_at >= before)
    assert agent.log.read_text().count("key demo: version") == 1


def test_refresh_with_wait_prints_the_version(agent: Agent) -> None:
    done = run_command(agent, "refresh", "db", "--wait", "--timeout", ENOUGH)
    version = agent.client.get_key("db").version
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"refreshing: db\ndb: released, version {version}\n"


def test_refresh_with_wait_prints_cause_and_remedy_of_a_denial(
    emulator: EmulatorThread, agent: Agent
) -> None:
    emulator.call(emulator.instance.faults.apply("vault.role.revoked=release"))
    done = run_command(agent, "refresh", "db", "--wait", "--timeout", ENOUGH)
    assert done.returncode == 77
    assert "db: not released" in done.stderr
    assert "cause: release.denied.permission: " in done.stderr
    assert "remedy: Give the identity the key permission `release`" in done.stderr
    agent.until(lambda: "remedy: " in run_command(agent, "status").stdout)


def test_a_refresh_releases_a_denied_key_after_the_role_was_granted(
    emulator: EmulatorThread, directory: Path
) -> None:
    emulator.call(emulator.instance.faults.apply("vault.role.revoked"))
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: "key demo is denied" in agent.log.read_text())
        assert not agent.holds("demo")
        emulator.call(emulator.instance.faults.reset())
        run_command(agent, "refresh")
        agent.until(lambda: agent.holds("demo"))


def test_a_dropped_key_is_not_served_until_it_is_refreshed(agent: Agent) -> None:
    assert run_command(agent, "drop", "db").stdout == "dropped: db\n"
    with pytest.raises(SkragentError) as caught:
        agent.client.get_key("db")
    assert caught.value.code == "serve.not_ready"
    assert run_command(agent, "wait", "db", "--timeout", "0.2").returncode == 75
    assert run_command(agent, "refresh").stdout == "refreshing: demo\n"
    assert run_command(agent, "refresh", "db").returncode == 0
    assert run_command(agent, "wait", "db", "--timeout", ENOUGH).returncode == 0
    assert agent.holds("db")


@contextlib.contextmanager
def watching_status(
    prefix: tuple[str, ...], *words: str
) -> Iterator[subprocess.Popen[str]]:
    """Run `skragent status --watch`, and kill the process after the block."""
    with subprocess.Popen(
        [*prefix, *SKRAGENT, "status", "--watch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        try:
            yield watching
        finally:
            watching.kill()


def next_state(watching: subprocess.Popen[str], alias: str) -> str:
    """Read up to the next row of a key, and return its state."""
    assert watching.stdout is not None
    lines = iter(watching.stdout.readline, "")
    return next(line for line in lines if line.startswith(alias)).split()[1]


def test_status_watch_prints_each_change(agent: Agent) -> None:
    config = agent.socket.with_name("skragent.toml")
    with watching_status(ACCEPTS_CTRL_C, "--config", str(config)) as watching:
        assert next_state(watching, "db") == "current"
        run_command(agent, "drop", "db")
        assert next_state(watching, "db") == "dropped"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(DEADLINE_SECONDS) == 130


def test_status_watch_goes_on_if_sigint_is_ignored(agent: Agent) -> None:
    config = agent.socket.with_name("skragent.toml")
    with watching_status(IGNORES_CTRL_C, "--config", str(config)) as watching:
        assert next_state(watching, "db") == "current"
        watching.send_signal(signal.SIGINT)
        run_command(agent, "drop", "db")
        assert next_state(watching, "db") == "dropped"


def test_status_watch_goes_on_after_a_restart_of_the_agent(
    emulator: EmulatorThread, directory: Path
) -> None:
    config = config_for(emulator, directory, "demo")
    words = ("--json", "--socket", str(directory / "admin.sock"))
    with contextlib.ExitStack() as stack:
        with Agent(directory, config) as agent:
            agent.until(lambda: agent.holds("demo"))
            watching = stack.enter_context(watching_status(ACCEPTS_CTRL_C, *words))
            assert watching.stdout is not None
            lines = map(json.loads, iter(watching.stdout.readline, ""))
            before = next(lines)
            agent.process.kill()
        with Agent(directory, config) as agent:
            agent.until(lambda: agent.holds("demo"))
            assert any(line["started_at"] != before["started_at"] for line in lines)
            watching.send_signal(signal.SIGINT)
            _, messages = watching.communicate(timeout=DEADLINE_SECONDS)
    assert watching.returncode == 130
    assert messages.count("trying again") == 1


def test_status_shows_a_failed_refresh_of_a_current_key(
    emulator: EmulatorThread, agent: Agent
) -> None:
    def row() -> list[str]:
        lines = run_command(agent, "status").stdout.splitlines()
        return next(line.split() for line in lines if line.startswith("demo"))

    assert row()[-1] == "-"

    async def unavailable(_: Request, answer: Response) -> Response:
        return replace(answer, status=503)

    emulator.instance.maa.before_response = unavailable
    run_command(agent, "refresh")
    agent.until(lambda: row()[-1] == "transport.server")
    assert row()[1] == "current"
    emulator.instance.maa.clear_hooks()
    agent.until(lambda: row()[-1] == "-")


def test_wait_succeeds_when_all_keys_are_held(agent: Agent) -> None:
    assert run_command(agent, "wait", "--all", "--timeout", ENOUGH).returncode == 0
    assert run_command(agent, "wait", "--timeout", ENOUGH).returncode == 0


def test_wait_waits_for_an_agent_that_starts_later(
    emulator: EmulatorThread, directory: Path
) -> None:
    (directory / "skragent.toml").write_text(config_for(emulator, directory, "demo"))
    codes: list[int] = []
    command = [*SKRAGENT, "wait", "demo", "--timeout", ENOUGH]
    command += ["--config", str(directory / "skragent.toml")]
    waiting = threading.Thread(
        target=lambda: codes.append(subprocess.run(command, check=False).returncode)
    )
    waiting.start()
    with Agent(directory, config_for(emulator, directory, "demo")):
        waiting.join(DEADLINE_SECONDS)
    assert codes == [0]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("refresh", "unknown"), 77),
        (("drop", "unknown"), 77),
        (("wait", "unknown"), 77),
        (("get", "unknown"), 77),
    ],
)
def test_an_unknown_key_is_reported(
    agent: Agent, words: tuple[str, ...], code: int
) -> None:
    done = run_command(agent, *words)
    assert done.returncode == code
    assert "serve.denied" in done.stderr


@pytest.mark.parametrize("words", [("status",), ("refresh",), ("drop", "db")])
def test_an_unreachable_agent_is_reported(
    directory: Path, words: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [*SKRAGENT, *words, "--socket", str(directory / "none")],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 75
    assert "client.unreachable" in done.stderr
    assert "systemctl status" in done.stderr


# Import all modules first, because perhaps only root can read the interpreter's files.
AS_ANOTHER = """
import _strptime, locale, os, shutil, socket, sys, traceback
import skragent.cli.config_file, skragent.cli.admin_commands, skragent.cli.status
import skragent.cli.wait
from skragent.cli.main import main
os.setgroups([])
os.setgid(1234)
os.setuid(1234)
sys.exit(main())
"""


@pytest.mark.root
def test_an_unprivileged_user_gets_only_the_rights_of_the_access_rules(
    agent: Agent,
) -> None:
    agent.socket.parent.chmod(0o755)
    agent.socket.chmod(0o666)
    config = agent.socket.with_name("skragent.toml")
    shown = {}
    for words in (("status",), ("refresh",), ("wait", "--all"), ("wait",)):
        shown[" ".join(words)] = subprocess.run(
            [sys.executable, "-I", "-c", AS_ANOTHER, *words, "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    assert shown["status"].returncode == 0, shown["status"].stderr
    assert "; trying " in shown["status"].stderr
    assert "you are uid 1234" in shown["status"].stdout
    assert "demo" not in shown["status"].stdout
    assert (shown["refresh"].returncode, shown["wait --all"].returncode) == (77, 77)
    assert "sudo" in shown["refresh"].stderr
    assert shown["wait"].returncode == 77
    assert "you may use no key" in shown["wait"].stderr
