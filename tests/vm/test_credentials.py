"""LoadCredential=: a unit gets the keys that it may have, and no other keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from vm.agent import CREDENTIALS, Agent
from vm.keys import pem_of

# The unit writes only a digest, so that no file and no journal has the key.
UNIT = f"""\
[Service]
Type=oneshot
DynamicUser=yes
RuntimeDirectory=%p-%i
RuntimeDirectoryPreserve=yes
LoadCredential={{credential}}:{CREDENTIALS}
ExecStart=/bin/sh -c 'sha256sum <%d/{{credential}} >/run/%p-%i/digest'
"""


@pytest.fixture
def units(agent: Agent) -> Iterator[Agent]:
    for name, credential in (("uses-db", "db.pem"), ("uses-not", "db.pem")):
        agent.guest.write(
            f"/etc/systemd/system/{name}@.service", UNIT.format(credential=credential)
        )
    agent.guest.check("systemctl daemon-reload")
    yield agent
    agent.guest.check("systemctl reset-failed 'uses-*'")


def digest(agent: Agent, unit: str) -> str:
    """Return the SHA-256 of the credential that the unit got."""
    return agent.guest.check(f"cat /run/{unit}/digest").split()[0]


def expected(agent: Agent) -> str:
    pem = pem_of(agent.azure.instance.latest("db"))
    return hashlib.sha256(pem.encode()).hexdigest()


def test_a_service_gets_its_key_as_a_credential(units: Agent) -> None:
    units.guest.check("systemctl start uses-db@1")
    assert digest(units, "uses-db-1") == expected(units)


def test_a_service_that_starts_before_the_agent_waits_for_its_key(
    units: Agent,
) -> None:
    units.guest.check("systemctl stop skragent")
    units.guest.check("systemctl start uses-db@2", timeout=120)
    assert units.property("ActiveState") == "active"
    assert digest(units, "uses-db-2") == expected(units)


def test_a_service_without_a_rule_for_the_key_fails_and_the_journal_has_the_reason(
    units: Agent,
) -> None:
    assert units.guest.run("systemctl start uses-not@1").code
    assert units.property("ExecMainStatus", "uses-not@1.service") == "243"
    units.guest.check("test ! -e /run/uses-not-1/digest")
    assert "serve.denied" in units.journal(
        "-o json OBJECT_SYSTEMD_UNIT=uses-not@1.service"
    )
