"""The content of the packages, and reproducible builds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.packages import Built

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]

PACKAGES = ("skragent", "skragent-emulator")
LIBRARY = "usr/lib/skragent"


def field(file: Path, name: str) -> str:
    return subprocess.check_output(["dpkg-deb", "--field", file, name], text=True)


def test_the_build_lists_its_packages(deb: Built, rpm: Built) -> None:
    for built, pattern in ((deb, r"\.deb"), (rpm, r"\.rpm")):
        assert len(re.findall(rf"^/.*{pattern}$", built.output, re.MULTILINE)) == 2
        assert (
            len(re.findall(r"sha256 +[0-9a-f]{64}$", built.output, re.MULTILINE)) == 2
        )
        assert "/usr/bin/skragent" in built.output


def test_lintian_finds_no_error(deb: Built) -> None:
    files = [deb.file(package) for package in PACKAGES]
    command = ["lintian", "--fail-on", "error", "--allow-root", *map(str, files)]
    judged = subprocess.run(command, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("form", ["deb", "rpm"])
def test_a_second_build_elsewhere_gives_the_same_bytes(
    form: str, elsewhere: dict[str, Built], request: pytest.FixtureRequest
) -> None:
    first: Built = request.getfixturevalue(form)
    second = elsewhere[form]
    for package in PACKAGES:
        assert second.file(package).read_bytes() == first.file(package).read_bytes()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_depend_on_python_and_the_libraries(
    deb: Built, package: str
) -> None:
    depends = field(deb.file(package), "Depends")
    assert re.search(r"python3 \(>= 3\.\d+\), python3 \(<< 3\.\d+\)", depends)
    assert "libc6 (>= " in depends
    if package == "skragent":
        for library in ("libsystemd0", "libtss2-esys", "libtss2-tctildr"):
            assert library in depends
    else:
        version = field(deb.file("skragent"), "Version").strip()
        assert f"skragent (= {version})" in depends
        assert "swtpm" in depends


def test_only_the_emulators_package_has_the_emulator(trees: dict[str, Path]) -> None:
    for package, path in trees.items():
        has_it = (path / LIBRARY / "skragent/emulator").exists()
        assert has_it == (package == "skragent-emulator")
    listed = [
        {p.relative_to(tree) for p in tree.rglob("*") if p.is_file()}
        for tree in trees.values()
    ]
    assert not listed[0] & listed[1]


def test_every_module_is_compiled_and_not_checked_by_its_date(
    trees: dict[str, Path],
) -> None:
    for tree in trees.values():
        modules = list((tree / LIBRARY).rglob("*.py"))
        assert len(modules) > 100
        for module in modules:
            (compiled,) = module.parent.glob(f"__pycache__/{module.stem}.cpython-*.pyc")
            # PEP 552: a hash-based pyc that Python does not check.
            assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", module


def test_no_file_names_paths_of_the_build_machine(trees: dict[str, Path]) -> None:
    places = [Path(__file__).parents[2], Path(sys.prefix), Path.home()]
    config = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    traces = [str(place).encode() + b"/" for place in places if len(place.parts) > 1]
    traces += [b"/tmp/pip-", *re.findall(rb"//[^/'\s]+/", config.stdout.encode())]
    for tree in trees.values():
        for file in tree.rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            found = [trace for trace in traces if trace in content]
            assert not found, file


def test_root_owns_every_file_and_only_root_can_write(deb: Built) -> None:
    for package in PACKAGES:
        command = ["dpkg-deb", "--contents", str(deb.file(package))]
        for line in subprocess.check_output(command, text=True).splitlines():
            mode, owner = line.split()[:2]
            assert owner == "root/root"
            link = "l" + "rwx" * 3  # a link's own mode has no effect
            assert re.fullmatch(rf"{link}|[d-]rw[x-]r-[x-](r-[x-]|---)", mode), line


@pytest.mark.parametrize("package", PACKAGES)
def test_the_bill_of_materials_names_all_vendored_libraries(
    trees: dict[str, Path], package: str
) -> None:
    tree = trees[package]
    bill = json.loads((tree / f"usr/share/doc/{package}/sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["specVersion"] == "1.6"
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])
    components = bill["components"]
    assert len(components) == len(list((tree / LIBRARY).glob("*.dist-info")))
    lock = {"skragent": "requirements", "skragent-emulator": "emulator"}[package]
    pinned = (Path(__file__).parents[2] / f"packaging/{lock}.lock").read_text()
    assert len(components) == pinned.count("==")
    for component in components:
        name, version = component["name"], component["version"]
        assert re.fullmatch(rf"pkg:pypi/[a-z0-9-]+@{version}", component["purl"]), name
        assert component["licenses"][0] != {"license": {"name": "unknown"}}, name
        assert component["bom-ref"] == component["purl"]
        (digest,) = component["hashes"]
        assert digest["alg"] == "SHA-256"
        assert f"--hash=sha256:{digest['content']}" in pinned, name
    known = {component["bom-ref"] for component in components}
    assert all(set(entry["dependsOn"]) <= known for entry in bill["dependencies"])


@pytest.mark.parametrize("package", PACKAGES)
def test_the_scripts_of_the_rpm_are_shell_scripts_without_macros(
    rpm: Built, package: str
) -> None:
    query = ["rpm", "--query", "--package", str(rpm.file(package)), "--queryformat"]
    for tag in ("PREIN", "POSTIN", "PREUN", "POSTUN", "PRETRANS", "POSTTRANS"):
        script = subprocess.check_output([*query, f"[%{{{tag}}}]"], text=True)
        assert "%{" not in script
        assert not re.search(r"%[a-z]", script)  # a macro that rpm did not expand
        subprocess.run(["sh", "-n"], input=script, check=True, text=True)
