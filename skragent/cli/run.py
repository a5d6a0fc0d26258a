"""`skragent run`: connect the parts of the agent, in the order of the fastest start.

First the sockets, so that a second agent fails before it sends a request. Then the
first releaser, which needs half a second. While it works, the agent imports the event
loop and the servers.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from skragent.agent.signals_and_limits import block_signals
from skragent.cli import deadline
from skragent.cli.config_file import add_config_option, read_config
from skragent.cli.error_output import print_agent_error
from skragent.config import parse_config
from skragent.errors import AgentError
from skragent.exit_codes import FINAL, exit_code_of_start
from skragent.secretmem import forbid_core_dumps

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from skragent.agent.clock import Clock
    from skragent.agent.socket_activation import Inherited

_DESCRIPTION = """\
Attest, release the configured keys, hold them and serve them until SIGTERM. SIGHUP
makes the agent read its configuration again, as `skragent reload` does.

If systemd started the agent, logs go to the journal. Else they go to stderr, without
the time. systemd keeps held keys for the next agent. Without systemd, held keys end
with the agent."""

_EPILOG = """\
exit status:
  0   stopped by SIGTERM or SIGINT
  69  this machine is not a confidential VM
  71  a socket cannot be bound
  75  temporary: the directory service does not respond, or the agent cannot start
      while systemd keeps held keys; systemd starts the agent again
  78  the configuration, or a file of [trust], cannot be used"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    import argparse  # noqa: PLC0415 - main has imported it

    parser = commands.add_parser(
        "run",
        help="run the agent (systemd starts this command)",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_option(parser)
    # The command runs until SIGTERM.
    parser.set_defaults(run=run, deadline=deadline.NONE)


def run(arguments: argparse.Namespace) -> int:
    """Run the agent until SIGTERM or SIGINT; return the exit code."""
    return run_agent(lambda: read_config(arguments.config))


def run_agent(
    read: Callable[[], str], *, releaser: tuple[str, ...] | None = None
) -> int:
    """Run the agent.

    Args:
        read: returns the configuration's text, now and at each reload.
        releaser: a substitute command, for tests.

    Raises:
        AgentError: the agent cannot start.
    """
    forbid_core_dumps()
    with block_signals():  # until the event loop handles signals
        return _run_or_refuse(read, releaser)


def _run_or_refuse(read: Callable[[], str], releaser: tuple[str, ...] | None) -> int:
    """Run the agent; if it cannot start, reject inherited credential requests.

    systemd takes a connection that closes without a response as an empty credential.
    """
    from skragent.agent.clock import SystemClock  # noqa: PLC0415 - see above
    from skragent.agent.socket_activation import inherited_sockets  # noqa: PLC0415 - see above

    clock = SystemClock()
    inherited = inherited_sockets(os.environ)
    try:
        code = _run(read, inherited, clock, releaser)
    except BaseException as error:
        from skragent.agent.socket_activation import reject_connections  # noqa: PLC0415 - see above

        reject_connections((sock for _, sock in inherited.credentials), clock)
        if isinstance(error, AgentError):
            _end_in_order(error, inherited)
        raise
    if code in FINAL and inherited.listeners:
        from skragent.agent.signals_and_limits import delay_exit  # noqa: PLC0415 - see above

        delay_exit()  # each new connection makes systemd start the agent again
    return code


def _end_in_order(error: AgentError, inherited: Inherited) -> None:
    """End so that systemd keeps held keys; later, if systemd would restart at once.

    Raises:
        SystemExit: the error was already printed.
    """
    from skragent.agent.signals_and_limits import delay_exit, has_connection  # noqa: PLC0415 - see above
    from skragent.agent.systemd_notify import Notifier  # noqa: PLC0415 - see above

    code = exit_code_of_start(error, keeps_keys=bool(inherited.keys))
    status = f"{error.code}; tries again every few seconds"
    if inherited.keys:
        print_agent_error(error)
        print(
            "  systemd keeps the held keys and starts the agent again every few"
            " seconds. Do not stop the service: the held keys would be lost.",
            file=sys.stderr,
        )
        Notifier(os.environ).status(f"{status}; systemd keeps the held keys")
    elif code in FINAL and has_connection(inherited.listeners.values()):
        print_agent_error(error)
        Notifier(os.environ).status(status)
        delay_exit()
    else:
        return
    raise SystemExit(code) from None


def _run(
    read: Callable[[], str],
    inherited: Inherited,
    clock: Clock,
    releaser: tuple[str, ...] | None,
) -> int:
    # The order of the imports matters: see the module's docstring.
    from skragent.agent.due_times import releasable_keys  # noqa: PLC0415
    from skragent.agent.jobs import key_requests  # noqa: PLC0415
    from skragent.agent.listeners import open_sockets  # noqa: PLC0415
    from skragent.agent.releaser_process import Launcher  # noqa: PLC0415
    from skragent.agent.signals_and_limits import (  # noqa: PLC0415
        count_descriptors,
        explain_low_limit,
        raise_descriptor_limit,
    )
    from skragent.agent.systemd_notify import Notifier  # noqa: PLC0415

    config = parse_config(read())
    environment = dict(os.environ)
    allowed = raise_descriptor_limit(count_descriptors(config.serving))
    with open_sockets(config.agent, inherited.listeners) as sockets:
        command = () if releaser is None else (releaser,)
        launcher = Launcher(config, clock, environment, *command)
        try:
            keys = key_requests(config)
            first = releasable_keys(keys, keys, boottime=clock.boottime())
            launched = launcher.launch([keys[alias] for alias in first])
        except AgentError:
            launched = None  # the scheduler tries again and reports the result

        # With io_uring, libuv has a quarter less throughput (measured), and needs
        # system calls that the unit forbids.
        os.environ["UV_USE_IO_URING"] = "0"
        from skragent.agent.daemon import (  # noqa: PLC0415
            DaemonInputs,
            machine_id,
            serve,
        )
        from skragent.agent.due_times import machine_spread  # noqa: PLC0415
        from skragent.agent.reload import call_with_timeout  # noqa: PLC0415
        from skragent.agent.watchdog import watchdog_seconds  # noqa: PLC0415
        from skragent.observe import Event, log, set_up_logging  # noqa: PLC0415
        from skragent.serving import resolve_access  # noqa: PLC0415

        set_up_logging(environment)
        if problem := explain_low_limit(config.serving, allowed):
            log(Event.FEW_DESCRIPTORS, problem)
        try:
            inputs = DaemonInputs(
                config=config,
                access=call_with_timeout(
                    lambda: resolve_access(
                        config.keys,
                        unit_rules_without_pidfd=config.agent.unit_rules_without_pidfd,
                    )
                ),
                clock=clock,
                launcher=launcher,
                notifier=Notifier(environment),
                sockets=sockets,
                read_config=read,
                spread=machine_spread(machine_id()),
                watchdog_seconds=watchdog_seconds(environment),
                stored_credentials=inherited.credentials,
                stored_keys=inherited.keys,
            )
        except BaseException:
            if launched is not None:
                launched.child.reap()
            raise
        return serve(inputs, launched)
