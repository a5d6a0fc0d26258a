"""Run the agent with a substitute for the releaser: CONFIG, then the substitute."""

from __future__ import annotations

import sys
from pathlib import Path

from skragent.cli.run import run_agent
from skragent.config import parse_config
from skragent.errors import SkrAgentError

if __name__ == "__main__":
    config = parse_config(Path(sys.argv[1]).read_text())
    try:
        sys.exit(run_agent(config, releaser=tuple(sys.argv[2:])))
    except SkrAgentError as error:
        sys.exit(f"{error.code}: {error.message}")
