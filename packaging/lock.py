"""Pin all libraries and build tools of the packages: `make lock`.

Write requirements.lock (the agent and its releaser), emulator.lock (the additional
libraries of the emulator) and build.lock (the tools that compile the two sdists). They
have the hash of each file that one of PYTHONS would install, and no registry's address.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from common import FROM_SOURCE, HERE, normal, project, run

PYTHONS: Final = ("3.11", "3.12", "3.13")

# The build requirements of the two sdists.
_BUILD: Final = (
    *("setuptools", "setuptools-scm", "wheel"),
    *("cffi", "cryptography", "packaging", "pkgconfig", "pycparser"),
)

_Pins = dict[str, tuple[str, set[str]]]


def main() -> int:
    """Write all three locks."""
    described: Any = project()
    agent_needs = described["dependencies"]
    emulator_needs = described["optional-dependencies"]["emulator"]
    agent = _with_all_hashes(_resolve(agent_needs))
    both = _resolve([*_exact(agent), *emulator_needs])
    emulator = _with_all_hashes({k: v for k, v in both.items() if k not in agent})
    build = _resolve([*_BUILD, *(p for p in _exact(agent) if _name(p) in _BUILD)])
    _write("requirements.lock", "the agent and its releaser", agent)
    _write("emulator.lock", "the emulator, beside requirements.lock", emulator)
    _write("build.lock", "compiling the sdists", _with_all_hashes(build))
    return 0


def _name(pin: str) -> str:
    return pin.split("==", maxsplit=1)[0]


def _exact(pins: _Pins) -> list[str]:
    return [f"{name}=={version}" for name, (version, _) in sorted(pins.items())]


def _resolve(requirements: list[str]) -> _Pins:
    """Return the versions that pip chooses and would install here."""
    return _ask_pip("--no-binary", ",".join(FROM_SOURCE), *requirements)


def _with_all_hashes(pins: _Pins) -> _Pins:
    """Add the hashes of the wheels that other Pythons would install."""
    wheels = [pin for pin in _exact(pins) if _name(pin) not in FROM_SOURCE]
    for version in PYTHONS:
        with tempfile.TemporaryDirectory() as target:
            restricted = ("--python-version", version, "--only-binary", ":all:")
            asked = _ask_pip("--no-deps", "--target", target, *restricted, *wheels)
        for name, (_, hashes) in asked.items():
            pins[name][1].update(hashes)
    return pins


def _ask_pip(*arguments: str) -> _Pins:
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.json")
        pip = (sys.executable, "-m", "pip", "install", "--quiet")
        run([*pip, "--dry-run", "--ignore-installed", "--report", report, *arguments])
        found = json.loads(report.read_text())["install"]
    return {
        normal(entry["metadata"]["name"]): (
            entry["metadata"]["version"],
            {entry["download_info"]["archive_info"]["hashes"]["sha256"]},
        )
        for entry in found
    }


def _write(name: str, purpose: str, pins: _Pins) -> None:
    lines = [f"# For {purpose}. Made by `make lock`: do not edit.\n"]
    for pinned, (version, hashes) in sorted(pins.items()):
        rows = [f"{pinned}=={version}", *(f"--hash=sha256:{h}" for h in sorted(hashes))]
        lines.append(" \\\n    ".join(rows) + "\n")
    (HERE / name).write_text("".join(lines))
    print(f"{name}: {len(pins)} pinned")


if __name__ == "__main__":
    sys.exit(main())
