"""Shell completion with an agent that does not answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.completion import complete, put_command
from support.manual import ROOT


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_gives_up_soon_if_the_agent_hangs(tmp_path: Path) -> None:
    path = put_command(tmp_path, "trap '' TERM; while :; do sleep 1; done")
    words = ["get", "--config", str(ROOT / "config.example.toml"), ""]
    assert complete(*words, path=path) == ["database", "backup"]
