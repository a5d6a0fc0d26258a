"""Where the unit stands in /proc/PID/cgroup, and where it does not."""

from __future__ import annotations

import pytest

from skragent.serving.units import (
    NO_UNIT,
    CallerUnit,
    Hierarchy,
    find_hierarchy,
    parse_cgroup,
)

APP = CallerUnit("app.service")
USER_SLICE = "/user.slice/user-1000.slice"
MANAGER = f"{USER_SLICE}/user@1000.service"


def in_unified(path: str) -> CallerUnit:
    return parse_cgroup(f"0::{path}\n")


def test_version_2_has_one_line() -> None:
    assert parse_cgroup("0::/system.slice/app.service\n") == APP


def test_version_1_has_a_hierarchy_of_systemds() -> None:
    text = (
        "12:pids:/system.slice/other.service\n"
        "11:cpu,cpuacct:/\n"
        "1:name=systemd:/system.slice/app.service\n"
    )
    assert parse_cgroup(text) == APP


def test_with_both_hierarchies_that_of_systemd_counts() -> None:
    text = "1:name=systemd:/system.slice/app.service\n0::/system.slice/b.service\n"
    assert parse_cgroup(text) == APP
    assert parse_cgroup("".join(reversed(text.splitlines(keepends=True)))) == APP


def test_a_process_in_the_root_of_systemd_has_no_unit_despite_version_2() -> None:
    text = "1:name=systemd:/\n0::/system.slice/app.service\n"
    assert parse_cgroup(text) == NO_UNIT


def test_a_hierarchy_of_another_name_does_not_count() -> None:
    text = "2:name=systemd2:/app.service\n1:name=elogind:/app.service\n"
    assert parse_cgroup(text) == NO_UNIT


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/app.service", "app.service"),
        ("/system.slice/app.service", "app.service"),
        ("/a.slice/a-b.slice/a-b-c.slice/app.service", "app.service"),
        ("/_cpu.slice/app.service", "app.service"),
        ("/system.slice/system-app.slice/app@x-1.service", "app@x-1.service"),
        ("/system.slice/app@a@b.service", "app@a@b.service"),
        (r"/system.slice/dev-disk\x2dby.swap", r"dev-disk\x2dby.swap"),
        ("/system.slice/tmp.mount", "tmp.mount"),
        ("/system.slice/app.socket", "app.socket"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/system.slice/__x.service", "_x.service"),
        ("/init.scope", "init.scope"),
        (f"{USER_SLICE}/session-2.scope", "session-2.scope"),
        (f"/{'a' * 247}.service", f"{'a' * 247}.service"),
    ],
)
def test_the_unit_is_the_first_component_below_the_slices(path: str, unit: str) -> None:
    assert in_unified(path) == CallerUnit(unit)


@pytest.mark.parametrize(
    "below",
    ["evil.service", "x/evil.service", "evil.slice/evil.service", "user@0.service"],
)
def test_groups_below_a_unit_are_ignored(below: str) -> None:
    assert in_unified(f"/system.slice/app.service/{below}") == APP


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/system.slice/docker-0123abcd.scope/app.service", "docker-0123abcd.scope"),
        (
            r"/machine.slice/machine-deb\x2d12.scope/payload/system.slice/a.service",
            r"machine-deb\x2d12.scope",
        ),
        (
            "/kubepods.slice/kubepods-pod1.slice/cri-containerd-01.scope",
            "cri-containerd-01.scope",
        ),
    ],
)
def test_the_unit_of_a_container_is_its_scope(path: str, scope: str) -> None:
    assert in_unified(path) == CallerUnit(scope)


@pytest.mark.parametrize(
    ("below", "user_unit"),
    [
        ("/app.slice/app-org.x.slice/web.service", "web.service"),
        ("/init.scope", "init.scope"),
        ("/web.service/evil.service", "web.service"),
        ("", ""),
        ("/app.slice", ""),
        ("/anything/web.service", ""),
        ("/user@0.service/web.service", "user@0.service"),
    ],
)
def test_a_user_unit_is_below_its_manager(below: str, user_unit: str) -> None:
    assert in_unified(MANAGER + below) == CallerUnit("user@1000.service", user_unit)


def test_only_a_user_manager_has_units_inside() -> None:
    path = "/system.slice/user@me.service/web.service"
    assert in_unified(path) == CallerUnit("user@me.service")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/system.slice",
        "/docker/0123abcd/system.slice/app.service",
        "/lxc.payload.web/system.slice/app.service",
        "/system.slice/app@.service",
        "/system.slice/@x.service",
        "/system.slice/app.timers",
        "/system.slice/.service",
        "/system.slice/a b.service",
        "/system.slice/äpp.service",
        "/system.slice/app.service (deleted)",
        f"/{'a' * 248}.service",
        "/.slice/app.service",
        "system.slice/app.service",
        "//app.service",
        "/system.slice//app.service",
        "/app.service//x",
        "/app.service/",
    ],
)
def test_other_paths_have_no_unit(path: str) -> None:
    assert in_unified(path) == NO_UNIT


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/../app.service",
        "/../../system.slice/app.service",
        "/system.slice/../app.service",
        "/system.slice/app.service/..",
        "/system.slice/./app.service",
    ],
)
def test_a_path_outside_of_the_namespace_has_no_unit(path: str) -> None:
    assert in_unified(path) == NO_UNIT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "0",
        "0:",
        "0:/app.service",
        "1::/app.service",
        ":name=systemd",
        "0::/app.service\n0::/app.service\n",
        "1:name=systemd:/app.service\n2:name=systemd:/b.service\n",
    ],
)
def test_malformed_text_has_no_unit(text: str) -> None:
    assert parse_cgroup(text) == NO_UNIT


def test_a_path_may_contain_a_colon() -> None:
    assert in_unified("/a:b.service") == CallerUnit("a:b.service")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0::/init.scope\n", Hierarchy.UNIFIED),
        ("1:name=systemd:/init.scope\n0::/init.scope\n", Hierarchy.NAMED),
        ("9:name=systemd:/\n0::/init.scope\n", Hierarchy.UNIFIED),
        ("1:name=systemd:/init.scope\n0::/\n", Hierarchy.NAMED),
        ("0::/lxc/web/init.scope\n", Hierarchy.UNIFIED),  # of a container
        ("1:name=systemd:/docker/01ab/init.scope\n0::/\n", Hierarchy.NAMED),
        ("0::/xinit.scope\n", None),
        ("4:memory:/init.scope\n0::/\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_the_hierarchy_of_systemd_is_that_of_pid_1(
    text: str, expected: Hierarchy | None
) -> None:
    assert find_hierarchy(text) is expected


def test_another_hierarchy_is_ignored() -> None:
    text = "1:name=systemd:/evil.service\n0::/system.slice/app.service\n"
    assert parse_cgroup(text, Hierarchy.UNIFIED) == APP
    assert parse_cgroup(text, Hierarchy.NAMED) == CallerUnit("evil.service")
    assert parse_cgroup("0::/system.slice/app.service\n", Hierarchy.NAMED) == NO_UNIT


def test_two_paths_in_one_hierarchy_have_no_unit() -> None:
    text = "1:name=systemd:/app.service\n2:name=systemd:/app.service\n0::/app.service\n"
    assert parse_cgroup(text) == NO_UNIT
