"""An upgrade of the package under load, during an outage of Azure."""

from __future__ import annotations

from vm.agent import DPKG, Agent

# Opens one connection after the other until /tmp/stop exists; each must be answered.
_CLIENT = """\
import os, sys, time
from skragent.client import SkragentClient, SkragentError
answered = failed = 0
while not os.path.exists("/tmp/stop"):
    try:
        SkragentClient().get_pem("db", wait=60)
        answered += 1
        time.sleep(0.1)  # leaves processor time for the upgrade
    except SkragentError as error:
        failed += 1
        print(error, file=sys.stderr)
print(answered, failed)
"""


def test_every_new_connection_is_served_during_an_upgrade(
    agent: Agent,
) -> None:
    guest = agent.guest
    guest.write("/run/client.py", _CLIENT)
    guest.check("rm -f /tmp/stop")
    before = agent.property("MainPID")
    clients = [
        guest.start("runuser -u alice -- python3 -I /run/client.py") for _ in range(2)
    ]
    with agent.azure.outage():
        guest.check(f"{DPKG} -i /root/skragent-next.deb", timeout=240)
        agent.wait_until_current()
    guest.check("touch /tmp/stop")
    for client in clients:
        done = guest.wait(client)
        answered, failed = done.out.split()
        assert (int(failed), done.err) == (0, "")
        assert int(answered) > 10
    assert agent.property("MainPID") != before
    assert "+next" in guest.check("dpkg-query -W -f '${Version}' skragent")
