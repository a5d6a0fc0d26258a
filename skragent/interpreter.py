"""How to start one of our modules in a process of its own.

It imports what this process imports, by the same rules. In a virtual environment
`-I -m` finds it; the packages' launcher runs without `site`, from a folder that only
it knows, so that folder is handed on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_HOME: Final = str(Path(__file__).parents[1])

# As -m does it; behind the standard library, which no module of ours may replace.
_IN_HOME: Final = (
    f"import sys; sys.path.append({_HOME!r}); import runpy;"
    " runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(module: str) -> tuple[str, ...]:
    """Give the command that runs a module; its arguments may follow.

    -I: neither the environment nor the working directory chooses what is imported.
    """
    if sys.flags.no_site:
        return (sys.executable, "-I", "-S", "-c", _IN_HOME, module)
    return (sys.executable, "-I", "-m", module)
