"""`skragent report`: decode and verify a report from files or from this machine.

The command helps to explain a refused attestation, and verifies reports of other
machines. This module has the arguments, the exit code and the output. `report_input`
reads the evidence, `report_checks` verifies it and `report_text` decodes it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from skragent import exit_codes
from skragent.agent.clock import SystemClock
from skragent.cli import deadline
from skragent.cli.config_file import add_config_option, load_config
from skragent.cli.standard_streams import print_error

if TYPE_CHECKING:
    from skragent.cli.report_input import Subject

EXIT_FAILED: Final = 1  # only of this command

# RFC 3339 §5.6. Python accepts more formats of ISO 8601.
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)

_DESCRIPTION = """\
Decode an attestation report and verify it up to AMD's root certificate.

With --hcl the command reads only files. Without --hcl it reads this machine's vTPM,
quotes PCR 0 to 7, and gets the certificates from IMDS, as configured.

The command verifies that the evidence is genuine and consistent. The verifier and the
vault decide by their policies whether they accept it.

--save writes the evidence of this machine into a new directory, for a later
verification with --hcl. The certificates must be valid now, or at the time of --at: the
certificates of an archived report may have expired (a VLEK is valid for a year)."""

_EPILOG = """\
exit status:
  0    all checks passed; checks without a vTPM or a quote may be missing
  1    a check failed, or the certificates for the signature are missing
  69   a file cannot be decoded, or this machine is not a confidential VM
  73   the output or the archive could not be written
  75   the vTPM does not respond now, or the command did not end in time
  78   a file or the configuration cannot be read

examples:
  sudo skragent report
  sudo skragent report --save report-2026-03-01
  skragent report --hcl hcl-report.bin --certs vcek-chain.pem
  skragent report --hcl snp-report.bin --certs thim.json --json
  skragent report --hcl hcl-report.bin --certs vcek.der --certs ask-ark.pem \\
                  --quote tpm-quote.json
  skragent report --hcl hcl-report.bin --certs vlek-chain.pem \\
                  --at 2026-03-01T12:00:00Z"""


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = subparsers.add_parser(
        "report",
        help="decode and verify an attestation report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--hcl",
        metavar="FILE",
        help="an HCL report (a dump of NV index 0x01400001) or a bare SNP report of"
        " 1184 bytes; without this option, this machine's vTPM",
    )
    parser.add_argument(
        "--certs",
        metavar="FILE",
        action="append",
        default=[],
        help="certificates: VCEK or VLEK, ASK or ASVK, ARK, as PEM, DER or a response"
        " of Azure's THIM; may be repeated",
    )
    parser.add_argument(
        "--quote",
        metavar="FILE",
        help="a TPM quote: JSON with `message` (TPMS_ATTEST), `signature` (raw RSASSA)"
        " and `pcrs` (SHA-256 bank, from 0 on), all in hex",
    )
    parser.add_argument(
        "--roots",
        metavar="FILE",
        default="",
        help="PEM of the root certificates (ARK) to trust instead of AMD's own",
    )
    parser.add_argument(
        "--at",
        metavar="TIME",
        type=_parse_time,
        help="verify as of this time instead of now: RFC 3339, with its zone, such as"
        " 2026-03-01T12:00:00Z",
    )
    parser.add_argument(
        "--save",
        metavar="DIR",
        help="write this machine's HCL report, certificates and quote into a new"
        " directory, and print the command that verifies them",
    )
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run, refuse=parser.error, deadline=deadline.USUAL_SECONDS)


def run(args: argparse.Namespace) -> int:
    """Run the command; return its exit code.

    Raises:
        AgentError: a file, the vTPM or the configuration cannot be read or decoded.
    """
    if not args.hcl and (args.certs or args.quote):
        args.refuse("--certs and --quote need --hcl")
    if args.hcl and args.save:
        args.refuse("--save and --hcl exclude each other")
    # The clock of this machine, not of the machine that the report describes.
    now = args.at or datetime.fromtimestamp(SystemClock().now(), UTC)
    subject = _read_subject(args)
    saved = ""
    if args.save:
        from skragent.cli.report_archive import (  # noqa: PLC0415 - as in _read_subject
            save_archive,
        )

        try:
            saved = save_archive(args.save, subject, now)
        except OSError as error:
            print_error(
                "output",
                f"{error.filename or args.save}: {error.strerror}",
                "Choose a new directory on a file system with 64 KiB of free space.",
            )
            return exit_codes.CANTCREAT
    return _report(subject, now, args, saved)


def _parse_time(text: str) -> datetime:
    try:
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):  # the 30th of February, or the year 0
        pass
    raise argparse.ArgumentTypeError(
        "must be a time as in RFC 3339, with its zone, such as 2026-03-01T12:00:00Z"
    )


def _read_subject(args: argparse.Namespace) -> Subject:
    # Imported here: the import of cryptography would delay every other command.
    from skragent.cli.report_input import (  # noqa: PLC0415 - see above
        read_files,
        read_machine,
    )

    if args.hcl:
        return read_files(args)
    deadline.doing(f"reading {args.config}")
    config = load_config(args.config)
    # For IMDS: to connect, to the first byte and to the last byte of the response.
    deadline.allow(3 * config.limits.request_timeout_seconds)
    return read_machine(config, args.roots)


def _report(
    subject: Subject, now: datetime, args: argparse.Namespace, saved: str
) -> int:
    from skragent.cli.report_checks import (  # noqa: PLC0415 - as in _read_subject
        check_subject,
        is_verified,
    )
    from skragent.cli.report_text import (  # noqa: PLC0415 - as in _read_subject
        describe_subject,
        render,
        render_check,
    )

    checks = check_subject(subject, now)
    verified = is_verified(checks)
    tree = describe_subject(subject)
    if args.json:
        tree |= {
            "checked_at": now.isoformat(),
            "checks": [asdict(c) for c in checks],
            "notes": list(subject.all_notes),
            "verified": verified,
        }
        if saved:
            tree["verify_archive"] = saved
        text = json.dumps(tree, indent=2)
    else:
        lines = [*render(tree), "", *map(render_check, checks)]
        notes = list(subject.all_notes)
        if args.at:
            notes.append(f"certificates verified as of {now.isoformat()}")
        if saved:
            notes.append(f"the archive is in {args.save}. Verify it with: {saved}")
        lines += [f"{'note':11} {note}" for note in notes]
        text = "\n".join(lines)
    _print(text)
    return exit_codes.OK if verified else EXIT_FAILED


def _print(text: str) -> None:
    """Print to a reader that may close the pipe, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Else Python prints another error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
