"""The arrows of the house hold by machine, and the machine notices a wrong one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    lint = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [lint, "--no-cache", "--config", "pyproject.toml"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


@pytest.fixture
def copy_of_the_house(tmp_path: Path) -> Path:
    shutil.copytree(
        ROOT / "skragent",
        tmp_path / "skragent",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_goes_the_way_of_the_arrows(copy_of_the_house: Path) -> None:
    outcome = lint_imports(copy_of_the_house)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("room", "statement", "contract"),
    [
        ("agent", "import requests", "The agent's tower has no network library"),
        ("releaser", "import skragent.serving", "The releaser's tower never sees"),
        ("evidence", "import skragent.releaser", "The releaser's tower: releaser ->"),
        ("keyring", "import skragent.agent", "The agent's tower: cli -> agent"),
        ("emulator", "import skragent.evidence", "The emulator is written from"),
        ("serving", "import skragent.emulator", "Nothing of the product knows"),
        ("serving/http", "import skragent.errors", "HTTP connections import nothing"),
        ("serving/http", "import skragent.serving.peers", "HTTP connections import"),
    ],
)
def test_a_planted_import_against_the_arrows_is_noticed(
    copy_of_the_house: Path, room: str, statement: str, contract: str
) -> None:
    planted = copy_of_the_house / "skragent" / room / "planted.py"
    planted.write_text(f"{statement}\n")
    outcome = lint_imports(copy_of_the_house)
    broken = [line for line in outcome.stdout.splitlines() if "BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), outcome.stdout
