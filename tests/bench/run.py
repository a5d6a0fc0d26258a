"""Measure the values of docs/operations.md, "Performance"; the last line is JSON.

Start-up and memory are absolute numbers, measured against the emulator on this machine.
Throughput and CPU are ratios to nginx, because absolute numbers depend on the machine.
nginx serves the same bytes over a Unix socket in the same run, and rounds of the agent
and of nginx alternate. nginx runs with Debian's settings (sendfile, tcp_nopush), one
worker and no access log. The agent runs with rules, metrics and audit. Rules on units
read /proc for each new connection, so they are measured separately.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.reads import unbounded_reads

COLD_STARTS = 7
LATENCY_SECONDS = 0.05
LOAD_ROUNDS = 5
LOAD_SECONDS = 0.6
CONNECTIONS = (1, 16, 256)
CLIENT_RUNS = 15
UNIT_RULE = '{ unit = "web-*.service" }'
REST_SECONDS = 3.0
DEADLINE_SECONDS = 60.0

SKRAGENT = [sys.executable, "-I", "-m", "skragent.cli.main"]
# One user sends all requests, so the agent runs without the limit per user.
WITHOUT_LIMIT = """
import dataclasses, sys
from skragent.cli.main import main
from skragent.serving import Limits
limits = dataclasses.replace(Limits(), requests_per_second_per_uid=10_000_000)
Limits.for_connections = lambda _: limits
sys.exit(main(sys.argv[1:]))
"""
UNLIMITED = (sys.executable, "-I", "-c", WITHOUT_LIMIT)
NGINX_CONF = """
worker_processes 1; daemon off; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on;
  keepalive_requests 1000000000; keepalive_timeout 600;
  client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;
  uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
  server {{ listen unix:{dir}/nginx.sock; root {dir}/root; }}
}}
"""


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end it after the block."""
    with log.open("ab") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)


@contextlib.contextmanager
def emulator(directory: Path, latency: float) -> Iterator[Path]:
    """Run the emulator, and yield the configuration that it wrote."""
    directory.mkdir()
    log = directory / "emulator.log"
    command = [*SKRAGENT, "emulator", "--dir", str(directory)]
    if latency:
        command += ["--latency", str(latency)]
    with running(command, log) as process:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (log.exists() and b"READY" in log.read_bytes()):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"bench: the emulator did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield directory / "skragent.toml"


def fetch(path: Path, name: str) -> bytes | None:
    """Request a key once; return its bytes, or None if it is not held."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        request = (
            f"GET /v1/keys/{name} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(request.encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if head.startswith(b"HTTP/1.1 200 ") else None


@contextlib.contextmanager
def agent(
    config: Path, sock: Path, *launcher: str
) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run the agent; yield its process and the seconds from exec to its first key."""
    started = time.perf_counter()
    command = [*(launcher or SKRAGENT), "run", "--config", str(config)]
    with running(command, config.parent / "agent.log") as process:
        while fetch(sock, "demo") is None:
            if time.perf_counter() - started > DEADLINE_SECONDS:
                sys.exit(f"bench: no key; see {config.parent}/agent.log")
            time.sleep(0.001)
        yield process, time.perf_counter() - started


def cold_starts(config: Path, sock: Path) -> float:
    """Return the median of some starts; the first start fills the page cache."""
    seconds = []
    for _ in range(COLD_STARTS + 1):
        with agent(config, sock) as (_, taken):
            seconds.append(taken)
    print(f"  starts: {' '.join(f'{s:.3f}' for s in seconds)} s (first not counted)")
    return statistics.median(seconds[1:])


def resident_mib(pid: int) -> float:
    """Read VmRSS, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(row for row in status.splitlines() if row.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def load(
    binary: Path, mode: str, connections: int, server: Server, body: Path
) -> dict[str, float]:
    """Run one round of load, and return its numbers."""
    command = [str(binary), mode, str(server.sock), str(connections)]
    command += [str(LOAD_SECONDS), server.path, str(body)]
    outcome = subprocess.run(command, check=True, capture_output=True, timeout=60)
    measured: dict[str, float] = json.loads(outcome.stdout)
    return measured


@contextlib.contextmanager
def nginx(directory: Path, body: bytes) -> Iterator[tuple[Path, int]]:
    """Serve the same bytes with nginx on a Unix socket; yield the socket and worker."""
    (directory / "root").mkdir(parents=True)
    (directory / "root" / "key").write_bytes(body)
    for parent in (directory, *directory.parents):
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)  # nginx's worker is another user
    conf = directory / "nginx.conf"
    conf.write_text(NGINX_CONF.format(dir=directory))
    sock = directory / "nginx.sock"
    with running(["nginx", "-c", str(conf)], directory / "log") as master:
        deadline = time.monotonic() + DEADLINE_SECONDS
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children")
        while not (sock.exists() and children.read_text().split()):
            if time.monotonic() > deadline:
                sys.exit("bench: nginx did not start")
            time.sleep(0.02)
        yield sock, int(children.read_text().split()[0])


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server(NamedTuple):
    """One of the two servers in a comparison."""

    name: str
    sock: Path
    path: str
    pid: int


class Measured(NamedTuple):
    """The numbers of one server in one round; CPU is the server's, per request."""

    per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float


def measure(
    binary: Path, mode: str, connections: int, server: Server, body: Path
) -> Measured:
    """Load one server for one round."""
    before = cpu_seconds(server.pid)
    found = load(binary, mode, connections, server, body)
    cpu = (cpu_seconds(server.pid) - before) / found["answered"]
    return Measured(found["per_second"], found["p50_us"], found["p99_us"], cpu * 1e6)


def compare(
    binary: Path, mode: str, connections: int, servers: tuple[Server, ...], body: Path
) -> tuple[float, float]:
    """Load both servers alternately; return the median ratios of throughput and CPU."""
    rounds = [
        [measure(binary, mode, connections, server, body) for server in servers]
        for _ in range(LOAD_ROUNDS)
    ]
    for i, server in enumerate(servers):
        medians = [
            statistics.median(column)
            for column in zip(*(r[i] for r in rounds), strict=True)
        ]
        print(
            f"  {mode:4} {connections:4}  {server.name:6}"
            f" {medians[0]:8.0f}/s  p50 {medians[1]:6.0f} us  p99 {medians[2]:6.0f} us"
            f"  CPU {medians[3]:5.1f} us"
        )
    speed = statistics.median(
        ours.per_second / theirs.per_second for ours, theirs in rounds
    )
    cpu = statistics.median(ours.cpu_us / theirs.cpu_us for ours, theirs in rounds)
    print(f"  {mode:4} {connections:4}  ratio  {speed:8.2f}, CPU {cpu:.2f}")
    return speed, cpu


Ratios = dict[tuple[str, int], tuple[float, float]]
EVERYTHING = [(mode, count) for mode in ("keep", "new") for count in CONNECTIONS]


def throughput(work: Path, sock: Path, pid: int, what: list[tuple[str, int]]) -> Ratios:
    """Compare the agent with nginx; return the ratios of throughput and CPU."""
    work.mkdir()
    binary, body = work / "load", work / "body"
    source = Path(__file__).with_name("load.c")
    subprocess.run(["gcc", "-O2", "-o", str(binary), str(source)], check=True)
    key = fetch(sock, "demo")
    if key is None:
        sys.exit("bench: the agent holds no key")
    body.write_bytes(key)
    with nginx(work / "nginx", key) as (nginx_sock, worker):
        servers = (
            Server("agent", sock, "/v1/keys/demo", pid),
            Server("nginx", nginx_sock, "/key", worker),
        )
        return {
            (mode, connections): compare(binary, mode, connections, servers, body)
            for mode, connections in what
        }


CLIENT = """
import time
from skragent.client import SkragentClient
SkragentClient({socket!r}).get_pem("demo")
print(time.process_time())
"""


def client_cpu(sock: Path) -> float:
    """Return the CPU, in ms, of a whole Python process that fetches one key."""
    scripts = {"idle": "import time; print(time.process_time())"}
    scripts["fetch"] = CLIENT.format(socket=str(sock))
    seconds = {
        name: statistics.median(
            float(subprocess.check_output([sys.executable, "-I", "-c", script]))
            for _ in range(CLIENT_RUNS)
        )
        for name, script in scripts.items()
    }
    idle, fetch = (seconds[name] * 1000 for name in ("idle", "fetch"))
    print(f"  client: {fetch:.1f} ms of CPU, of which Python's start {idle:.1f} ms")
    return fetch


def name_a_unit(config: Path) -> None:
    """Add a rule on units before the existing rules."""
    text = config.read_text()
    config.write_text(text.replace("allow = [", "allow = [" + UNIT_RULE + ", ", 1))


def main() -> None:
    """Run everything in a directory of its own."""
    for tool in ("gcc", "nginx", "swtpm"):
        if not shutil.which(tool):
            sys.exit(f"bench: {tool} is missing; `make setup` installs it")
    outcome: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="skrb-") as name:
        work = Path(name)
        with emulator(work / "near", 0.0) as config:
            sock = config.parent / "api.sock"
            print("the limit of responses per user is raised: all load is one user's")
            print("cold start, emulator beside it:")
            outcome["cold_start_s"] = round(cold_starts(config, sock), 3)
            with agent(config, sock, *UNLIMITED) as (process, _):
                time.sleep(REST_SECONDS)
                outcome["agent_rss_mib"] = round(resident_mib(process.pid), 1)
                print("a workload in Python:")
                outcome["client_cpu_ms"] = round(client_cpu(sock), 1)
                print("fetches over Unix sockets, agent and nginx alternately:")
                found = throughput(work / "users", sock, process.pid, EVERYTHING)
            name_a_unit(config)
            with agent(config, sock, *UNLIMITED) as (process, _):
                print("the same with a rule on a unit:")
                what = [("new", 16)]
                found_with_units = throughput(work / "units", sock, process.pid, what)
        outcome |= {
            "fetch_keepalive_16": round(found["keep", 16][0], 2),
            "fetch_keepalive_256": round(found["keep", 256][0], 2),
            "fetch_newconn_16": round(found["new", 16][0], 2),
            "fetch_newconn_16_unit_rules": round(found_with_units["new", 16][0], 2),
            "cpu_per_request": round(found["keep", 16][1], 2),
        }
        with emulator(work / "far", LATENCY_SECONDS) as config:
            print(f"cold start, {LATENCY_SECONDS * 1000:.0f} ms on every round trip:")
            sock = config.parent / "api.sock"
            outcome["cold_start_50ms_s"] = round(cold_starts(config, sock), 3)
    print("hostile responses on every path: growth of memory, longest exchange:")
    outcome["unbounded_reads"] = unbounded_reads()
    print(f"on {os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
