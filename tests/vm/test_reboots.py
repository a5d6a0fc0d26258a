"""Reboots: changed measurements, a new wrapping key, an outage of Azure."""

from __future__ import annotations

from typing import Any

from vm.agent import CREDENTIALS, STATUS, Agent
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


def wrapping_keys(evidence: list[dict[str, Any]]) -> set[str]:
    """Return the wrapping keys that the vTPM certified."""
    return {info["TpmInfo"]["EncKeyPub"] for info in evidence}


def test_a_pcr_without_log_entry_is_refused_and_keys_stay_until_confirmation(
    agent: Agent, machine: Machine
) -> None:
    guest = agent.guest
    machine.needs_reboot = True
    guest.check(f"tpm2_pcrextend -T device:/dev/tpmrm0 7:sha256={'5a' * 32}")
    for _ in range(2):
        refused = agent.journal("-b -u skragent").count("refused the evidence")
        guest.check("skragent refresh")
        guest.until(
            "test $(journalctl -b -u skragent -o cat | grep -c 'refused the evidence')"
            f" -gt {refused}",
            timeout=120,
        )
    guest.until(f"{STATUS} | grep -q token.refused")
    # Only a refusal that is confirmed five minutes later drops a key.
    assert agent.get("db").status == "200"


def test_a_reboot_during_an_outage_of_azure_releases_the_keys_with_a_new_wrapping_key(
    installed: Agent, machine: Machine
) -> None:
    agent, guest = installed, installed.guest
    with agent.evidence() as sent:
        guest.check("skragent refresh")
        guest.wait_for(lambda: bool(sent), "an attestation", timeout=90)
    before = wrapping_keys(sent)
    guest.write("/etc/systemd/system/uses-db@boot.service", _AT_BOOT)
    guest.check("systemctl daemon-reload && systemctl enable uses-db@boot")
    with agent.azure.outage():
        machine.reboot()
        guest.until("systemctl is-active skragent", timeout=120)
        guest.until(f"""{STATUS} | grep -q '"last_failure": [^n]'""", timeout=120)
        assert "serve.not_ready" in agent.get("db").body
        assert agent.property("ActiveState", "uses-db@boot.service") == "activating"
    with agent.evidence() as sent:
        agent.wait_until_current()
    assert agent.get("db").body == pem_of(agent.azure.instance.latest("db"))
    guest.until("systemctl is-active uses-db@boot", timeout=90)
    assert guest.check("cat /run/at-boot") == "2\n"
    after = wrapping_keys(sent)
    assert before
    assert after
    assert not before & after
    guest.check("systemctl disable uses-db@boot")
