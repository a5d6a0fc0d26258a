"""The addresses and host names of the emulated services.

By default each service has its own port on 127.0.0.1. The ports are kept in the
directory, so that issuers and key identifiers stay the same after a restart. The
services use an IP address because Azure's SDKs require a host name with at least two
labels, and Debian resolves to loopback only `localhost`, not the names below it.

With real names, the services listen at the addresses that clients expect in Azure, or
at two sockets that the caller gives, such as sockets that a virtual machine's network
is connected to.
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
TLS_ADDRESS = "127.0.0.2"  # loopback, and port 443 is usually free there
MAA_HOST = "sharedeus2.eus2.attest.azure.net"
ENTRA_HOST = "login.microsoftonline.com"
LOCATION = "eastus2"

_HTTP, _HTTPS = 80, 443
_CA_NAME = "skragent-emulator"


@dataclass(frozen=True, slots=True)
class VaultPlan:
    """The name and kind of a vault to emulate."""

    name: str
    kind: Literal["vault", "hsm"] = "vault"

    @property
    def host(self) -> str:
        """The vault's host name in Azure."""
        suffix = "managedhsm" if self.kind == "hsm" else "vault"
        return f"{self.name}.{suffix}.azure.net"

    @property
    def certificate_names(self) -> list[str]:
        """The names on the vault's certificate: Azure's and the local names."""
        if self.kind == "hsm":
            names = [self.host, f"*.{self.host}"]
        else:
            names = ["vault.azure.net", "*.vault.azure.net", "*.vaultcore.azure.net"]
        return [*names, "localhost", LOOPBACK]


def bind(host: str, port: int) -> socket.socket:
    """Bind a TCP socket; port 0 means a free port.

    Raises:
        EmulatorError: emulator.address.
    """
    # asyncio disables Nagle's algorithm only on sockets created with IPPROTO_TCP.
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
            hint="Stop the program that listens there. Or remove ports.json from the"
            " directory to choose other ports; release policies of existing keys then"
            " name the wrong issuer.",
        ) from error
    sock.settimeout(0)  # asyncio requires non-blocking sockets
    return sock


def port_of(sock: socket.socket) -> int:
    """Return the port that a socket is bound to."""
    port: int = sock.getsockname()[1]
    return port


def bind_services(
    labels: Iterable[str], file: Path, ports: Mapping[str, int]
) -> dict[str, socket.socket]:
    """Bind a local port for each service.

    Args:
        labels: the names of the services.
        file: the file that keeps the ports.
        ports: ports by label. A missing port or 0 means the port of the last start,
            or a free port.
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
    """Bind the address of IMDS and the address of all services with TLS."""
    imds = bind(IMDS_ADDRESS, _HTTP)
    try:
        return imds, bind(TLS_ADDRESS, _HTTPS)
    except EmulatorError:
        imds.close()
        raise


def commands_for_real_names(vaults: Iterable[VaultPlan]) -> list[str]:
    """Return the commands that root must run before real names work on this machine."""
    commands = []
    if not _is_local(IMDS_ADDRESS):
        commands.append(f"ip addr add {IMDS_ADDRESS}/32 dev lo")
    hosts = [*ATTESTATION_HOSTS, ENTRA_HOST, *(plan.host for plan in vaults)]
    # In parallel: without a network, each look-up waits for the resolver's timeout.
    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        found = dict(zip(hosts, pool.map(_address_of, hosts), strict=True))
    missing = [host for host, address in found.items() if address != TLS_ADDRESS]
    if missing:
        # One name per line: musl reads at most 511 bytes of a line of /etc/hosts.
        line = f"{TLS_ADDRESS} %s\\n"
        commands.append(f"printf '{line}' {' '.join(missing)} >> /etc/hosts")
    return commands


def commands_for_system_trust(ca: Path) -> list[tuple[str, str]]:
    """Return the commands that add the CA to the system's trust store.

    Clients in C++ and Go read only that store; they ignore the variables of Azure's
    SDKs. Each command comes with the names of its distributions.
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


def _is_local(address: str) -> bool:
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
