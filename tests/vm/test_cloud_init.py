"""packaging/azure: the first boot of a VM of the template, with cloud-init.

The test runs the commands of cloud-init's four services in their order, with the user
data of the template.
"""

from __future__ import annotations

import base64
import json

from support.arm import Deployment
from support.bicep import AZURE
from vm.agent import CONFIG_PATH, DPKG, TRUST, Agent
from vm.azure_side import VAULT
from vm.keys import pem_of

_SEED = "/var/lib/cloud/seed/nocloud"
# Only the modules that the template needs: the other modules prepare Debian for its
# first user, which takes minutes here.
_SETTINGS = """\
datasource_list: [NoCloud]
cloud_init_modules: [write-files]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-user]
"""
_STAGES = ("init --local", "init", "modules --mode=config", "modules --mode=final")


def user_data() -> str:
    """Return the template's user data with the emulated Azure's authorities."""
    template = json.loads((AZURE / "main.json").read_text())
    deployment = Deployment(
        template,
        adminPublicKey="ssh-ed25519 AAAA",
        adminUsername="alice",
        keyName="db",
        keyStoreName=VAULT.name,
    )
    vm = deployment.properties("Microsoft.Compute/virtualMachines")
    text = base64.b64decode(vm["osProfile"]["customData"]).decode()
    first = "      [attestation]\n"
    assert text.count(first) == 1
    trust = "".join(f"      {line}\n" for line in TRUST.splitlines())
    return text.replace(first, trust + first)


def running(agent: Agent) -> str:
    """List the package's processes; the brackets exclude the search itself."""
    return agent.guest.run("pgrep -a -f '[/]skragent'").out


def test_a_purge_leaves_no_process_and_no_file(agent: Agent) -> None:
    guest = agent.guest
    roots = "/etc/skragent/azure-ca.pem /etc/skragent/amd-roots.pem"
    guest.check(f"cp -p {roots} /root/")
    assert running(agent)
    guest.check(f"{DPKG} --purge skragent", timeout=240)
    for unit in ("skragent.service", "skragent.socket", "skragent-credentials.socket"):
        assert agent.property("LoadState", unit) == "not-found"
        assert agent.property("ActiveState", unit) == "inactive"
    assert running(agent) == ""
    assert guest.run("id skragent").code
    assert "skragent" not in guest.check("cat /sys/kernel/security/apparmor/profiles")
    left = "/run/skragent /etc/skragent /usr/lib/skragent /usr/bin/skragent"
    left += " /var/lib/skragent"
    assert guest.run(f"ls -d {left}").out == ""


def test_the_first_boot_of_the_template_serves_the_key(
    agent_after_purge: Agent,
) -> None:
    agent, guest = agent_after_purge, agent_after_purge.guest
    guest.write(f"{_SEED}/user-data", user_data())
    guest.write(
        f"{_SEED}/meta-data", "instance-id: first-boot\nnetwork:\n  config: disabled\n"
    )
    guest.write("/etc/cloud/cloud.cfg.d/99-vm.cfg", _SETTINGS)
    guest.check("mkdir -p /etc/skragent && mv /root/*.pem /etc/skragent/")
    guest.check("cp /root/skragent-next.deb /var/cache/skragent.deb")
    for stage in _STAGES:
        guest.check(f"cloud-init {stage}", timeout=300)
    assert guest.check(f"stat -c '%a %U' {CONFIG_PATH}") == "600 skragent\n"
    got = agent.get("db", wait=120)
    assert got.body == pem_of(agent.azure.instance.latest("db"))
