"""Measure what the README promises; the last line printed is one JSON object.

Start-up and memory are absolute, taken against the emulator on this machine.
Throughput is a ratio to nginx serving the same bytes over a Unix socket in the same
run, the two measured in turn, because absolute numbers belong to a machine.
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

COLD_STARTS = 7
LATENCY_SECONDS = 0.05
LOAD_ROUNDS = 5
LOAD_SECONDS = 1.0
CONNECTIONS = 16
REST_SECONDS = 3.0
DEADLINE_SECONDS = 60.0

SKRAGENT = [sys.executable, "-I", "-m", "skragent.cli.main"]
NGINX_CONF = """
worker_processes 1; daemon off; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600;
  client_body_temp_path {dir}/1; proxy_temp_path {dir}/2; fastcgi_temp_path {dir}/3;
  uwsgi_temp_path {dir}/4; scgi_temp_path {dir}/5;
  server {{ listen unix:{dir}/nginx.sock; root {dir}/root; }}
}}
"""


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command and see that it ends with the block."""
    with log.open("ab") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)


@contextlib.contextmanager
def emulator(directory: Path, latency: float) -> Iterator[Path]:
    """Run the emulator and give the configuration that it wrote."""
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
    """Ask once for a key; its bytes, or None where the agent has none yet."""
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
def agent(config: Path, sock: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Run the agent; give it with the seconds from exec to its first key."""
    started = time.perf_counter()
    with running(
        [*SKRAGENT, "run", "--config", str(config)], config.parent / "agent.log"
    ) as process:
        while fetch(sock, "demo") is None:
            if time.perf_counter() - started > DEADLINE_SECONDS:
                sys.exit(f"bench: no key; see {config.parent}/agent.log")
            time.sleep(0.001)
        yield process, time.perf_counter() - started


def cold_starts(config: Path, sock: Path) -> float:
    """Give the median of some starts; the first one warms the page cache."""
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


def load(binary: Path, sock: Path, path: str) -> float:
    """Give the fetches per second of one round."""
    command = [str(binary), str(sock), str(CONNECTIONS), str(LOAD_SECONDS), path]
    outcome = subprocess.run(command, check=True, capture_output=True, timeout=60)
    return float(json.loads(outcome.stdout)["per_second"])


@contextlib.contextmanager
def nginx(directory: Path, body: bytes) -> Iterator[Path]:
    """Serve the same bytes with nginx on a Unix socket."""
    (directory / "root").mkdir(parents=True)
    (directory / "root" / "key").write_bytes(body)
    for parent in (directory, *directory.parents):
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)  # nginx's worker is another user
    conf = directory / "nginx.conf"
    conf.write_text(NGINX_CONF.format(dir=directory))
    sock = directory / "nginx.sock"
    with running(["nginx", "-c", str(conf)], directory / "log"):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not sock.exists():
            if time.monotonic() > deadline:
                sys.exit("bench: nginx did not start")
            time.sleep(0.02)
        yield sock


def throughput(work: Path, sock: Path) -> float:
    """Give the median ratio of the agent's fetches per second to nginx's."""
    binary = work / "load"
    source = Path(__file__).with_name("load.c")
    subprocess.run(["gcc", "-O2", "-o", str(binary), str(source)], check=True)
    body = fetch(sock, "demo")
    if body is None:
        sys.exit("bench: the agent holds no key")
    ratios = []
    with nginx(work / "nginx", body) as nginx_sock:
        for _ in range(LOAD_ROUNDS):
            ours = load(binary, sock, "/v1/keys/demo")
            theirs = load(binary, nginx_sock, "/key")
            print(f"  fetches per second: agent {ours:.0f}, nginx {theirs:.0f}")
            ratios.append(ours / theirs)
    return statistics.median(ratios)


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
            print("cold start, emulator beside it:")
            outcome["cold_start_s"] = round(cold_starts(config, sock), 3)
            with agent(config, sock) as (process, _):
                time.sleep(REST_SECONDS)
                outcome["agent_rss_mib"] = round(resident_mib(process.pid), 1)
                print(f"keep-alive fetches over {CONNECTIONS} connections:")
                outcome["fetch_keepalive_16"] = round(throughput(work, sock), 2)
        with emulator(work / "far", LATENCY_SECONDS) as config:
            print(f"cold start, {LATENCY_SECONDS * 1000:.0f} ms on every round trip:")
            sock = config.parent / "api.sock"
            outcome["cold_start_50ms_s"] = round(cold_starts(config, sock), 3)
    print(f"on {os.cpu_count()} CPUs, Python {sys.version.split()[0]}")
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
