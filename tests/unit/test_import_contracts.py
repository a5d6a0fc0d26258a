"""The import contracts of pyproject.toml hold, and import-linter reports a breach."""

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
def copied_project(tmp_path: Path) -> Path:
    shutil.copytree(
        ROOT / "skragent",
        tmp_path / "skragent",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_import_contract_is_kept(copied_project: Path) -> None:
    outcome = lint_imports(copied_project)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("package", "statement", "contract"),
    [
        ("agent", "import requests", "The agent uses no network"),
        (
            "releaser",
            "import skragent.serving",
            "The releaser imports no module of the agent",
        ),
        ("evidence", "import skragent.releaser", "Layers of the releaser"),
        ("keyring", "import skragent.agent", "Layers of the agent"),
        ("emulator", "import skragent.evidence", "The emulator imports no module"),
        ("serving", "import skragent.emulator", "No module of the product"),
        ("serving/http", "import skragent.errors", "HTTP connections import nothing"),
        ("serving/http", "import skragent.serving.peers", "HTTP connections import"),
    ],
)
def test_a_planted_import_breaks_its_contract(
    copied_project: Path, package: str, statement: str, contract: str
) -> None:
    planted = copied_project / "skragent" / package / "planted.py"
    planted.write_text(f"{statement}\n")
    outcome = lint_imports(copied_project)
    broken = [line for line in outcome.stdout.splitlines() if "BROKEN" in line]
    assert any(line.startswith(contract) for line in broken), outcome.stdout
