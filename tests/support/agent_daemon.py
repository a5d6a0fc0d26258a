"""Run the agent with a substitute for the releaser: CONFIG, then the substitute."""

from __future__ import annotations

import sys
from pathlib import Path

from skragent.cli.config_file import read_config
from skragent.cli.run import run_agent
from skragent.errors import AgentError


def read(path: str) -> str:
    """Read the configuration; from a FIFO, too, which a test holds back."""
    return Path(path).read_text() if Path(path).is_fifo() else read_config(path)


if __name__ == "__main__":
    config, *releaser = sys.argv[1:]
    try:
        sys.exit(run_agent(lambda: read(config), releaser=tuple(releaser)))
    except AgentError as error:
        sys.exit(f"{error.code}: {error.message}")
