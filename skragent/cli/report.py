"""`skragent report`: decode and check a report, from files or from this machine.

For who wonders why an attestation is refused, and for who got a report from elsewhere.
Here are the arguments, the exit status and the printing; see `report_input` for the
reading, `report_checks` for the judging and `report_text` for the decoding.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from skragent.agent.clock import SystemClock
from skragent.cli import deadline
from skragent.cli.config_file import add_config_option, load_config
from skragent.errors import SkrAgentError

if TYPE_CHECKING:
    from skragent.cli.report_input import Subject

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNUSABLE = 2

_DESCRIPTION = """\
Decode an attestation report and check it, down to AMD's root certificate.

With --hcl it looks at files and asks nobody. Without, it reads this machine's vTPM,
quotes PCR 0 to 7, and asks IMDS for the certificates, as the configuration says.

What is checked is whether the evidence is genuine and belongs together. Whether it is
good enough is for the verifier and the vault to say, by their policies."""

_EPILOG = """\
exit status:
  0  every check holds; those that need a vTPM or a quote may be left out
  1  a check failed, or there were no certificates to check the signature with
  2  the command line is wrong, or something cannot be read or decoded
  75  it did not end in time: the vTPM does not answer, say

examples:
  sudo skragent report
  skragent report --hcl hcl-report.bin --certs vcek-chain.pem
  skragent report --hcl snp-report.bin --certs thim.json --json
  skragent report --hcl hcl-report.bin --certs vcek.der --certs ask-ark.pem \\
                  --quote tpm-quote.json"""


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main one's."""
    parser = subparsers.add_parser(
        "report",
        help="decode and check an attestation report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--hcl",
        metavar="FILE",
        help="an HCL report (a dump of NV index 0x01400001) or a bare SNP report of"
        " 1184 bytes; without it, this machine's vTPM is read",
    )
    parser.add_argument(
        "--certs",
        metavar="FILE",
        action="append",
        default=[],
        help="certificates: VCEK or VLEK, ASK or ASVK, ARK, as PEM, DER or an answer of"
        " Azure's THIM; may be given more than once",
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
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run, deadline=deadline.USUAL_SECONDS)


def run(args: argparse.Namespace) -> int:
    """Run the command; gives its exit status."""
    # By the clock of the machine that looks, not the one that is looked at.
    now = datetime.fromtimestamp(SystemClock().now(), UTC)
    if not args.hcl and (args.certs or args.quote):
        print("skragent report: --certs and --quote go with --hcl", file=sys.stderr)
        return EXIT_UNUSABLE
    try:
        subject = _read_subject(args)
    except SkrAgentError as error:
        print(f"skragent report: {error.message} [{error.code}]", file=sys.stderr)
        if error.hint and args.hcl is None:
            print(f"  {error.hint}", file=sys.stderr)
        return EXIT_UNUSABLE
    return _report(subject, now, as_json=args.json)


def _read_subject(args: argparse.Namespace) -> Subject:
    # Not before it runs: every other command would wait for cryptography's loading.
    from skragent.cli.report_input import (  # noqa: PLC0415 - see above
        read_files,
        read_machine,
    )

    if args.hcl:
        return read_files(args)
    deadline.doing(f"reading {args.config}")
    config = load_config(args.config)
    # Of IMDS: to connect, to begin its answer and to end it.
    deadline.allow(3 * config.limits.request_timeout_seconds)
    return read_machine(config, args.roots)


def _report(subject: Subject, now: datetime, *, as_json: bool) -> int:
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
    if as_json:
        tree |= {
            "checks": [asdict(c) for c in checks],
            "notes": list(subject.all_notes),
            "verified": verified,
        }
        text = json.dumps(tree, indent=2)
    else:
        lines = [*render(tree), "", *map(render_check, checks)]
        lines += [f"{'note':11} {note}" for note in subject.all_notes]
        text = "\n".join(lines)
    _print(text)
    return EXIT_OK if verified else EXIT_FAILED


def _print(text: str) -> None:
    """Print to a reader that may have gone, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
