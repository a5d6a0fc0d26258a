"""skragent.catalog has one entry for each event, and `journalctl -x` can show them."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.manual import PAGES, ROOT, items

from skragent.observe.names import OBJECT_UNIT_FIELD, Event

CATALOG = ROOT / "packaging" / "journal" / "skragent.catalog"
EVENTS = {event.message_id: event for event in Event}


@dataclass(frozen=True)
class Entry:
    message_id: str
    headers: dict[str, str]
    paragraphs: tuple[str, ...]

    @property
    def fields(self) -> set[str]:
        return set(re.findall(r"@(\w+)@", " ".join(self.headers.values()))) | {
            name for text in self.paragraphs for name in re.findall(r"@(\w+)@", text)
        }


def parse(text: str) -> list[Entry]:
    """Read the format of systemd's catalogs, strictly."""
    blocks = re.split(r"(?m)^-- ", text)
    assert all(line.startswith("#") for line in blocks[0].splitlines() if line)
    found = []
    for block in blocks[1:]:
        head, _, body = block.partition("\n\n")
        message_id, *lines = head.splitlines()
        assert re.fullmatch(r"[0-9a-f]{32}", message_id)
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        found.append(Entry(message_id, headers, tuple(body.strip().split("\n\n"))))
    return found


ENTRIES = parse(CATALOG.read_text())
IDS = [
    EVENTS[e.message_id].name if e.message_id in EVENTS else e.message_id
    for e in ENTRIES
]


def test_every_event_has_one_entry_and_every_entry_has_an_event() -> None:
    assert [entry.message_id for entry in ENTRIES] == list(EVENTS)


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_an_entry_has_an_explanation_a_cause_and_a_remedy(entry: Entry) -> None:
    assert list(entry.headers) == ["Subject", "Defined-By", "Documentation"]
    assert entry.headers["Defined-By"] == "skragent"
    explanation, cause, remedy = entry.paragraphs
    assert not explanation.startswith(("Cause", "Remedy"))
    assert cause.startswith("Cause: ")
    assert remedy.startswith("Remedy: ")
    assert all(text.rstrip().endswith(".") for text in entry.paragraphs)


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_the_manual_page_of_an_entry_exists(entry: Entry) -> None:
    match = re.fullmatch(r"man:(\S+)\((\d)\)", entry.headers["Documentation"])
    assert match
    assert ".".join(match.groups()) in {page.name for page in PAGES}


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_the_fields_of_an_entry_exist(entry: Entry) -> None:
    fields = {
        item.words
        for item in items("skragent.service.8")
        if (item.section, item.subsection) == ("JOURNAL", "Fields")
    }
    assert entry.fields <= fields | {OBJECT_UNIT_FIELD}


def test_journalctl_accepts_the_catalog(tmp_path: Path) -> None:
    if shutil.which("journalctl") is None:
        pytest.skip("needs journalctl (Debian: systemd)")
    for place in ("usr/lib", "var/lib"):
        (tmp_path / place / "systemd" / "catalog").mkdir(parents=True)
    shutil.copy(CATALOG, tmp_path / "usr/lib/systemd/catalog")

    def journalctl(option: str) -> str:
        done = subprocess.run(
            ["journalctl", option, f"--root={tmp_path}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    journalctl("--update-catalog")
    shown = journalctl("--list-catalog").splitlines()
    assert dict(line.split(" ", 1) for line in shown) == {
        entry.message_id: f"skragent: {entry.headers['Subject']}" for entry in ENTRIES
    }
