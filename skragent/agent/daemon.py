"""The daemon: the event loop around the scheduler and the servers.

SIGTERM or SIGINT stops the agent within two seconds: it accepts no more connections,
ends the releaser and wipes the held keys. A releaser that is writing the AK certificate
delays the end by a few seconds at most. A second Ctrl-C ends the process at once.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from skragent import exit_codes
from skragent.agent.admin_control import Control
from skragent.agent.job_runner import TERMINATE_SECONDS, Runner
from skragent.agent.jobs import key_requests
from skragent.agent.key_records import lifetime_policies
from skragent.agent.preserved_keys import PreservedKeys
from skragent.agent.reload import Reloader
from skragent.agent.reporter import Reporter
from skragent.agent.scheduler import Scheduler
from skragent.agent.servers import Servers
from skragent.agent.signals_and_limits import (
    STOP_SIGNALS,
    count_descriptors,
    explain_low_limit,
    has_terminal,
    raise_descriptor_limit,
    unblock_signals,
)
from skragent.agent.watchdog import notify_watchdog
from skragent.errors import AgentError
from skragent.keyring import Keyring
from skragent.observe import Counters, Event, log
from skragent.serving import UnitRules, probe_pidfd

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from skragent.agent.clock import Clock
    from skragent.agent.listeners import Sockets
    from skragent.agent.releaser_process import Launch, Launcher
    from skragent.agent.systemd_notify import Notifier
    from skragent.config import Config
    from skragent.serving import Access

# A releaser that has not ended by then waits in the kernel, and is left.
_RELEASER_SECONDS = TERMINATE_SECONDS + 0.5
_MACHINE_ID = Path("/etc/machine-id")
_MAX_MACHINE_ID_BYTES = 64
_RANDOM_BITS = 53  # of a float's mantissa

# Settings of [agent] that a reload does not change, because the sockets stay open.
_BOUND_AT_START = (
    *("api_socket", "credentials_socket", "admin_socket"),
    "metrics_listen",
)


@dataclass(frozen=True, slots=True)
class DaemonInputs:
    """What the daemon needs from `skragent run`."""

    config: Config
    access: Access
    clock: Clock
    launcher: Launcher
    notifier: Notifier
    sockets: Sockets
    read_config: Callable[[], str]  # for a reload
    spread: float = 0.0  # this machine's place in its fleet, from -1 to 1
    watchdog_seconds: float | None = None
    stored_credentials: Sequence[tuple[str, socket.socket]] = ()
    stored_keys: Sequence[tuple[str, int]] = ()


def serve(inputs: DaemonInputs, launched: Launch | None) -> int:
    """Run until a signal or a FATAL error; return the exit code.

    Args:
        inputs: the sockets, the configuration and so on.
        launched: the first job, if its releaser has started already.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Daemon(inputs).run(launched))


class _Daemon:
    def __init__(self, inputs: DaemonInputs) -> None:
        config = inputs.config
        self._inputs = inputs
        self._config = config
        self._access = inputs.access
        self._keyring = Keyring(config.keys)
        self._counters = Counters(tuple(config.keys))
        self._stopping = asyncio.Event()
        self._has_pidfd = probe_pidfd()
        self._has_terminal = has_terminal()
        self._reported_unit_rules = UnitRules.NONE
        self._preserved = PreservedKeys(inputs.notifier)
        self._keyring.on_parting(self._preserved.forget)
        keys, policies = key_requests(config), lifetime_policies(config)
        self._runner = Runner(
            inputs.launcher,
            inputs.clock,
            timeout_seconds=config.limits.job_timeout_seconds,
            log_output=_log_output,
        )
        restored = self._preserved.restore(
            *(inputs.stored_keys, self._keyring, keys, policies, inputs.clock)
        )
        for entry in self._keyring:
            if entry.key is not None and entry.key.memory is not None:
                self._counters.memory_kind = entry.key.memory.kind
        self._scheduler = Scheduler(
            keys,
            jobs=self._runner,
            reporter=Reporter(
                *(self._keyring, self._counters, inputs.clock, inputs.notifier),
                self._preserved,
            ),
            clock=inputs.clock,
            random=_random,
            policies=policies,
            spread=inputs.spread,
            restored=restored,
        )
        self._reloader = Reloader(
            inputs.read_config,
            self._apply,
            clock=inputs.clock,
            notifier=inputs.notifier,
            counters=self._counters,
        )
        self._control = Control(
            self._scheduler,
            config,
            inputs.clock,
            reload=self._reloader.request_reload,
            unit_rules=self._unit_rules(),
        )
        self._servers = Servers(inputs, self._keyring, self._counters, self._control)

    async def run(self, launched: Launch | None) -> int:
        """Run until a signal or a FATAL error; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        unblock_signals()
        await self._servers.start()
        self._report_unit_rules()
        count = len(self._config.keys)
        self._inputs.notifier.ready(f"0 of {count} keys held")
        keys = f"{count} key{'s' * (count != 1)}"
        log(Event.STARTED, f"listening; {keys} configured")
        scheduling = asyncio.create_task(self._scheduler.run(launched))
        beside = [
            asyncio.create_task(self._reloader.run()),
            asyncio.create_task(self._notify_watchdog()),
        ]
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({scheduling, stopping}, return_when=asyncio.FIRST_COMPLETED)
        self._inputs.notifier.stopping()
        for task in beside:
            task.cancel()
        self._scheduler.stop()
        self._runner.stop()
        await self._servers.close()
        self._preserved.repeat()  # this is the last time
        self._keyring.close(is_preserved=self._preserved.__contains__)
        stopping.cancel()
        await asyncio.wait({scheduling}, timeout=_RELEASER_SECONDS)
        if not scheduling.done():
            return exit_codes.OK
        return self._outcome(scheduling)

    async def _notify_watchdog(self) -> None:
        inputs = self._inputs
        if inputs.watchdog_seconds is not None:
            await notify_watchdog(
                self._scheduler.heartbeats,
                seconds=inputs.watchdog_seconds,
                clock=inputs.clock,
                notifier=inputs.notifier,
            )

    def _apply(self, config: Config, access: Access) -> tuple[str, ...]:
        """Apply another configuration, in one step of the event loop."""
        before, self._config, self._access = self._config, config, access
        if problem := explain_low_limit(
            config.serving, raise_descriptor_limit(count_descriptors(config.serving))
        ):
            log(Event.FEW_DESCRIPTORS, problem)
        self._inputs.launcher.configure(config)
        self._runner.configure(config.limits.job_timeout_seconds)
        # Long polls read both the keyring and the control. So keys are removed before
        # the control is configured, and added after that.
        self._keyring.remove(before.keys.keys() - config.keys.keys())
        self._control.configure(config, unit_rules=self._unit_rules())
        self._scheduler.configure(
            key_requests(config),
            lifetime_policies(config),
        )
        self._counters.configure(tuple(config.keys))
        self._keyring.add(config.keys)
        self._servers.configure(config, access)
        if _release_settings(before) != _release_settings(config):
            self._control.refresh_all()
        self._report_unit_rules()
        return tuple(
            f"agent.{name}"
            for name in _BOUND_AT_START
            if getattr(before.agent, name) != getattr(config.agent, name)
        )

    def _unit_rules(self) -> UnitRules:
        return self._access.unit_rules(has_pidfd=self._has_pidfd)

    def _report_unit_rules(self) -> None:
        how = self._unit_rules()
        if how is self._reported_unit_rules:
            return
        self._reported_unit_rules = how
        if how is UnitRules.NOT_PINNED:
            log(
                Event.UNIT_RULES,
                "this kernel has no peer pidfds (Linux 6.5): rules on units hold as"
                " agent.unit_rules_without_pidfd says, by process ids",
            )
        elif how is UnitRules.IGNORED:
            log(
                Event.UNIT_RULES,
                "this kernel has no peer pidfds (Linux 6.5): rules on units match no"
                " caller of api.sock; set agent.unit_rules_without_pidfd to allow them",
            )

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            return  # already stopping; an interrupted rejection would be a credential
        # A second Ctrl-C has its default effect: it ends the process.
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        log(Event.STOPPED, f"stopping on {number.name}")
        self._stopping.set()

    def _hang_up(self) -> None:
        """Reload the configuration; stop if the agent's terminal was closed."""
        if self._has_terminal and not self._inputs.notifier.is_wanted:
            self._stop(signal.SIGHUP)
        else:
            self._reloader.request_reload(lambda _outcome: None)

    def _outcome(self, scheduling: asyncio.Task[None]) -> int:
        error = scheduling.exception()
        if isinstance(error, AgentError):
            hint = f" {error.hint}" if error.hint else ""
            log(Event.FATAL, f"{error.message}.{hint}", code=error.code)
            return exit_codes.exit_code_of_start(
                error, keeps_keys=self._preserved.has_any
            )
        if error is not None:
            log(Event.FATAL, "a bug of ours; please report it", error=error)
            return exit_codes.SOFTWARE
        return exit_codes.OK


def _release_settings(config: Config) -> tuple[object, ...]:
    """Return the settings that every release depends on."""
    return (
        *(config.attestation, config.identity, config.vtpm),
        *(config.imds, config.trust),
    )


def _random() -> float:
    return secrets.randbits(_RANDOM_BITS) / (1 << _RANDOM_BITS)


def _log_output(line: str, succeeded: bool) -> None:  # noqa: FBT001 - the runner's callback
    if not succeeded:
        log(Event.RELEASER_SAID, f"releaser: {line}")


def machine_id() -> str:
    """Return the machine's id (machine-id(5)); empty if it has none."""
    try:
        with _MACHINE_ID.open("rb") as file:
            return file.read(_MAX_MACHINE_ID_BYTES).decode("ascii", "replace").strip()
    except OSError:
        return ""
