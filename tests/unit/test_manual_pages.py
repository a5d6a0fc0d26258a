"""The manual pages: roff that tools understand, and that leads where it says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.manual import MANUAL, PAGES, source

# Not faults: [tables] end with a delimiter; other pages need not be installed here.
_NOT_FAULTS = ("trailing delimiter: Ss", "referenced manual not found")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_finds_no_fault(page: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("needs mandoc (Debian: mandoc)")
    found = subprocess.run(
        ["mandoc", "-Tlint", "-Wstyle", page],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    assert [line for line in found if not any(no in line for no in _NOT_FAULTS)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_groff_finds_no_fault(page: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("needs groff (Debian: groff-base)")
    found = subprocess.run(
        ["groff", "-mandoc", "-ww", "-Tutf8", "-z", page],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_called_as_it_says(page: Path) -> None:
    title, section = re.findall(r"(?m)^\.Dt (\S+) (\d)$", source(page.name))[0]
    assert f"{title.lower()}.{section}" == page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_refers_to_pages_that_there_are(page: Path) -> None:
    referred = re.findall(r"(?m)^(?:\.Pq )?\.?Xr (\S+) (\d)", source(page.name))
    ours = {f"{name}.{section}" for name, section in referred if "skragent" in name}
    assert ours <= {path.name for path in PAGES}
    assert len(ours - {page.name}) == len(PAGES) - 1, "each leads to all others"


def test_units_and_journal_name_pages_that_there_are() -> None:
    root = MANUAL.parents[1]
    named = {
        match
        for path in [*root.glob("systemd/*.*"), *root.glob("packaging/journal/*")]
        if path.is_file()
        for match in re.findall(r"man:(\S+)\((\d)\)", path.read_text())
    }
    assert named
    assert {f"{name}.{section}" for name, section in named} <= {
        path.name for path in PAGES
    }
