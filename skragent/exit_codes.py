"""What `skragent` exits with, in one table (the values of sysexits.h).

Stable: scripts and the unit's `RestartPreventExitStatus=` rely on them. systemd does
not restart the agent on those in FINAL, which time cannot mend.

    0   ok
    2   the command line cannot be understood (argparse)
    69  UNAVAILABLE  this machine cannot do it: not a confidential VM, say
    70  SOFTWARE     a bug of ours
    71  OSERR        a socket cannot be bound
    73  CANTCREAT    the output file cannot be written
    75  TEMPFAIL     not now: ask again later
    77  NOPERM       somebody with the right to say no said no
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
    """Choose the exit code that an error ends a command with."""
    if error.code == "config.timeout":
        return TEMPFAIL  # the directory service may answer again
    # The releaser finds what is wrong with files of [trust]: that is no ConfigError.
    if error.code.partition(".")[0] == "config":
        return CONFIG
    if isinstance(error, ListenError):
        return OSERR
    if error.code.partition(".")[0] == "internal":
        return SOFTWARE
    return _BY_DISPOSITION[error.disposition]


def exit_code_of_start(error: AgentError, *, keeps_keys: bool) -> int:
    """Choose the exit code of an agent that cannot start.

    Args:
        error: what keeps it from that.
        keeps_keys: systemd keeps held keys for the agent. On a final exit it would
            close them, and neither a typo nor a fault ends a held key.
    """
    code = exit_code_of(error)
    return TEMPFAIL if keeps_keys and code in FINAL else code
