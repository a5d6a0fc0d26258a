"""Run the agent with a substitute for the releaser: CONFIG, then the substitute."""

from __future__ import annotations

import sys

from skragent.cli.config_file import read_config
from skragent.cli.run import run_agent
from skragent.errors import SkrAgentError

if __name__ == "__main__":
    config, *releaser = sys.argv[1:]
    try:
        sys.exit(run_agent(lambda: read_config(config), releaser=tuple(releaser)))
    except SkrAgentError as error:
        sys.exit(f"{error.code}: {error.message}")
