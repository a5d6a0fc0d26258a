"""The journal after all scenarios."""

from __future__ import annotations

import gzip

from vm.agent import Agent
from vm.keys import encodings

from skragent.observe.names import Event


def test_the_journal_has_the_events_and_no_secret(installed: Agent) -> None:
    guest = installed.guest
    guest.check("skragent refresh")
    guest.check("journalctl -o export --no-pager | gzip >/run/journal.gz", timeout=120)
    journal = gzip.decompress(guest.read("/run/journal.gz"))
    for event in (Event.STARTED, Event.KEY_RELEASED, Event.KEY_SERVED, Event.ADMIN):
        assert f"MESSAGE_ID={event.message_id}".encode() in journal, event
    azure = installed.azure.instance
    leaks = [
        name
        for key in ("db", "mac")
        for version in azure.versions(key)
        for name, piece in encodings(version).items()
        if piece in journal
    ]
    assert leaks == []
    assert b"eyJ" not in journal  # the beginning of every token


def test_apparmor_denied_nothing_that_the_package_needs(installed: Agent) -> None:
    denied = "_TRANSPORT=kernel + _TRANSPORT=audit | grep -a 'apparmor=\"DENIED\"'"
    # First show that a denial appears in the journal.
    python = "aa-exec -p skragent -- /usr/bin/python3 -IS -c"
    assert installed.guest.run(f"{python} 'open(\"/etc/shadow\")'").code
    installed.guest.until(f"journalctl -o cat {denied} | grep -q /etc/shadow")
    output = installed.journal(denied)
    assert [line for line in output.splitlines() if "/etc/shadow" not in line] == []
