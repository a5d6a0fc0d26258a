"""The catalog and skragent-errors(7) have every error code, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.error_codes import CLASSES, dispositions, raised
from support.manual import PAGES, items, words_of

from skragent.denials import DENIALS
from skragent.error_catalog import ACTIONS, CODES, GROUPS, Disposition, disposition_of
from skragent.errors import AgentError

PAGE = "skragent-errors.7"
DESCRIBED = {item.words.split()[0]: item for item in items(PAGE) if item.macro == "Er"}


def test_the_catalog_has_every_code_that_the_source_raises_and_no_other() -> None:
    assert CODES.keys() == raised()


def test_no_code_is_in_the_catalog_twice() -> None:
    assert len(CODES) == sum(len(group.codes) for group in GROUPS)


def test_a_call_does_not_contradict_the_disposition_of_the_catalog() -> None:
    for code, disposition in dispositions():
        if disposition is not None and code in CODES:
            assert disposition_of(code) in (disposition, None), code


def test_each_denial_and_no_other_code_has_the_disposition_denied() -> None:
    listed = {code for code in CODES if disposition_of(code) is Disposition.DENIED}
    assert listed == DENIALS.keys()


@pytest.mark.parametrize("code", sorted(CODES))
def test_an_error_has_the_disposition_of_its_code(code: str) -> None:
    listed = disposition_of(code)
    expected = listed or Disposition.RETRY_SLOWLY
    assert AgentError("", code=code).disposition is expected


def test_responses_have_no_disposition() -> None:
    for code, entry in CODES.items():
        if code.startswith("serve."):
            assert entry.action == "rejected"


def test_every_class_has_a_code_of_the_catalog_or_its_stem() -> None:
    for kind in CLASSES.values():
        assert any(f"{code}.".startswith(f"{kind.code}.") for code in CODES)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_has_an_action_a_cause_and_a_remedy(code: str) -> None:
    entry = CODES[code]
    assert entry.action in ACTIONS
    for text in (entry.cause, entry.remedy):
        assert text.startswith(("`", "swtpm", "faults.sock")) or not text[0].islower()
        assert text.endswith((".", "FILE"))


def test_the_page_has_every_code_with_its_action() -> None:
    assert {code: item.words for code, item in DESCRIBED.items()} == {
        code: f"{code} Pq {entry.action}" for code, entry in CODES.items()
    }
    explained = [i.macro for i in items(PAGE) if i.section == "DESCRIPTION"]
    assert explained == list(ACTIONS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_code_that_does_not_exist(page: Path) -> None:
    named = words_of(page.name, "Er")
    assert {word for word in named if re.fullmatch(r"[a-z_.]+", word)} <= CODES.keys()
