"""Reload of a running agent's configuration, against the whole emulator."""

from __future__ import annotations

import codecs
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.e2e import SKRAGENT, Agent, config_for, create_key

from skragent.client import SkragentError

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm


class Reloadable:
    """An agent that holds `demo` and `db`, and its configuration file."""

    def __init__(self, agent: Agent, emulator: EmulatorThread) -> None:
        self.agent = agent
        self.file = agent.socket.with_name("skragent.toml")
        self._emulator = emulator

    def write(self, *aliases: str) -> str:
        """Write a configuration with these keys, and return it."""
        text = config_for(self._emulator, self.file.parent, *aliases)
        self.file.write_text(text)
        return text

    def reload(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SKRAGENT, "reload", "--socket", self.file.with_name("admin.sock")],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )

    def code_for(self, alias: str) -> str:
        try:
            self.agent.client.get_key(alias)
        except SkragentError as error:
            return error.code
        return ""


@pytest.fixture
def reloadable(emulator: EmulatorThread, directory: Path) -> Iterator[Reloadable]:
    for name in ("db", "late"):
        if name not in emulator.instance.vault.store.names:
            create_key(emulator, f"{name}:EC")
    with Agent(directory, config_for(emulator, directory, "demo", "db")) as agent:
        agent.until(lambda: agent.holds("demo") and agent.holds("db"))
        yield Reloadable(agent, emulator)


def test_reload_adds_and_removes_keys_and_does_not_release_other_keys_again(
    reloadable: Reloadable,
) -> None:
    reloadable.write("demo", "late")
    done = reloadable.reload()
    assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\n", "")
    assert reloadable.code_for("db") == "serve.denied"
    reloadable.agent.until(lambda: reloadable.agent.holds("late"))
    assert reloadable.agent.log.read_text().count("key demo: version") == 1


def test_reload_rejects_an_invalid_file_and_keeps_all_keys(
    reloadable: Reloadable,
) -> None:
    reloadable.file.write_text(reloadable.write("demo") + '\n[keys.bad]\nvault = "x"\n')
    done = reloadable.reload()
    assert done.returncode == 78
    assert "config.invalid: keys.bad.vault" in done.stderr
    assert reloadable.agent.holds("demo")
    assert reloadable.agent.holds("db")
    assert "the one before stays in force" in reloadable.agent.log.read_text()


def test_changed_access_rules_apply_to_open_connections(reloadable: Reloadable) -> None:
    mine = f"user = {os.getuid()}"
    text = reloadable.file.read_text()
    assert mine in text
    reloadable.file.write_text(text.replace(mine, "user = 54321"))
    watching = reloadable.agent.client.watch("demo")
    next(watching)
    assert reloadable.reload().returncode == 0
    with pytest.raises(SkragentError, match="the key does not exist"):
        next(watching)


def test_sighup_reloads_the_configuration(reloadable: Reloadable) -> None:
    reloadable.write("demo", "db", "late")
    reloadable.agent.process.send_signal(signal.SIGHUP)
    reloadable.agent.until(lambda: reloadable.agent.holds("late"))


def test_a_file_with_a_byte_order_mark_and_crlf_is_reloaded(
    reloadable: Reloadable,
) -> None:
    text = reloadable.write("demo", "db", "late").replace("\n", "\r\n")
    reloadable.file.write_bytes(codecs.BOM_UTF8 + text.encode())
    assert reloadable.reload().returncode == 0
    reloadable.agent.until(lambda: reloadable.agent.holds("late"))


def test_reload_lists_settings_that_need_a_restart(reloadable: Reloadable) -> None:
    text = reloadable.file.read_text()
    reloadable.file.write_text(text.replace("api.sock", "other.sock"))
    done = reloadable.reload()
    assert done.returncode == 0
    assert "agent.api_socket: in force after a restart" in done.stderr
    assert reloadable.agent.holds("demo")
