"""The exit codes of `skragent`, with the values of sysexits.h.

The codes are stable: scripts and the unit's `RestartPreventExitStatus=` rely on them.
systemd does not restart the agent after the codes in FINAL.

    0   success
    2   the command line is not valid (argparse)
    69  UNAVAILABLE  not available, for example because this is not a confidential VM
    70  SOFTWARE     a bug of skragent
    71  OSERR        a socket cannot be bound
    73  CANTCREAT    the output could not be written
    75  TEMPFAIL     temporary: try again later
    77  NOPERM       permission denied, or no such key
    78  CONFIG       the configuration cannot be used
    130 INTERRUPTED  Ctrl-C
"""

from __future__ import annotations

from typing import Final

from skragent.errors import AgentError, Disposition, ListenError

OK: Final = 0
USAGE: Final = 2
UNAVAILABLE: Final = 69
SOFTWARE: Final = 70
OSERR: Final = 71
CANTCREAT: Final = 73
TEMPFAIL: Final = 75
NOPERM: Final = 77
CONFIG: Final = 78
INTERRUPTED: Final = 130

FINAL: Final = (UNAVAILABLE, CONFIG)

_BY_DISPOSITION: Final = {
    Disposition.RETRY: TEMPFAIL,
    Disposition.REATTEST: TEMPFAIL,
    Disposition.RETRY_SLOWLY: UNAVAILABLE,
    Disposition.DENIED: NOPERM,
    Disposition.FATAL: UNAVAILABLE,
}


def exit_code_of(error: AgentError) -> int:
    """Return the exit code of a command that an error ends."""
    if error.code == "config.timeout":
        return TEMPFAIL  # the directory service may respond later
    # Not only ConfigError: the releaser reports problems with the files of [trust].
    if error.code.partition(".")[0] == "config":
        return CONFIG
    if isinstance(error, ListenError):
        return OSERR
    if error.code.partition(".")[0] == "internal":
        return SOFTWARE
    return _BY_DISPOSITION[error.disposition]


def exit_code_of_start(error: AgentError, *, keeps_keys: bool) -> int:
    """Return the exit code of an agent that cannot start.

    Args:
        error: the reason.
        keeps_keys: systemd keeps held keys for the agent. After a final exit code it
            would close them, but neither a typo nor a fault may end a held key.
    """
    code = exit_code_of(error)
    return TEMPFAIL if keeps_keys and code in FINAL else code
