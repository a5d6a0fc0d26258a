"""skragent-errors(7) has every error code, with what the agent does, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.error_codes import dispositions, listed_codes, raised
from support.manual import PAGES, items, words_of

PAGE = "skragent-errors.7"

DESCRIBED = {item.words.split()[0]: item for item in items(PAGE) if item.macro == "Er"}
WORDS = (
    *("retry", "reattest", "retry_slowly", "denied", "fatal", "varies", "refused"),
)


def test_the_page_has_every_code_and_no_other() -> None:
    assert DESCRIBED.keys() == raised()


def test_every_code_that_the_taxonomy_lists_can_be_raised() -> None:
    assert listed_codes() <= raised()


def test_no_code_is_there_twice() -> None:
    assert len(DESCRIBED) == sum(item.macro == "Er" for item in items(PAGE))


def test_a_code_that_is_raised_one_way_only_says_so() -> None:
    ways: dict[str, set[str]] = {}
    for code, disposition in dispositions():
        ways.setdefault(code, set()).add(disposition.value if disposition else "")
    compared = 0
    for code, dispositions_said in ways.items():
        is_answer = code.startswith("serve.")
        said = {"refused"} if is_answer else dispositions_said
        if said == {""} or code not in DESCRIBED:
            continue
        word = DESCRIBED[code].words.partition(" Pq ")[2]
        assert {word} == said or word == "varies", code
        compared += 1
    assert compared > 50


@pytest.mark.parametrize("code", sorted(DESCRIBED))
def test_a_code_has_a_word_that_is_explained_and_a_text(code: str) -> None:
    item = DESCRIBED[code]
    assert item.words.partition(" Pq ")[2] in WORDS
    assert len(item.text) > 20
    explained = [i for i in items(PAGE) if i.section == "DESCRIPTION"]
    assert sorted(i.macro for i in explained) == sorted(WORDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_code_that_does_not_exist(page: Path) -> None:
    named = words_of(page.name, "Er")
    assert {word for word in named if re.fullmatch(r"[a-z_.]+", word)} <= (
        DESCRIBED.keys()
    )
