"""Upgrading the package while it is used, and what it all left in the journal."""

from __future__ import annotations

import gzip

from vm.agent import Agent
from vm.keys import spellings

from skragent.observe.names import Event

# One new connection after the other until told to stop; each must be answered.
_CLIENT = """\
import os, sys
from skragent.client import SkragentClient, SkragentError
answered = failed = 0
while not os.path.exists("/tmp/stop"):
    try:
        SkragentClient().get_pem("db", wait=60)
        answered += 1
    except SkragentError as error:
        failed += 1
        print(error, file=sys.stderr)
print(answered, failed)
"""


def test_every_new_connection_is_answered_while_the_package_is_upgraded(
    agent: Agent,
) -> None:
    guest = agent.guest
    guest.write("/run/client.py", _CLIENT)
    guest.check("rm -f /tmp/stop")
    before = agent.property("MainPID")
    clients = [
        guest.start("runuser -u alice -- python3 -I /run/client.py") for _ in range(2)
    ]
    guest.check("dpkg -i /root/skragent-next.deb", timeout=240)
    agent.settle()
    guest.check("touch /tmp/stop")
    for client in clients:
        done = guest.wait(client)
        answered, failed = done.out.split()
        assert (int(failed), done.err) == (0, "")
        assert int(answered) > 10
    assert agent.property("MainPID") != before
    assert "+next" in guest.check("dpkg-query -W -f '${Version}' skragent")


def test_the_journal_has_what_it_should_and_no_secret(agent: Agent) -> None:
    guest = agent.guest
    guest.check("journalctl -o export --no-pager | gzip >/run/journal.gz", timeout=120)
    journal = gzip.decompress(guest.read("/run/journal.gz"))
    for event in (Event.STARTED, Event.KEY_RELEASED, Event.KEY_SERVED, Event.ADMIN):
        assert f"MESSAGE_ID={event.message_id}".encode() in journal, event
    azure = agent.azure.world
    leaks = [
        name
        for key in ("db", "mac")
        for version in azure.versions(key)
        for name, piece in spellings(version).items()
        if piece in journal
    ]
    assert leaks == []
    assert b"eyJ" not in journal  # how every token begins
