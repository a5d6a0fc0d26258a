"""Where the emulated services listen, and under which names clients know them.

By default each service has a port of its own on 127.0.0.1, kept in the directory so
that issuers and key identifiers survive a restart. An IP address, because no name that
Azure's SDK would accept resolves to loopback everywhere: it demands that the host have
at least two labels, and plain Debian resolves `localhost` alone and nothing below it.

With real names, the services stand where clients that hard-code Azure look for them;
or behind two Unix sockets, for who carries a virtual machine's connections there.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from skragent.emulator.maa.regions import ATTESTATION_HOSTS
from skragent.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LOOPBACK = "127.0.0.1"
IMDS_ADDRESS = "169.254.169.254"
TLS_ADDRESS = "127.0.0.2"  # loopback as well: nobody else's port 443
MAA_HOST = "sharedeus2.eus2.attest.azure.net"
ENTRA_HOST = "login.microsoftonline.com"
LOCATION = "eastus2"

_HTTP, _HTTPS = 80, 443
_CA_NAME = "skragent-emulator"


@dataclass(frozen=True, slots=True)
class VaultPlan:
    """A vault to be emulated."""

    name: str
    kind: Literal["vault", "hsm"] = "vault"

    @property
    def host(self) -> str:
        """Its name in Azure."""
        suffix = "managedhsm" if self.kind == "hsm" else "vault"
        return f"{self.name}.{suffix}.azure.net"

    @property
    def certificate_names(self) -> list[str]:
        """The names on its certificate: Azure's, and the local ones."""
        if self.kind == "hsm":
            names = [self.host, f"*.{self.host}"]
        else:
            names = ["vault.azure.net", "*.vault.azure.net", "*.vaultcore.azure.net"]
        return [*names, "localhost", LOOPBACK]


def bind(host: str, port: int) -> socket.socket:
    """Bind a TCP socket; port 0 takes a free one.

    Raises:
        EmulatorError: emulator.address.
    """
    # asyncio switches Nagle's delay off only where a socket says that it is TCP.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise EmulatorError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            code="emulator.address",
            hint="Stop what listens there, or remove ports.json from the directory to"
            " take other ports (policies of existing keys name the old ones).",
        ) from error
    sock.settimeout(0)  # asyncio's sockets never block
    return sock


def port_of(sock: socket.socket) -> int:
    """Give the port that a socket is bound to."""
    port: int = sock.getsockname()[1]
    return port


def bind_services(
    labels: Iterable[str], file: Path, ports: Mapping[str, int]
) -> dict[str, socket.socket]:
    """Bind a local port for each service: the one asked for, or the one of last time.

    Args:
        labels: the services.
        file: where the ports are kept.
        ports: by label; a missing one or 0 means the kept one, or a free one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    bound: dict[str, socket.socket] = {}
    with contextlib.ExitStack() as undo:
        for label in labels:
            wanted = ports.get(label) or kept.get(label, 0)
            bound[label] = undo.enter_context(bind(LOOPBACK, wanted))
        undo.pop_all()
    chosen = {label: port_of(sock) for label, sock in bound.items()}
    file.write_text(json.dumps(kept | chosen, indent=1))
    return bound


def bind_real() -> tuple[socket.socket, socket.socket]:
    """Bind the addresses of IMDS and of everything with TLS."""
    imds = bind(IMDS_ADDRESS, _HTTP)
    try:
        return imds, bind(TLS_ADDRESS, _HTTPS)
    except EmulatorError:
        imds.close()
        raise


def bind_unix(path: Path) -> socket.socket:
    """Bind a Unix socket at a path that is free."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise EmulatorError(
            f"cannot listen at {path}: {error.strerror or error}",
            code="emulator.address",
        ) from error
    sock.settimeout(0)
    return sock


def commands_for_real_names(vaults: Iterable[VaultPlan]) -> list[str]:
    """Tell what root must type before real names work here; nothing if they do."""
    commands = []
    if not _is_ours(IMDS_ADDRESS):
        commands.append(f"ip addr add {IMDS_ADDRESS}/32 dev lo")
    hosts = [*ATTESTATION_HOSTS, ENTRA_HOST, *(plan.host for plan in vaults)]
    # All at once: without a network, each look-up waits until its resolver gives up.
    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        found = dict(zip(hosts, pool.map(_address_of, hosts), strict=True))
    missing = [host for host, address in found.items() if address != TLS_ADDRESS]
    if missing:
        # A line for each name: musl reads at most 511 bytes of a line of /etc/hosts.
        line = f"{TLS_ADDRESS} %s\\n"
        commands.append(f"printf '{line}' {' '.join(missing)} >> /etc/hosts")
    return commands


def commands_for_system_trust(ca: Path) -> list[tuple[str, str]]:
    """Print the commands that add the CA to the system's trust store, by distribution.

    C++ and Go clients read that store's bundle, and have no variable of Azure's SDKs.
    """
    path = shlex.quote(str(ca))
    return [
        (
            "Debian, Ubuntu",
            (
                f"cp {path} /usr/local/share/ca-certificates/{_CA_NAME}.crt"
                " && update-ca-certificates"
            ),
        ),
        (
            "Fedora, RHEL",
            (
                f"cp {path} /etc/pki/ca-trust/source/anchors/{_CA_NAME}.pem"
                " && update-ca-trust"
            ),
        ),
    ]


def _is_ours(address: str) -> bool:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


def _address_of(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError:
        return ""
