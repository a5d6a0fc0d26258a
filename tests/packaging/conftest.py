"""The packages, built once for all tests of this layer: a minute, later ten seconds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.packages import Built, build


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build("deb", tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build("rpm", tmp_path_factory.mktemp("rpm"))


@pytest.fixture(scope="session")
def trees(deb: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each Debian package, unpacked for itself."""
    found = {}
    for package in ("skragent", "skragent-emulator"):
        found[package] = tmp_path_factory.mktemp(package)
        command = ["dpkg-deb", "--extract", deb.file(package), found[package]]
        subprocess.run(command, check=True)
    return found


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing of the first build: all is fetched and compiled anew."""
    return tmp_path_factory.mktemp("else where")
