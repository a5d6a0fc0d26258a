"""What a cold start costs in round trips: those that depend on each other, counted."""

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

# How many connections to each service want a round trip, each time. What is missing
# here and sent nevertheless would make a trip more; the reference client needs eleven.
CONNECT = {"imds": 2, "maa": 2, "vault": 1}
HELLO = {"imds": 2, "maa": 2, "vault": 1}  # and IMDS is asked already
ASK = {"maa": 2, "vault": 1}  # the evidence, the signing keys, the vault's challenge
EVIDENCE = {"maa": 1}  # the rest of it: it is longer than ten segments
RELEASE = {"vault": 1}
TRIPS = (CONNECT, HELLO, ASK, EVIDENCE, RELEASE)

# No request ends because it was held back.
PATIENT = "[limits]\nrequest_timeout_seconds = 300\n"


def names_of(azure: Azure) -> dict[int, str]:
    """Name the services by their ports."""
    origins = {
        "imds": azure.imds_url,
        "maa": azure.maa.issuer,
        "vault": azure.vaults["skragent-demo"].url,
    }
    return {int(url.rpartition(":")[2]): name for name, url in origins.items()}


def forgo_session_tickets(azure: Azure) -> None:
    """Send what was asked for and nothing else; see support.lock_step."""
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
