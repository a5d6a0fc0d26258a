"""Tests whose tool is missing skip with a reason, or fail if SKRAGENT_REQUIRE is set.

SKRAGENT_REQUIRE is a comma-separated list of markers (see `_MISSING`). A test with one
of these markers fails if its tool is missing. CI sets it.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from skragent.observe import INTERNAL_ERRORS

# The profile of all property tests. The time of an example depends on the machine, so
# there is no deadline and no health check that measures time. Examples are random, so
# that each run tries new examples. An example that fails is a fault of the code;
# `print_blob` prints how to run the example again. A test sets only its own number of
# examples or steps.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"
# The copy of .ci/setup, and the file of Debian's package.
_CLOUD_INIT_SCHEMAS = (
    Path(__file__).resolve().parents[1] / ".venv/share/cloud-init-schema.json",
    Path(
        "/usr/lib/python3/dist-packages/cloudinit/config/schemas"
        "/schema-cloud-config-v1.json"
    ),
)

# .ci/setup unpacks Debian's apparmor package here.
_APPARMOR = Path(__file__).resolve().parents[1] / ".venv/share/apparmor"
APPARMOR_PARSER = shutil.which("apparmor_parser") or shutil.which(
    "apparmor_parser", path=str(_APPARMOR / "sbin")
)

_VM_TOOLS = ("qemu-system-x86_64", "swtpm", "mmdebstrap", "mke2fs", "depmod", "socat")
_NO_VM = ", ".join(tool for tool in _VM_TOOLS if not shutil.which(tool))

_MISSING = {
    "qemu": f"{_NO_VM} (`.ci/setup-vm` installs it)" if _NO_VM else "",
    "swtpm": "" if shutil.which("swtpm") else "the swtpm binary (Debian: swtpm)",
    "tpm2_tools": ""
    if shutil.which("tpm2_nvread")
    else "tpm2_nvread (Debian: tpm2-tools)",
    "systemd_analyze": ""
    if shutil.which("systemd-analyze")
    else "systemd-analyze (Debian: systemd)",
    "apparmor": "" if APPARMOR_PARSER else "apparmor_parser (Debian: apparmor)",
    "packages": ""
    if all(map(shutil.which, ("lintian", "rpmbuild", "mmdebstrap", "dpkg-shlibdeps")))
    else "the tools that `make package-tools` installs",
    "root": "" if os.geteuid() == 0 else "root",
    "cloud_init": ""
    if any(path.exists() for path in _CLOUD_INIT_SCHEMAS)
    else "cloud-init's schema (Debian: cloud-init)",
    "vectors": "" if VECTORS.is_dir() else "the captures in ../shared/vectors",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = os.environ.get("SKRAGENT_REQUIRE", "").split(",")
    for marker, missing in _MISSING.items():
        if missing and item.get_closest_marker(marker):
            if marker in required:
                pytest.fail(f"SKRAGENT_REQUIRE names {marker}: needs {missing}")
            pytest.skip(f"needs {missing}")


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail if a test leaves signals blocked, because later processes inherit that."""
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if blocked:
        names = ", ".join(sorted(signal.Signals(number).name for number in blocked))
        pytest.fail(f"{item.nodeid} left blocked: {names}")


@pytest.fixture(autouse=True)
def _no_internal_errors_yet() -> None:
    """Reset the process's record of internal errors before a test."""
    INTERNAL_ERRORS.clear()


@pytest.fixture
def vectors() -> Path:
    """The captures of real machines; the test must have the `vectors` marker."""
    return VECTORS


@pytest.fixture
def apparmor_parser() -> list[str]:
    """The parser with its options; the test must have the `apparmor` marker."""
    parser = str(APPARMOR_PARSER)
    ours = [f"--base={_APPARMOR}/etc/apparmor.d", "--config-file=/dev/null"]
    return [parser, *(ours if parser.startswith(str(_APPARMOR)) else [])]


@pytest.fixture
def cloud_init_schema() -> Path:
    """cloud-init's own schema; the test must have the `cloud_init` marker."""
    return next(path for path in _CLOUD_INIT_SCHEMAS if path.exists())
