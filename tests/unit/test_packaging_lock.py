"""The locks of the packages: pinned, hashed, and equal to pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("requirements", "emulator", "build")


def pins(lock: str) -> dict[str, str]:
    text = (ROOT / f"packaging/{lock}.lock").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements", PROJECT["dependencies"]),
        ("emulator", PROJECT["optional-dependencies"]["emulator"]),
    ],
)
def test_the_lock_pins_the_dependencies_of_the_project(
    lock: str, wanted: list[str]
) -> None:
    pinned = pins(lock)
    for text in wanted:
        requirement = Requirement(text)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text}: {version} is pinned"


@pytest.mark.parametrize("lock", LOCKS)
def test_each_file_has_a_hash_and_no_address(lock: str) -> None:
    text = (ROOT / f"packaging/{lock}.lock").read_text()
    entry = r"[a-z0-9-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(rf"# [^\n]+\n({entry})+", text)


def test_the_emulator_package_repeats_no_library_of_the_agents() -> None:
    assert not pins("emulator").keys() & pins("requirements").keys()


def test_build_tools_have_the_versions_of_the_packages() -> None:
    agent, build = pins("requirements"), pins("build")
    shared = agent.keys() & build.keys()
    assert {name: agent[name] for name in shared} == {n: build[n] for n in shared}
