"""Run the agent with a substitute for the releaser: CONFIG, then the substitute."""

from __future__ import annotations

import sys
from pathlib import Path

from skragent.cli.run import run_agent
from skragent.errors import SkrAgentError

if __name__ == "__main__":
    config, *releaser = sys.argv[1:]
    try:
        sys.exit(run_agent(lambda: Path(config).read_text(), releaser=tuple(releaser)))
    except SkrAgentError as error:
        sys.exit(f"{error.code}: {error.message}")
