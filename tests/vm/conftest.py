"""One VM for all scenarios. Each scenario begins with an agent that holds its keys.

Scenarios share one VM, because a boot takes most of the time. After a run,
build/vm/last has the guest's console and journal and the requests to the emulated
Azure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from vm.agent import Agent
from vm.azure_side import AzureThread
from vm.debs import next_version_of, package_of_this_tree
from vm.image import image_for
from vm.machine import Machine

BUILD = Path(__file__).resolve().parents[2] / "build"
LAST = BUILD / "vm" / "last"
_PREFIX = "skr-vm-"
_ORDER = (
    *("", "test_first_use", "test_credentials", "test_operations"),
    *("test_faults", "test_reboots", "test_upgrade", "test_cloud_init", "test_journal"),
)
_TIMES: dict[str, float] = {}
_FAILED: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    items.sort(key=_place)
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.qemu)
            # The first scenario builds the image.
            item.add_marker(pytest.mark.timeout(1800))


def _place(item: pytest.Item) -> int:
    """Return the place of a scenario in a run; other tests keep their order."""
    name = item.path.stem if item.path.parent == Path(__file__).parent else ""
    return _ORDER.index(name) if name in _ORDER else 0


@pytest.fixture(scope="session")
def azure_and_machine() -> Iterator[tuple[AzureThread, Machine]]:
    deb = package_of_this_tree(BUILD / "vm" / "deb")
    LAST.mkdir(parents=True, exist_ok=True)
    image = image_for(deb, BUILD / "vm")
    with contextlib.ExitStack() as stack:
        # Not in the build directory: the path of a Unix socket has at most 107 bytes
        # (unix(7)).
        _remove_directories_of_killed_runs()
        prefix = f"{_PREFIX}{os.getpid()}-"
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix))
        )
        payload = directory / "payload.tar"
        with tarfile.open(payload, "w", format=tarfile.USTAR_FORMAT) as archive:
            archive.add(deb, "skragent.deb")
            archive.add(next_version_of(deb, directory), "skragent-next.deb")
        azure = stack.enter_context(AzureThread(directory, BUILD / "vm" / "kept"))
        azure.instance.azure.imds.is_limited = False
        azure.call(azure.instance.create_key("db:RSA"))
        azure.call(azure.instance.create_key("mac:oct-256"))
        machine = Machine(
            directory,
            image=image,
            payload=payload,
            imds=azure.instance.imds_socket,
            tls=azure.instance.tls_socket,
            console=LAST / "console.log",
        )
        stack.callback(lambda: (LAST / "azure.log").write_text(azure.instance.log()))
        stack.enter_context(machine)
        stack.callback(_keep_journal, machine)
        yield azure, machine


def _remove_directories_of_killed_runs() -> None:
    """Remove the directories of runs that were killed; their processes have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def azure(azure_and_machine: tuple[AzureThread, Machine]) -> AzureThread:
    return azure_and_machine[0]


@pytest.fixture(scope="session")
def machine(azure_and_machine: tuple[AzureThread, Machine]) -> Machine:
    return azure_and_machine[1]


@pytest.fixture(scope="session")
def installed(azure: AzureThread, machine: Machine) -> Agent:
    """The package, its configuration, and the service enabled and started."""
    agent = Agent(machine.guest, azure)
    agent.install()
    return agent


@pytest.fixture
def agent(installed: Agent, machine: Machine) -> Iterator[Agent]:
    """The running agent, which holds all keys."""
    if machine.needs_reboot:
        machine.reboot()
    installed.wait_until_current()
    yield installed
    installed.azure.instance.azure.clear_hooks()


@pytest.fixture
def agent_after_purge(installed: Agent) -> Agent:
    """The same machine after the package was purged."""
    assert installed.guest.run("dpkg-query -s skragent").code
    return installed


def _keep_journal(machine: Machine) -> None:
    """Copy the journal from the guest, if the guest still answers."""
    with contextlib.suppress(AssertionError):
        machine.guest.check("journalctl -o short-precise --no-pager >/run/journal.txt")
        (LAST / "journal.txt").write_bytes(machine.guest.read("/run/journal.txt"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "qemu" not in report.keywords:
        return
    _TIMES[report.nodeid] = _TIMES.get(report.nodeid, 0.0) + report.duration
    if report.failed:
        _FAILED.add(report.nodeid)
    if report.skipped:
        _TIMES.pop(report.nodeid, None)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for nodeid, seconds in _TIMES.items():
        outcome = "FAILED" if nodeid in _FAILED else "ok"
        words = nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        terminalreporter.write_line(f"vm: {seconds:6.1f} s  {outcome:6}  {words}")
    if _FAILED:
        terminalreporter.write_line(
            f"vm: logs of the guest and of the emulated Azure: {LAST}/console.log,"
            " journal.txt, azure.log"
        )


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _TIMES and not _FAILED:
        reporter.write_line(f"vm: ok ({len(_TIMES)} scenarios)")
