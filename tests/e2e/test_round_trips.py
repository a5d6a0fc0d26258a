"""The number of round trips of a cold start that depend on each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.e2e import Agent, config_for, create_key
from support.lock_step import RoundTrips
from support.vtpm import vm_directory

from skragent.emulator.http_server import HttpServer
from skragent.emulator.thread import EmulatorThread

if TYPE_CHECKING:
    from skragent.emulator.azure import Azure

pytestmark = pytest.mark.swtpm

# The number of connections to each service that need a round trip, in each round trip.
# A connection that is not listed here would need another round trip. Microsoft's client
# needs eleven.
CONNECT = {"imds": 2, "maa": 2, "vault": 1}
HELLO = {"imds": 2, "maa": 2, "vault": 1}  # for IMDS it carries the request
REQUEST = {
    "maa": 2,
    "vault": 1,
}  # evidence, signing keys, the vault's challenge
EVIDENCE = {"maa": 1}  # the rest of the evidence, which exceeds ten segments
RELEASE = {"vault": 1}
TRIPS = (CONNECT, HELLO, REQUEST, EVIDENCE, RELEASE)

# The relay delays requests, so the timeouts are long.
LONG_TIMEOUTS = "[limits]\nrequest_timeout_seconds = 300\n"


def names_of(azure: Azure) -> dict[int, str]:
    """Map the ports of the services to their names."""
    origins = {
        "imds": azure.imds_url,
        "maa": azure.maa.issuer,
        "vault": azure.vaults["skragent-demo"].url,
    }
    return {int(url.rpartition(":")[2]): name for name, url in origins.items()}


def disable_session_tickets(azure: Azure) -> None:
    """Send no TLS session tickets, because they would count as responses."""
    for front in azure._listening:
        if isinstance(front, HttpServer):
            for identity in front._identities.values():
                identity.tls_context.num_tickets = 0


def test_a_cold_start_needs_five_sequential_round_trips(directory: Path) -> None:
    trips = RoundTrips()
    with (
        vm_directory() as home,
        EmulatorThread(home, relay=trips.relay) as emulator,
    ):
        create_key(emulator, "demo:RSA")
        disable_session_tickets(emulator.instance.azure)
        trips.names = names_of(emulator.instance.azure)
        config = config_for(emulator, directory, "demo") + LONG_TIMEOUTS
        with Agent(directory, config) as agent:
            for waiting in TRIPS:
                assert not agent.holds("demo")
                emulator.call(trips.travel(waiting), 2 * DEADLINE_SECONDS)
            agent.until(lambda: agent.holds("demo"))
    assert trips.count == 5
