"""Boots: measurements that change, a wrapping key that is gone, an absent Azure."""

from __future__ import annotations

from vm.agent import API, CREDENTIALS, STATUS, Agent
from vm.keys import pem_of
from vm.machine import Machine

_AT_BOOT = f"""\
[Service]
Type=oneshot
RemainAfterExit=yes
LoadCredential=db.pem:{CREDENTIALS}
ExecStart=/bin/sh -c 'grep -c PRIVATE %d/db.pem >/run/at-boot'

[Install]
WantedBy=multi-user.target
"""


def test_a_pcr_that_no_log_accounts_for_takes_the_keys_until_the_next_boot(
    agent: Agent, machine: Machine
) -> None:
    guest = agent.guest
    guest.check(f"tpm2_pcrextend -T device:/dev/tpmrm0 7:sha256={'5a' * 32}")
    guest.check("skragent refresh")
    guest.until(
        f"! runuser -u alice -- curl -sf --unix-socket {API} http://localhost/v1/keys/db",
        timeout=120,
    )
    assert "token.refused" in agent.journal("-o json -b -u skragent")
    machine.reboot()
    agent.settle()
    assert agent.get("db").body == pem_of(agent.azure.world.latest("db"))


def test_an_azure_that_is_absent_at_boot_is_waited_for(
    agent: Agent, machine: Machine
) -> None:
    guest = agent.guest
    guest.write("/etc/systemd/system/uses-db@boot.service", _AT_BOOT)
    guest.check("systemctl daemon-reload && systemctl enable uses-db@boot")
    with agent.azure.outage():
        machine.reboot()
        guest.until("systemctl is-active skragent", timeout=120)
        guest.until(f"""{STATUS} | grep -q '"last_failure": [^n]'""", timeout=120)
        assert "serve.not_ready" in agent.get("db").body
        assert agent.property("ActiveState", "uses-db@boot.service") == "activating"
    agent.settle()
    guest.until("systemctl is-active uses-db@boot", timeout=90)
    assert guest.check("cat /run/at-boot") == "2\n"
    guest.check("systemctl disable uses-db@boot")
