"""skragent.service(8) has every metric, journal field, event and unit, and no other."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.error_codes import trees
from support.manual import PAGES, ROOT, Item, items, source, words_of

from skragent import exit_codes
from skragent.agent.signals_and_limits import EXIT_DELAY_SECONDS
from skragent.observe import names
from skragent.observe.counters import Counters, KeySample
from skragent.observe.metrics import _Collector
from skragent.observe.names import Event

PAGE = "skragent.service.8"
UNITS = ROOT / "systemd"


def listed(section: str, macro: str, subsection: str = "") -> list[Item]:
    return [
        item
        for item in items(PAGE)
        if (item.section, item.subsection, item.macro) == (section, subsection, macro)
    ]


def exposed() -> dict[str, tuple[str, ...]]:
    """The metrics as Prometheus sees them, with their labels."""
    held = KeySample(
        "db",
        is_available=True,
        is_stale=False,
        needs_attention=False,
        released_at=1,
        not_after=2,
    )
    families = _Collector(Counters(("db",)), lambda: [held]).collect()
    found: dict[str, tuple[str, ...]] = {}
    for family in families:
        ending = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels: Iterable[str] = getattr(family, "_labelnames", ())
        if family.type == "info":
            labels = family.samples[0].labels
        found[family.name + ending] = tuple(labels)
    return found


def test_the_page_has_every_metric_with_its_labels() -> None:
    described = {}
    for item in listed("METRICS", "Cm"):
        name, _, labels = item.words.partition(" Brq ")
        described[name] = tuple(labels.split(" , ")) if labels else ()
    assert described == exposed()


def test_every_name_of_a_metric_is_exposed() -> None:
    constants = [v for v in vars(names).values() if isinstance(v, names.Metric)]
    assert sorted(constants) == sorted(names.METRICS)
    assert exposed() == {m.exposed_name: m.labels for m in names.METRICS}


def test_values_of_labels_are_told() -> None:
    text = " ".join(source(PAGE).partition(".Sh METRICS")[2].split())
    values = (*names.DENIED_REASONS, *names.RESULTS, *names.INTERNAL_ERROR_EVENTS)
    assert all(value in text for value in values)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_metric_that_does_not_exist(page: Path) -> None:
    named = set(re.findall(r"\bskragent_[a-z_]+", source(page.name)))
    assert named <= exposed().keys()


def test_the_page_has_every_event_with_its_message_id() -> None:
    described = [i.words for i in listed("JOURNAL", "Dv", "Messages")]
    assert described == [f"{e.name} No = {e.message_id}" for e in Event]


def test_the_page_has_every_journal_field() -> None:
    fields = {"UNIT", "CREDENTIAL", "CODE", "KEY"}
    for _, tree in trees():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "log"
            ):
                fields |= {k.arg.upper() for k in node.keywords if k.arg}
    described = [i.words for i in listed("JOURNAL", "Dv", "Fields")]
    expected = {names.FIELD_PREFIX + field for field in fields - {"ERROR"}}
    assert described == sorted(expected)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_an_event_that_does_not_exist(page: Path) -> None:
    named = {
        word for word in words_of(page.name, "Dv") if not word.startswith("SKRAGENT_")
    }
    assert named <= {event.name for event in Event}


def test_the_page_has_every_unit() -> None:
    described = [i.words for i in listed("DESCRIPTION", "Pa", "Units")]
    units = {path.name for path in UNITS.glob("skragent*.*")}
    assert set(described) == units
    heading = source(PAGE).partition(".Nd")[0]
    assert set(re.findall(r"(?m)^\.Nm (\S+)", heading)) == units


def test_what_the_page_says_of_the_service_is_so() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(UNITS / "skragent.service")
    text = " ".join(source(PAGE).split())
    service = unit["Service"]
    assert f"({service['WatchdogSec']} s)" in text
    assert service["RestartSec"] == "5"
    assert "after five seconds" in text
    assert EXIT_DELAY_SECONDS == 10
    assert "ends only after ten seconds then" in text
    for status in (exit_codes.UNAVAILABLE, exit_codes.CONFIG):
        assert re.search(rf"\b{status} \(", text)
    for setting in listed("HARDENING", "Li"):
        name, _, value = setting.words.partition("=")
        assert service.get(name) in ({None} if not value else {"default"})


def test_sockets_have_the_modes_that_the_page_says() -> None:
    for item in listed("DESCRIPTION", "Pa", "Units"):
        if item.words.endswith(".socket"):
            unit = configparser.ConfigParser(interpolation=None, strict=False)
            unit.read(UNITS / item.words)
            path, mode = unit["Socket"]["ListenStream"], unit["Socket"]["SocketMode"]
            assert f"{path} , {mode}" in item.text


@pytest.mark.parametrize(
    "name", ["proxy.conf", "addresses.conf", "all-keys-first.conf", "web.service"]
)
def test_the_page_shows_the_lines_of_the_examples(name: str) -> None:
    shown = (
        "IPAddress",
        "Requires",
        "Environment=HTTPS",
        "LoadCred",
        "ExecStartP",
    )
    lines = (UNITS / "examples" / name).read_text().splitlines()
    lines = [line for line in lines if line.startswith(shown)]
    assert lines
    assert all(line in source(PAGE) for line in lines)
