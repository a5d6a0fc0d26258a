"""The syntax of faults, and the completeness of their list."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from skragent.emulator.faults.catalogue import all_faults, parse
from skragent.emulator.faults.grammar import MISSING, FaultError
from skragent.emulator.faults.tampering import flip, with_member

INTEGRATION = Path(__file__).resolve().parents[1] / "integration"


@pytest.mark.parametrize(
    ("text", "member", "value", "options"),
    [
        ("maa.hang", "", None, {}),
        ("maa.status=503", "", 503, {}),
        (
            "maa.status=503,retry_after=5,times=2",
            "",
            503,
            {"retry_after": "5", "times": 2},
        ),
        ("imds.latency=0.25", "", 0.25, {}),
        ("maa.oversize", "", 1 << 24, {}),
        ("maa.oversize=10", "", 10, {}),
        ("maa.token.exp=-60", "exp", -60, {}),
        ("maa.token.a.b-c=x", "a.b-c", "x", {}),
        ("maa.token.a=x=y", "a", "x=y", {}),
        ("maa.token.a", "a", MISSING, {}),
        ("maa.token.a=null", "a", None, {}),
        ("maa.token.a=", "a", "", {}),
        (
            'maa.token.a={"b":1,"times":2},times=3',
            "a",
            {"b": 1, "times": 2},
            {"times": 3},
        ),
        ("vault.status=403,message=no, not now", "", 403, {"message": "no, not now"}),
        ("vm.rc=0x922,command=0x14e", "", 0x922, {"command": 0x14E}),
        ("vault.key.disabled", "", "", {}),
    ],
)
def test_fault_is_parsed(
    text: str, member: str, value: object, options: dict[str, Any]
) -> None:
    _, asked = parse(text)
    assert (asked.member, asked.value, dict(asked.options)) == (member, value, options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the fault `` does not exist"),
        ("maa", "the fault `maa` does not exist"),
        ("maa.nothing", "the fault `maa.nothing` does not exist"),
        ("maa.token.", "the fault `maa.token.` does not exist"),
        ("maa.token..exp", "the fault `maa.token..exp` does not exist"),
        ("imds.token.exp=1", "the fault `imds.token.exp` does not exist"),
        ("maa.status", "requires a value: maa.status=STATUS"),
        ("maa.status=", "a whole number from 200 to 599"),
        ("maa.status=199", "a whole number from 200 to 599"),
        ("maa.status=600", "a whole number from 200 to 599"),
        ("maa.status=oops", "a whole number from 200 to 599"),
        ("maa.hang=1", "does not take a value: maa.hang"),
        ("maa.hang,retry_after=1", "the option `retry_after` does not exist"),
        ("maa.hang,times=1,times=2", "the option `times` is given twice"),
        ("maa.hang,times=0", "`times` must be a whole number from 1"),
        ("maa.latency=-1", "seconds from 0"),
        ("maa.latency=nan", "seconds from 0"),
        ("maa.latency=x", "seconds from 0"),
        ("maa.content_type=", "a text of one line"),
        ("maa.content_type=a\nb: c", "a text of one line"),
        ("maa.status=429,retry_after=1\r\nx: y", "a text of one line"),
        ("maa.key=lost", "one of unknown, forged, not `lost`"),
        ("vm.pcr=24", "a whole number from 0 to 23"),
        ("vault.role.revoked=sign", "one of all, "),
    ],
)
def test_invalid_fault_is_refused_with_a_reason(text: str, says: str) -> None:
    with pytest.raises(FaultError) as caught:
        parse(text)
    assert caught.value.code == "emulator.fault"
    assert says in caught.value.message


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [f"{fault.service}.{fault.effect}" for fault in all_faults()]
    assert len(names) == len(set(names))
    assert {name.partition(".")[0] for name in names} == {
        "imds",
        "maa",
        "entra",
        "vault",
        "hsm",
        "azure",
        "vm",
    }


def test_every_fault_has_a_description_of_one_sentence() -> None:
    for fault in all_faults():
        assert re.fullmatch(r"[A-Z][^\n]{20,80}\.", fault.summary), fault.pattern


def test_every_fault_is_seen_by_a_test_of_its_effect() -> None:
    paths = INTEGRATION.glob("test_emulator_faults_*.py")
    text = "".join(path.read_text() for path in paths)
    for fault in all_faults():
        effect = re.escape(fault.effect.removesuffix(".*"))
        assert re.search(rf'[".]{effect}[".=,{{]', text), fault.pattern


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        ("a", 1, {"a": 1, "b": {"c": 2}}),
        ("b.c", 3, {"a": 0, "b": {"c": 3}}),
        ("b.d.e", 3, {"a": 0, "b": {"c": 2, "d": {"e": 3}}}),
        ("a.x", 3, {"a": {"x": 3}, "b": {"c": 2}}),
        ("b.c", None, {"a": 0, "b": {"c": None}}),
        ("b.c", MISSING, {"a": 0, "b": {}}),
        ("z", MISSING, {"a": 0, "b": {"c": 2}}),
    ],
)
def test_member_is_changed_in_a_copy(
    path: str, value: object, changed: dict[str, Any]
) -> None:
    document = {"a": 0, "b": {"c": 2}}
    assert with_member(document, path, value) == changed
    assert document == {"a": 0, "b": {"c": 2}}


@pytest.mark.parametrize(
    ("path", "value", "keys"),
    [
        ("keys.0", "x", ["x", {"n": 2}]),
        ("keys.1.n", 3, [{"n": 1}, {"n": 3}]),
        ("keys.0", MISSING, [{"n": 2}]),
        ("keys.2", 3, {"2": 3}),
    ],
)
def test_member_of_a_list_has_its_number(
    path: str, value: object, keys: object
) -> None:
    document = {"keys": [{"n": 1}, {"n": 2}]}
    assert with_member(document, path, value) == {"keys": keys}
    assert document == {"keys": [{"n": 1}, {"n": 2}]}


@pytest.mark.parametrize("size", [1, 2, 255])
def test_one_bit_is_flipped(size: int) -> None:
    flipped = int.from_bytes(flip(bytes(size)))
    assert flipped.bit_count() == 1
