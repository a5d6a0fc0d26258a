"""A unit that creates groups below its own cannot take the name of another unit."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from skragent.serving.units import NO_UNIT, parse_cgroup

UNITS = st.from_regex(
    r"[a-z]{1,4}(@[a-z]{1,3})?\.(service|scope|socket)", fullmatch=True
)
SLICES = st.from_regex(r"[a-z]{1,4}\.slice", fullmatch=True)
# What mkdir(2) takes in a hierarchy: cgroup_mkdir refuses a line break.
NAMES = (
    UNITS
    | SLICES
    | st.text(
        st.characters(exclude_characters="/\n\0", exclude_categories=["Cs"]), min_size=1
    ).filter(lambda name: name not in (".", ".."))
)
LINES = st.sampled_from(["0::{}\n", "1:name=systemd:{}\n0::/\n", "3:cpu:/\n0::{}\n"])


def path_of(*components: str) -> str:
    return "".join(f"/{component}" for component in components)


@given(st.text() | st.text("0:/.\n=_names.ystmdlicv", max_size=80))
@example("0::/" + "a.slice/" * 5000 + "b.service")
def test_any_text_gives_a_unit_or_none(text: str) -> None:
    found = parse_cgroup(text)
    assert found.unit == "" or f"{found.unit}" in text
    assert found.unit or not found.user_unit


@given(LINES, st.lists(SLICES, max_size=3), UNITS, st.lists(NAMES, max_size=4))
def test_groups_below_a_unit_do_not_change_its_name(
    line: str, slices: list[str], unit: str, below: list[str]
) -> None:
    found = parse_cgroup(line.replace("{}", path_of(*slices, unit, *below)))
    assert (found.unit, found.user_unit) == (unit, "")


@given(LINES, st.lists(NAMES, max_size=4))
def test_groups_below_a_user_manager_stay_below_it(line: str, below: list[str]) -> None:
    manager = ("user.slice", "user-1000.slice", "user@1000.service")
    found = parse_cgroup(line.replace("{}", path_of(*manager, *below)))
    assert found.unit == "user@1000.service"


@given(LINES, st.lists(NAMES, max_size=3), st.lists(NAMES, max_size=3))
def test_a_path_with_a_step_upwards_has_no_unit(
    line: str, before: list[str], after: list[str]
) -> None:
    assert parse_cgroup(line.replace("{}", path_of(*before, "..", *after))) == NO_UNIT
