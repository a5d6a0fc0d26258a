"""Count the reads without a limit: every outgoing path against a hostile response.

In each run a releaser gets one hostile response of the emulator: a body of 300 MB,
600 MB in gzip, or a part that never ends and arrives byte by byte. The response is a
redirect, a success or a refusal. A read is limited if two conditions hold. The
releaser's memory grows by at most 32 MiB compared with a run with a small response in
the same place. The exchange ends within its timeout plus one second.

The same for a proxy that sends byte by byte, with and without TLS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.hostile_server import Script, run_hostile_server
from support.release_server import make_tls
from support.releaser import Releaser

from skragent.emulator.hostile_responses import DRIPS
from skragent.emulator.imds.identities import TENANT_ID
from skragent.emulator.keyvault.key_specs import parse_key_spec
from skragent.emulator.service import Request, Response
from skragent.emulator.thread import EmulatorThread
from skragent.job import Purpose

REQUEST_SECONDS: Final = 1.0
SECONDS: Final = REQUEST_SECONDS + 1.0
GROWTH_KIB: Final = 32 << 10
JOB_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.002
REDIRECT: Final = 302
STATUSES: Final = (REDIRECT, 200, 403)
SIZES: Final[dict[Literal["flood", "bomb"], int]] = {
    "flood": 300 << 20,
    "bomb": 600 << 20,
}
THIM: Final = "/metadata/THIM"
OK: Final = b"HTTP/1.1 200 OK\r\n"
# A proxy's response to CONNECT: the part sent at once, and the parts sent slowly.
PROXY_DRIPS: Final[dict[str, tuple[bytes, list[bytes]]]] = {
    "status": (OK[:9], [b"x"]),
    "headers": (OK, [b"X", b":", b"y", b"\r\n"]),
    "handshake": (OK + b"\r\n\x16\x03\x03\x40\x00", [b"\x00"]),
}


class Route(NamedTuple):
    """One outgoing path: its service, and the job that uses it."""

    name: str
    service: str
    path: str  # the beginning of the target
    purpose: Purpose = "release"
    is_authorized: bool | None = None  # whether the request has a token; None: both
    is_application: bool = False  # an application of Entra ID requests the key
    is_provider_found: bool = False  # from the VM's location
    query_id: str = ""  # of a renewal that was requested before

    def takes(self, request: Request) -> bool:
        """Return whether a request belongs to this path."""
        return request.path.startswith(self.path) and self.is_authorized in {
            None,
            "authorization" in request.headers,
        }


ROUTES: Final = (
    Route(
        *("the VM's location", "imds", "/metadata/instance/compute/location"),
        is_provider_found=True,
    ),
    Route("the AMD certificates", "imds", f"{THIM}/amd"),
    Route("a managed identity's token", "imds", "/metadata/identity"),
    Route("Entra ID's tenant", "entra", f"/{TENANT_ID}/v2.0/", is_application=True),
    Route("Entra ID's token", "entra", f"/{TENANT_ID}/oauth2/", is_application=True),
    Route("MAA's attestation", "maa", "/attest"),
    Route("MAA's keys", "maa", "/certs"),
    Route("a vault's challenge", "vault", "/keys", is_authorized=False),
    Route("a vault's release", "vault", "/keys", is_authorized=True),
    Route("a version check", "vault", "/keys", "check", is_authorized=True),
    Route("the VM's id", "imds", "/metadata/instance/compute/vmId", "renew"),
    Route("a renewal", "imds", f"{THIM}/tvm/certificate/renew", "renew"),
    Route(
        *("a renewal's query", "imds", f"{THIM}/tvm/certificate/query", "renew"),
        query_id="00000000-0000-0000-0000-000000000001",
    ),
)
PROXIED: Final = next(route for route in ROUTES if route.name == "MAA's attestation")


class Seen(NamedTuple):
    """Memory and time of one run of a releaser."""

    peak_kib: int  # resident memory
    seconds: tuple[float, ...]  # each exchange on the path, from request to its end


class Bench:
    """The emulator and the runs of releasers."""

    def __init__(self, directory: Path, emulator: EmulatorThread) -> None:
        self._directory = directory
        self._emulator = emulator
        emulated = emulator.instance
        emulated.imds.is_limited = False
        emulated.create_key(parse_key_spec("alpha:RSA"))
        for fault in ("vm.ak_cert_guests", "vm.ak_cert_days=10"):  # a renewal is due
            emulator.call(emulated.faults.apply(fault))
        self._services = {
            "imds": emulated.imds,
            "entra": emulated.azure.entra_id,
            "maa": emulated.maa,
            "vault": emulated.vault,
        }

    def run(self, route: Route, answer: Response) -> Seen:
        """Run one job that gets this response to every request of the path."""
        emulated = self._emulator.instance

        async def replace_responses() -> None:
            for service in self._services.values():
                service.clear_hooks()

            async def replace(request: Request, good: Response) -> Response:
                return dataclasses.replace(answer) if route.takes(request) else good

            self._services[route.service].hook("bench", replace)

        self._emulator.call(replace_responses())
        before = len(emulated.requests)
        peak = _peak_of(self._releaser(route))
        deadline = time.monotonic() + SECONDS
        while True:
            seconds = tuple(
                record.ended - record.began
                for record in emulated.requests[before:]
                if record.target.startswith(route.path)
                and record.status == answer.status
            )
            if seconds or time.monotonic() > deadline:
                return Seen(peak, seconds)
            time.sleep(POLL_SECONDS)  # the emulator ends the exchange at its next byte

    def peak_with_proxy(self, url: str, ca_file: str) -> int:
        """Run one job with this proxy for its requests to MAA."""
        releaser = self._releaser(PROXIED)
        releaser.job = msgspec.structs.replace(releaser.job, tls_roots=ca_file)
        return _peak_of(releaser, {"HTTPS_PROXY": url})

    def _releaser(self, route: Route) -> Releaser:
        emulated = self._emulator.instance
        text = emulated.config_text(["alpha"], api_socket=self._directory / "api.sock")
        if route.is_provider_found:
            text = text.replace(f'"{emulated.maa.issuer}"', '"auto"')
        if route.is_application:
            azure = emulated.azure
            text += (
                f'[identity]\ntenant_id = "{TENANT_ID}"\n'
                f'client_id = "{azure.application.client_id}"\n'
                f'secret_file = "{azure.application_files.secret.resolve()}"\n'
            )
        text += f"[limits]\nrequest_timeout_seconds = {REQUEST_SECONDS}\n"
        releaser = Releaser(
            text,
            route.purpose,
            now=emulated.azure.clock.now(),
            authority=emulated.azure.entra_id.origin if route.is_application else "",
        )
        if route.purpose == "renew":  # a renewal is a separate job without keys
            releaser.job = msgspec.structs.replace(
                releaser.job, keys=(), ak_query_id=route.query_id
            )
        return releaser


def _peak_of(releaser: Releaser, environment: dict[str, str] | None = None) -> int:
    """Run a releaser to its end, and return its peak resident memory in KiB.

    The value of wait4(2) includes the parent's memory at the fork. So /proc is read
    while the releaser runs.
    """
    peak = 0
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "skragent.releaser"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=(releaser.arena.fd,),
        env={**os.environ, **(environment or {})},
    ) as process:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(releaser.job))
        process.stdin.close()
        deadline = time.monotonic() + JOB_SECONDS
        while process.poll() is None:
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                line = next(row for row in lines if row.startswith("VmHWM:"))
                peak = max(peak, int(line.split()[1]))
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(POLL_SECONDS)
    releaser.arena.close_fd()
    return peak


def unbounded_reads() -> int:
    """Try all paths, print their memory and time, and count reads without a limit."""
    count = 0
    drips = itertools.cycle(DRIPS)
    with (
        tempfile.TemporaryDirectory(prefix="skru-") as name,
        EmulatorThread(Path(name)) as emulator,
    ):
        bench = Bench(Path(name), emulator)
        for route in ROUTES:
            usual = bench.run(route, Response(403, b"no"))
            growth, seconds = 0, 0.0
            for status in STATUSES:
                answers = [Response(status, delivery="drip", measure=next(drips))]
                answers += [
                    Response(status, delivery=delivery, measure=size)
                    for delivery, size in SIZES.items()
                ]
                for answer in answers:
                    if status == REDIRECT:
                        answer.headers["Location"] = "/elsewhere"
                    seen = bench.run(route, answer)
                    grown = seen.peak_kib - usual.peak_kib
                    longest = max(seen.seconds, default=math.inf)
                    if grown > GROWTH_KIB or longest > SECONDS:
                        count += 1
                        print(
                            f"  {route.name}: {status}, {answer.delivery}"
                            f" {answer.measure}: no limit:"
                            f" {grown / 1024:.0f} MiB, {longest:.1f} s"
                        )
                    growth, seconds = max(growth, grown), max(seconds, longest)
            print(f"  {route.name:28} {growth / 1024:5.1f} MiB  {seconds:.2f} s")
        return count + unbounded_proxies(bench, Path(name))


def _timed(script: Script, exchanges: list[float]) -> Iterator[bytes]:
    """Yield a script's pieces, and note the time until the client closed."""
    began = time.monotonic()
    try:
        yield from script()
    finally:
        exchanges.append(time.monotonic() - began)


def unbounded_proxies(bench: Bench, directory: Path) -> int:
    """Try proxies that send byte by byte, and count reads without a limit."""
    count = 0
    usual = bench.run(PROXIED, Response(403, b"no"))
    tls, ca_file = make_tls(directory)
    for scheme, context in (("http", None), ("https", tls)):
        growth, seconds = 0, 0.0
        for part, drip in PROXY_DRIPS.items():
            exchanges: list[float] = []
            with run_hostile_server(context) as proxy:
                proxy.drip(*drip)
                proxy.script = functools.partial(_timed, proxy.script, exchanges)
                peak = bench.peak_with_proxy(proxy.url(scheme), ca_file)
            grown = peak - usual.peak_kib
            longest = max(exchanges, default=math.inf)
            if grown > GROWTH_KIB or longest > SECONDS:
                count += 1
                print(f"  a proxy ({scheme}): drip {part}: no limit: {longest:.1f} s")
            growth, seconds = max(growth, grown), max(seconds, longest)
        name = f"a proxy ({scheme})"
        print(f"  {name:28} {growth / 1024:5.1f} MiB  {seconds:.2f} s")
    return count
