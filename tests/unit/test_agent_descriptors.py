"""The limit of open descriptors is raised as far as it is needed and allowed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skragent.agent.descriptors import descriptors_for
from skragent.config import ServingConfig

CODE = """
import resource, sys
from skragent.agent.descriptors import allow_descriptors
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(allow_descriptors(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected"),
    [
        (64, 500, 400, "400 400 500"),
        (64, 500, 500, "500 500 500"),
        (64, 500, 501, "500 500 500"),
        (300, 500, 200, "300 300 500"),
    ],
)
def test_the_limit_becomes_what_it_can(
    soft: int, hard: int, wanted: int, expected: str
) -> None:
    arguments = [str(soft), str(hard), str(wanted)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", CODE, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == expected.split()


def test_what_is_admitted_by_default_fits_into_the_units_limit() -> None:
    assert descriptors_for(ServingConfig()) <= 4096  # LimitNOFILE= of the unit


def test_both_sockets_that_admit_connections_as_configured_may_be_full() -> None:
    few, more = ServingConfig(connections=100), ServingConfig(connections=200)
    assert descriptors_for(more) - descriptors_for(few) == 2 * 100  # api and admin
