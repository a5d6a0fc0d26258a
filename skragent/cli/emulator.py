"""`skragent emulator`: a confidential VM and the Azure services, on this machine.

The command starts everything in one directory, writes a configuration for the agent,
prints addresses and files, and runs until Ctrl-C or SIGTERM. The emulator's library is
an optional extra, and this module can be imported without it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from typing_extensions import override

from skragent.cli import deadline
from skragent.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skragent.emulator.emulator import Emulator
    from skragent.emulator.keyvault.key_specs import KeySpec

_DEFAULT_KEY = "demo:RSA"

_DESCRIPTION = """\
Run an emulator of a TPM, an AMD chip, IMDS, Entra ID, Microsoft Azure Attestation,
Key Vault and Managed HSM until Ctrl-C. Print READY when all of them answer, and write
DIR/skragent.toml for `skragent run`."""

_EPILOG = """\
exit status:
  0    stopped by SIGTERM or SIGINT
  2    the command line is invalid: a --fault that does not exist, or a --key whose
       store, kind or policy file cannot be used
  69   the emulator cannot start; the message has the reason"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = commands.add_parser(
        "emulator",
        help="run an emulated confidential VM and Azure services on this machine",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="the directory of keys, state and sockets; created if missing, and kept",
    )
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="[STORE/]NAME[:KIND][,policy=FILE]",
        help="create this key unless STORE (vault, the default, or hsm) has a key of"
        " that name; KIND is RSA[-2048|3072|4096], EC, P-256|384|521|256K,"
        " oct[-128|192|256]; FILE is a release policy (default: a policy that this VM"
        " satisfies); may be repeated (default: one RSA key `demo`, if there are no"
        " keys)",
    )
    parser.add_argument(
        "--latency",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="the time to add to every round trip to IMDS, Entra ID, attestation and"
        " the vaults",
    )
    parser.add_argument(
        "--real-names",
        action="store_true",
        help="listen at Azure's addresses (169.254.169.254:80, the attestation"
        " providers of all regions, …) for clients that hard-code them; print the"
        " commands for root that this requires, and those that trust the emulator's CA"
        " system-wide",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="apply a fault at the start, such as maa.status=503,retry_after=5 or"
        " vault.throttle; may be repeated. DIR/faults.sock applies and resets faults"
        " later: GET, POST and DELETE /faults",
    )
    parser.add_argument(
        "--list-faults",
        action=_ListFaults,
        nargs=0,
        help="print all faults and their effects",
    )
    # It runs until a signal stops it.
    parser.set_defaults(run=run, refuse=parser.error, deadline=deadline.NONE)


def run(args: argparse.Namespace) -> int:
    """Run the emulator until a signal stops it.

    Raises:
        EmulatorError: the emulator cannot start.
    """
    with _installed():
        from skragent.emulator import addresses, azure  # noqa: PLC0415 - an extra
        from skragent.emulator.faults import catalogue  # noqa: PLC0415 - an extra
        from skragent.emulator.keyvault import key_specs  # noqa: PLC0415 - an extra
    refuse: Callable[[str], NoReturn] = args.refuse
    try:  # refuse invalid arguments before anything starts
        for fault in args.fault:
            catalogue.parse(fault)
        specs = [key_specs.parse_key_spec(text) for text in args.key]
    except EmulatorError as error:
        refuse(f"argument --fault: {error.message}. {error.hint}")
    except ValueError as error:
        refuse(f"argument --key: {error}")
    if args.real_names:
        commands = addresses.commands_for_real_names(azure.DEFAULT_VAULTS)
        if commands:
            raise EmulatorError(
                "Azure's names and addresses do not lead to this machine yet",
                code="emulator.address",
                hint="As root, run:\n  " + "\n  ".join(commands),
            )
    asyncio.run(_run(args, specs))
    return 0


async def _run(args: argparse.Namespace, specs: list[KeySpec]) -> None:
    from skragent.emulator.emulator import Emulator  # noqa: PLC0415 - an extra
    from skragent.emulator.tpm.swtpm import VtpmError  # noqa: PLC0415 - an extra

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        emulator = await Emulator.start(
            args.dir, latency_seconds=args.latency, real_names=args.real_names
        )
    except VtpmError as error:
        raise EmulatorError(str(error), code="emulator.vtpm") from error
    except OSError as error:
        raise EmulatorError(
            f"--dir {args.dir}: {error.strerror or error}", code="emulator.directory"
        ) from error
    try:
        config = _prepare(emulator, specs)
        for fault in args.fault:
            await emulator.faults.apply(fault)
        print(_directions(emulator, config))
        if args.real_names:
            print(_trust_directions(emulator))
        print("READY", flush=True)
        await stop.wait()
    finally:
        await emulator.close()


class _ListFaults(argparse.Action):
    """Print the list of faults and exit, as --help does."""

    @override
    def __call__(self, *_: object, **__: object) -> None:
        with _installed():
            from skragent.emulator.faults import catalogue  # noqa: PLC0415 - an extra
        for entry in catalogue.all_faults():
            print(f"{entry.pattern}\n    {entry.summary}")
        raise SystemExit(0)


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Report a failed import of the emulator's modules, which are an optional extra."""
    try:
        yield
    except ImportError as error:
        raise EmulatorError(
            f"the emulator is not installed: module {error.name} is missing",
            code="emulator.not_installed",
            hint="apt install skragent-emulator, or pip install 'skragent[emulator]'",
        ) from error


def _prepare(emulator: Emulator, specs: list[KeySpec]) -> Path:
    """Create missing keys and write the agent's configuration."""
    from skragent.emulator.keyvault.key_specs import parse_key_spec  # noqa: PLC0415 - an extra

    stores = [vault.store for vault in emulator.vaults.values()]
    if not specs and not any(len(s) or s.deleted_names for s in stores):
        specs = [parse_key_spec(_DEFAULT_KEY)]
    for spec in specs:
        store = emulator.store(spec.store).store
        # A deleted key still occupies its name, as in Azure.
        if store.find(spec.name) is None and store.find_deleted(spec.name) is None:
            emulator.create_key(spec)
            _warn_of_authorities(emulator, spec)
    config = emulator.directory.resolve() / "skragent.toml"
    config.write_text(emulator.config_text(), encoding="utf-8")
    return config


def _warn_of_authorities(emulator: Emulator, spec: KeySpec) -> None:
    """Warn of a release policy that no token of this emulator can satisfy."""
    from skragent.emulator.keyvault.release_policy import parse_policy  # noqa: PLC0415 - an extra

    if not spec.policy:
        return
    urls = [url for url, _ in parse_policy(spec.policy).authorities]
    if any(emulator.azure.authorities.has(url) for url in urls):
        return
    print(
        f"skragent: warning: the vault will not release the key {spec.name}: its policy"
        f" trusts {', '.join(urls)}, which is not an attestation provider of this"
        f' emulator. Write "authority": "{emulator.azure.maa.issuer}" into the policy,'
        f" and create a key with another name.",
        file=sys.stderr,
    )


def _directions(emulator: Emulator, config: Path) -> str:
    """Return the addresses and files, and the next commands to run."""
    from skragent.emulator.imds.identities import TENANT_ID  # noqa: PLC0415 - an extra

    azure, vm = emulator.azure, emulator.vm
    directory = emulator.directory.resolve()
    rows = [
        ("vTPM", vm.tcti),
        ("HCL report", str(directory / "hcl-report.bin")),
        ("TCG log", str(vm.tcg_log_path.resolve())),
        ("VM id", vm.vm_id),
        ("IMDS", azure.imds_url),
        ("attestation", azure.maa.issuer),
        *((f"vault {name}", vault.url) for name, vault in azure.vaults.items()),
        ("identity", f"{azure.vm_identity.client_id} (system-assigned: everything)"),
        (
            "identity",
            f"{azure.unprivileged_identity.client_id} (user-assigned: nothing)",
        ),
        ("Entra ID", azure.entra_id.origin),
        ("tenant", TENANT_ID),
        ("application", f"{azure.application.client_id} (everything)"),
        ("its certificate", str(azure.application_files.certificate.resolve())),
        ("its secret", str(azure.application_files.secret.resolve())),
        ("its platform's token", str(azure.application_files.token.resolve())),
        ("TLS root", str(azure.ca_path.resolve())),
        ("AMD root", str(directory / "amd-roots.pem")),
        *(
            (f"keys in {name}", ", ".join(vault.store.names))
            for name, vault in azure.vaults.items()
            if len(vault.store)
        ),
        ("faults", str(directory / "faults.sock")),
        ("configuration", str(config)),
    ]
    lines = [f"{name:20} {value}" for name, value in rows]
    lines += ["", "In another terminal:", f"  skragent run --config {config}"]
    socket = directory / "api.sock"
    for key in [*emulator.aliases()][:1]:
        lines += [f"  skragent get {key} --socket {socket} --format pem"]
    lines += [
        "For Azure's SDKs, such as azure-identity and azure-keyvault-keys:",
        (
            f"  export AZURE_POD_IDENTITY_AUTHORITY_HOST={azure.imds_url}"
            f" REQUESTS_CA_BUNDLE={azure.ca_path.resolve()}"
        ),
        "",
    ]
    return "\n".join(lines)


def _trust_directions(emulator: Emulator) -> str:
    """Return the commands with which root makes the system trust the CA."""
    from skragent.emulator.addresses import commands_for_system_trust  # noqa: PLC0415 - an extra

    commands = commands_for_system_trust(emulator.azure.ca_path.resolve())
    lines = [
        "C++ and Go clients read the system's trust store. As root, add the TLS root:",
        *(f"  {systems}: {command}" for systems, command in commands),
        "Its private key is in this directory. To remove the root, delete the copy and",
        "run the second command again.",
        "",
    ]
    return "\n".join(lines)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 10:  # noqa: PLR2004 - longer than any network's round trip
        raise argparse.ArgumentTypeError("must be from 0 to 10")
    return value
