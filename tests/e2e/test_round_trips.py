"""The number of sequential round trips of a cold start."""

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

# For each round trip, the number of connections per service that wait for data. Another
# request would need one more round trip. Microsoft's client needs eleven.
CONNECT = {"imds": 2, "maa": 2, "vault": 1}
HELLO = {"imds": 2, "maa": 2, "vault": 1}  # the first request to IMDS is sent
ASK = {"maa": 2, "vault": 1}  # the evidence, the signing keys, the vault's challenge
EVIDENCE = {"maa": 1}  # the rest of the evidence, which is longer than ten segments
RELEASE = {"vault": 1}
TRIPS = (CONNECT, HELLO, ASK, EVIDENCE, RELEASE)

# A delayed request does not end.
PATIENT = "[limits]\nrequest_timeout_seconds = 300\n"


def names_of(azure: Azure) -> dict[int, str]:
    """Return the names of the services by port."""
    origins = {
        "imds": azure.imds_url,
        "maa": azure.maa.issuer,
        "vault": azure.vaults["skragent-demo"].url,
    }
    return {int(url.rpartition(":")[2]): name for name, url in origins.items()}


def forgo_session_tickets(azure: Azure) -> None:
    """Deliver only the requested data; see support.lock_step."""
    for front in azure._listening:
        if isinstance(front, HttpServer):
            for identity in front._identities.values():
                identity.tls_context.num_tickets = 0


def test_a_cold_start_costs_five_round_trips_in_sequence(directory: Path) -> None:
    trips = RoundTrips()
    with (
        vm_directory() as home,
        EmulatorThread(home, relay=trips.relay) as emulator,
    ):
        create_key(emulator, "demo:RSA")
        forgo_session_tickets(emulator.instance.azure)
        trips.names = names_of(emulator.instance.azure)
        config = config_for(emulator, directory, "demo") + PATIENT
        with Agent(directory, config) as agent:
            for waiting in TRIPS:
                assert not agent.holds("demo")
                emulator.call(trips.travel(waiting), 2 * DEADLINE_SECONDS)
            agent.until(lambda: agent.holds("demo"))
    assert trips.count == 5
