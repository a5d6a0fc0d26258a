"""Search for key bytes, in every encoding, in places that must not have them."""

from __future__ import annotations

import base64
import os
import textwrap
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from support.e2e import Agent, config_for
from support.serving_server import count_in_memory

from skragent.emulator.thread import EmulatorThread

pytestmark = [pytest.mark.swtpm, pytest.mark.root]

WINDOW = 24  # bytes of a number's middle: too long to match by chance


def private_key(emulator: EmulatorThread) -> rsa.RSAPrivateKey:
    stored = emulator.instance.vault.store.find("demo")
    assert stored is not None
    material = stored.latest.material
    assert isinstance(material, rsa.RSAPrivateKey)
    return material


def encodings(key: rsa.RSAPrivateKey) -> dict[str, bytes]:
    """Return pieces of every private number as DER, PEM, JWK, hex and bignum."""
    numbers = key.private_numbers()
    found: dict[str, bytes] = {}
    for name in ("d", "p", "q", "dmp1", "dmq1", "iqmp"):
        value = getattr(numbers, name)
        data = value.to_bytes((value.bit_length() + 7) // 8, "big")
        middle = data[len(data) // 2 :][:WINDOW]
        found[f"{name} big-endian"] = middle
        found[f"{name} little-endian"] = middle[::-1]
        found[f"{name} hex"] = middle.hex().encode()
        jwk = base64.urlsafe_b64encode(data).rstrip(b"=")
        found[f"{name} JWK"] = jwk[len(jwk) // 2 :][:WINDOW]
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    for number in range(8, len(lines) - 1, 3):  # after the public part
        found[f"PEM line {number}"] = lines[number].encode()
    return found


def test_the_agents_memory_has_no_private_number_while_it_serves_the_key(
    emulator: EmulatorThread, directory: Path
) -> None:
    patterns = encodings(private_key(emulator))
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
        stop = threading.Event()

        def keep_fetching() -> None:
            while not stop.is_set():
                for form in ("jwk", "pem", "der"):
                    agent.client.get_bytes("demo", form)

        fetching = threading.Thread(target=keep_fetching)
        fetching.start()
        try:
            pid = agent.process.pid
            leaks = {
                name: count
                for name, pattern in patterns.items()
                if (count := count_in_memory(pid, pattern))
            }
        finally:
            stop.set()
            fetching.join()
    # The search finds existing numbers: this process has them in its memory.
    assert count_in_memory(os.getpid(), patterns["d big-endian"])
    assert leaks == {}


def test_logs_files_and_proc_have_no_private_number(
    emulator: EmulatorThread, directory: Path
) -> None:
    patterns = encodings(private_key(emulator))
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
        process = Path("/proc", str(agent.process.pid))
        places = {
            name: (process / name).read_bytes() for name in ("cmdline", "environ")
        }
    places |= {
        path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()
    }
    assert b"attested by" in places["agent.log"]
    leaks = [
        (place, name)
        for place, content in places.items()
        for name, pattern in patterns.items()
        if pattern in content
    ]
    assert leaks == []


def test_the_log_has_no_token(emulator: EmulatorThread, directory: Path) -> None:
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
    assert b"eyJ" not in agent.log.read_bytes()  # the beginning of every JWS
