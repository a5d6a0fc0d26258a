"""The packages, built once for all tests, and a Debian to install them in.

build/package keeps the compiled libraries, and build/cache the Debian. The long builds
that the selected tests need start at once, in the background.
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


_Builds = dict[str, Built]


class Begun:
    """The builds in the background: those that the selected tests need."""

    def __init__(self, pool: ThreadPoolExecutor, wanted: set[str], place: Path) -> None:
        self.deb = pool.submit(build, "deb", place / "deb")
        self.elsewhere: Future[_Builds] | None = None
        self.base: Future[Chroot] | None = None
        if "elsewhere" in wanted:
            self.elsewhere = pool.submit(_build_elsewhere, place / "else where")
        if "base" in wanted and os.geteuid() == 0:
            self.base = pool.submit(lambda: _make_base(self.deb.result()))


@pytest.fixture(scope="session", autouse=True)
def begun(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Begun]:
    wanted = {
        name
        for item in request.session.items
        if isinstance(item, pytest.Function)
        for name in item.fixturenames
    }
    with ThreadPoolExecutor(3) as pool:
        yield Begun(pool, wanted, tmp_path_factory.mktemp("begun"))


def _build_elsewhere(place: Path) -> _Builds:
    """Build without files of the first build: download and compile everything again."""
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
def deb(begun: Begun) -> Built:
    return begun.deb.result()


@pytest.fixture(scope="session")
def elsewhere(begun: Begun) -> _Builds:
    """The result of a second build, with another folder, time and umask."""
    assert begun.elsewhere is not None
    return begun.elsewhere.result()


@pytest.fixture(scope="session")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build("rpm", tmp_path_factory.mktemp("rpm"))


@pytest.fixture(scope="session")
def trees(deb: Built, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each Debian package, unpacked to its own folder."""
    found = {}
    for package in PACKAGES:
        found[package] = tmp_path_factory.mktemp(package)
        command = ["dpkg-deb", "--extract", str(deb.file(package)), str(found[package])]
        subprocess.run(command, check=True)
    return found


@pytest.fixture(scope="session")
def newer_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, with another initial configuration and another socket."""
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
def base(begun: Begun) -> Chroot:
    """A Debian with the dependencies of the packages; do not write to it."""
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
    assert begun.base is not None
    return begun.base.result()


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
    """A Debian with the agent's package, fresh after the installation."""
    with a_copy_of(first_installed, tmp_path / "installed") as copy:
        yield copy
