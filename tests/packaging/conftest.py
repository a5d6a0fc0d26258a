"""The packages, built once for all tests of this layer, and a Debian to install them.

build/package keeps the libraries that are built from the locks, and build/cache keeps
the Debian. Slow builds that the selected tests need start at once, in threads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.chroot import Chroot, a_copy_of, make_base
from support.packages import ROOT, Built, build

PACKAGES = ("skragent", "skragent-emulator")
_Packages = dict[str, Built]


class Builds:
    """The builds in threads; a build that no selected test needs is not started."""

    def __init__(self, pool: ThreadPoolExecutor, wanted: set[str], place: Path) -> None:
        self.deb = pool.submit(build, "deb", place / "deb")
        self.elsewhere: Future[_Packages] | None = None
        self.base: Future[Chroot] | None = None
        if "elsewhere" in wanted:
            self.elsewhere = pool.submit(_build_elsewhere, place / "else where")
        if "base" in wanted and os.geteuid() == 0:
            self.base = pool.submit(lambda: _make_base(self.deb.result()))


@pytest.fixture(scope="session", autouse=True)
def builds(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Builds]:
    wanted = {
        name
        for item in request.session.items
        if isinstance(item, pytest.Function)
        for name in item.fixturenames
    }
    with ThreadPoolExecutor(3) as pool:
        yield Builds(pool, wanted, tmp_path_factory.mktemp("builds"))


def _build_elsewhere(place: Path) -> _Packages:
    """Build without the cache of the first build: fetch and compile everything."""
    return {
        form: build(form, place / form, work=place / "work", umask=0o027)
        for form in ("deb", "rpm")
    }


def _make_base(deb: Built) -> Chroot:
    command = ["dpkg-deb", "--field"]
    depends = [
        subprocess.check_output(
            [*command, deb.file(package), "Depends"], text=True
        ).strip()
        for package in PACKAGES
    ]
    return make_base(", ".join(depends))


@pytest.fixture(scope="session")
def deb(builds: Builds) -> Built:
    return builds.deb.result()


@pytest.fixture(scope="session")
def elsewhere(builds: Builds) -> _Packages:
    """The packages of a second build: another folder, another time, another umask."""
    assert builds.elsewhere is not None
    return builds.elsewhere.result()


@pytest.fixture(scope="session")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build("rpm", tmp_path_factory.mktemp("rpm"))


@pytest.fixture(scope="session")
def trees(deb: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The Debian packages, each unpacked into a directory of its own."""
    found = {}
    for package in PACKAGES:
        found[package] = tmp_path_factory.mktemp(package)
        command = ["dpkg-deb", "--extract", str(deb.file(package)), str(found[package])]
        subprocess.run(command, check=True)
    return found


@pytest.fixture(scope="session")
def newer_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with another example configuration and another socket unit."""
    tree = tmp_path_factory.mktemp("newer") / "tree"
    parts = ("packaging", "systemd", "skragent", ".ci")
    files = ("pyproject.toml", "LICENSE", "CHANGELOG.md", "config.example.toml")
    for part in parts:
        shutil.copytree(ROOT / part, tree / part)
    for file in files:
        shutil.copy(ROOT / file, tree)
    example = tree / "config.example.toml"
    example.write_text(example.read_text() + "# Newer.\n")
    socket = tree / "systemd/skragent.socket"
    socket.write_text(socket.read_text().replace("[Socket]", "[Socket]\nBacklog=99"))
    return tree


@pytest.fixture(scope="session")
def newer_deb(newer_tree: Path) -> Built:
    only_agent = ("--revision", "2", "--package", "skragent")
    return build("deb", newer_tree.parent / "deb", *only_agent, tree=newer_tree)


@pytest.fixture(scope="session")
def newer_rpm(newer_tree: Path) -> Built:
    only_agent = ("--revision", "2", "--package", "skragent")
    return build("rpm", newer_tree.parent / "rpm", *only_agent, tree=newer_tree)


@pytest.fixture(scope="session")
def base(builds: Builds) -> Chroot:
    """A Debian with the packages' dependencies; tests must not write to it."""
    allowed = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if allowed.returncode:
        why = f"root cannot create namespaces here: {allowed.stderr.strip()}"
        if "root" in os.environ.get("SKRAGENT_REQUIRE", "").split(","):
            pytest.fail(f"SKRAGENT_REQUIRE names root: {why}")
        pytest.skip(why)
    assert builds.base is not None
    return builds.base.result()


@pytest.fixture
def debian(base: Chroot, tmp_path: Path) -> Iterator[Chroot]:
    with a_copy_of(base, tmp_path / "debian") as copy:
        yield copy


@pytest.fixture(scope="session")
def first_installed(
    base: Chroot, deb: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chroot]:
    with a_copy_of(base, tmp_path_factory.mktemp("installed")) as copy:
        copy.install(deb.file("skragent"))
        yield copy


@pytest.fixture
def installed(first_installed: Chroot, tmp_path: Path) -> Iterator[Chroot]:
    """A Debian right after the installation of the agent's package."""
    with a_copy_of(first_installed, tmp_path / "installed") as copy:
        yield copy
