"""README.md and docs/: each block can be parsed, and each name in them exists."""

from __future__ import annotations

import argparse
import ast
import configparser
import functools
import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from support import documents
from support.commands import parser_of
from support.deadlines import DEADLINE_SECONDS
from support.documents import ROOT, Block

from skragent import config
from skragent.error_catalog import CODES
from skragent.observe import names

LANGUAGES = {"sh", "toml", "ini", "python", "yaml", "json", "text", "mermaid"}
PAGES = [p for p in documents.paths() if p != "CHANGELOG.md"]
MAX_README_WORDS = 900


def ids(block: Block) -> str:
    return str(block)


def skragent_commands() -> list[list[str]]:
    """Return the words of each `skragent …` command in a block."""
    found = []
    for block in documents.blocks("sh"):
        for line in documents.command_lines(block):
            words = shlex.split(line, comments=True)
            for index, word in enumerate(words):
                if word == "skragent" and (index == 0 or words[index - 1] in STARTS):
                    found.append(list(_until_operator(words[index + 1 :])))
    return found


STARTS = {"sudo", "postgres", "&&", "|", ";"}


def _until_operator(words: list[str]) -> list[str]:
    ends = [i for i, word in enumerate(words) if word in {"|", "&&", ";", ">"}]
    return words[: min(ends, default=len(words))]


def test_the_readme_begins_with_the_two_commands() -> None:
    first, *_ = (b for b in documents.blocks() if b.path == "README.md")
    assert [line.split()[:2] for line in documents.command_lines(first)] == [
        ["make", "demo"],
        ["make", "test"],
    ]
    assert first.line <= 3


def test_the_readme_is_short() -> None:
    assert len(documents.read("README.md").split()) <= MAX_README_WORDS


def test_the_index_has_every_page() -> None:
    """A directory may have an index of its own, which the main index names."""
    pages = [path for path in documents.paths() if path.startswith("docs/")]
    for path in pages:
        index = f"{Path(path).parent}/README.md"
        if path == index or index not in pages:
            index = "docs/README.md"
        name = path.removeprefix(f"{Path(index).parent}/")
        assert path == index or f"({name})" in documents.read(index), path


@pytest.mark.parametrize("block", documents.blocks(), ids=ids)
def test_each_block_has_a_language(block: Block) -> None:
    drawing = re.search("[─│►]", block.text)
    assert block.language in LANGUAGES or drawing


@pytest.mark.parametrize("block", documents.blocks("sh"), ids=ids)
def test_the_shell_can_read_each_block(block: Block) -> None:
    subprocess.run(
        ["/bin/bash", "-n", "-c", block.text], check=True, timeout=DEADLINE_SECONDS
    )


def test_each_command_of_skragent_can_be_parsed() -> None:
    commands = skragent_commands()
    assert len(commands) >= 15
    for words in commands:
        parsed = parser_of("", words).parse_args(words)
        assert isinstance(parsed, argparse.Namespace)


@pytest.mark.parametrize("path", PAGES)
def test_each_target_of_make_exists(path: str) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = re.findall(r"(?m)(?:^|`)make ([a-z-]+)", documents.read(path))
    assert set(named) <= targets


@pytest.mark.parametrize("block", documents.blocks("toml"), ids=ids)
def test_the_agent_can_read_each_configuration(block: Block) -> None:
    """Some blocks are a part of a file: they get a key, which a file must have."""
    key = '\n[keys.any]\nvault = "https://example.vault.azure.net"\n'
    config.parse_config(block.text + ("" if "[keys." in block.text else key))


@pytest.mark.parametrize("block", documents.blocks("ini"), ids=ids)
def test_each_unit_can_be_read(block: Block) -> None:
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(block.text)
    assert set(parser.sections()) <= {"Unit", "Service", "Install"}


@pytest.mark.parametrize("block", documents.blocks("python"), ids=ids)
def test_each_example_in_python_can_be_compiled(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", documents.blocks("yaml"), ids=ids)
def test_each_yaml_block_can_be_read(block: Block) -> None:
    assert yaml.safe_load(block.text)


@pytest.mark.parametrize("block", documents.blocks("json"), ids=ids)
def test_each_json_block_can_be_read(block: Block) -> None:
    assert json.loads(block.text)


@functools.cache
def metrics() -> frozenset[str]:
    """Return the name of each metric, without `_total` of a counter."""
    return frozenset(n for m in names.METRICS for n in (m.name, m.exposed_name))


@pytest.mark.parametrize("path", PAGES)
def test_each_metric_exists(path: str) -> None:
    text = documents.read(path)
    named = set(re.findall(r"(?<![\w/.-])skragent_[a-z0-9_]+(?!\w|\.\w|_)", text))
    assert {name.removesuffix("_total") for name in named} <= metrics()


@pytest.mark.parametrize("path", PAGES)
def test_each_path_of_the_repository_exists(path: str) -> None:
    """A renamed package or test must be renamed in the pages, too."""
    start = r"`((?:skragent|tests|packaging|systemd|docs|\.ci)/[\w./*-]*)`"
    for named in re.findall(start, documents.prose(path)):
        assert (ROOT / named).exists(), named


def test_settings_in_the_pages_exist() -> None:
    fields = {
        f"{table}.{name}"
        for table, value in config.Config.__annotations__.items()
        for name in getattr(config, str(value), config.Config).__annotations__
    }
    tables = {field.partition(".")[0] for field in fields}
    assert len(fields) > 20
    for path in PAGES:
        for table, name in re.findall(r"`([a-z]+)\.([a-z_]+)", documents.prose(path)):
            is_module = (ROOT / "skragent" / table / f"{name}.py").exists()
            if table in tables and f"{table}.{name}" not in CODES and not is_module:
                assert f"{table}.{name}" in fields, (path, table, name)


@functools.cache
def check_links() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "check_links", ROOT / ".ci" / "check_links.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("## What ends a held key", "what-ends-a-held-key"),
        ("# Units: LoadCredential=", "units-loadcredential"),
        ("### `?wait=` and [links](x.md)", "wait-and-links"),
    ],
)
def test_a_heading_has_the_anchor_of_github(heading: str, anchor: str) -> None:
    assert check_links().anchors_of(heading) == {anchor}


def test_a_link_without_a_target_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# One\n[a](#one) [b](b.md) [c](#two)\n```\n[d](d.md)\n```\n`[e](e.md)`\n"
        "[f](https://example.com/x) [g](../a.md)\n"
    )
    found = list(check_links().check_file(tmp_path, page))
    assert [(line, link) for line, link, _ in found] == [
        (2, "b.md"),
        (2, "#two"),
        (7, "../a.md"),
    ]
