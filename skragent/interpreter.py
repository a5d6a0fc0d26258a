"""The command that runs one of skragent's modules in a process of its own.

The new process imports the same files as this one. In a virtual environment `-I -m`
finds the module. The launcher of the Debian and RPM packages runs Python without
`site`, from a directory that only the launcher knows, so the command names it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_HOME: Final = str(Path(__file__).parents[1])

# The same as -m. The directory comes last: no module may replace the standard library.
_IN_HOME: Final = (
    f"import sys; sys.path.append({_HOME!r}); import runpy;"
    " runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module; arguments may follow.

    With -I neither the environment nor the working directory affects imports.
    """
    if sys.flags.no_site:
        return (sys.executable, "-I", "-S", "-c", _IN_HOME, module)
    return (sys.executable, "-I", "-m", module)
