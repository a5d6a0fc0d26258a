"""The checks of `skragent report`: cryptographic facts about the evidence.

Pure functions from a subject and `now` to checks. The checks do not judge firmware,
policy or measurement: the verifier and the vault do, by their policies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from skragent.errors import AgentError
from skragent.evidence.endorsements import (
    find_signer,
    order_chain,
    verify_endorsements,
)
from skragent.evidence.hcl import verify_runtime_data_binding
from skragent.evidence.quote import verify_quote
from skragent.evidence.snp_signature import verify_report_signature
from skragent.evidence.verification import verify_ak_binding

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from skragent.cli.report_input import Subject

Outcome = Literal["ok", "failed", "not checked"]


@dataclass(frozen=True, slots=True)
class Check:
    """One fact: what it says, whether it holds, and why not."""

    name: str
    claim: str
    outcome: Outcome
    code: str = ""  # of the error, if it failed
    why: str = ""
    is_needed: bool = True  # without it, the report has not been verified


def check_subject(subject: Subject, now: datetime) -> tuple[Check, ...]:
    """Check everything that the subject has."""
    return (
        _check_signature(subject),
        _check_chain(subject, now),
        _check_binding(subject),
        _check_ak(subject),
        _check_quote(subject),
    )


def is_verified(checks: tuple[Check, ...]) -> bool:
    """Return whether no check failed and no required check is missing."""
    return all(
        check.outcome == "ok" or (check.outcome != "failed" and not check.is_needed)
        for check in checks
    )


def _check_signature(subject: Subject) -> Check:
    name, claim = "signature", "the SNP report is signed with its certificate's key"
    if not subject.certificates:
        return Check(name, claim, "not checked", why=subject.certificates_problem)

    def verify() -> None:
        verify_report_signature(subject.snp, find_signer(subject.certificates))

    return _run(name, claim, verify)


def _check_chain(subject: Subject, now: datetime) -> Check:
    name = "chain"
    claim = "the certificate chains to a trusted AMD root and names this chip and TCB"
    if not subject.certificates:
        return Check(name, claim, "not checked", why=subject.certificates_problem)

    def verify() -> None:
        chain = order_chain(subject.certificates)
        verify_endorsements(chain, subject.snp, now=now, roots=subject.roots)

    return _run(name, claim, verify)


def _check_binding(subject: Subject) -> Check:
    name, claim = "binding", "REPORT_DATA is the hash of the runtime data"
    hcl = subject.hcl
    if hcl is None:
        why = "a bare SNP report has no runtime data"
        return Check(name, claim, "not checked", why=why, is_needed=False)
    return _run(name, claim, lambda: verify_runtime_data_binding(hcl))


def _check_ak(subject: Subject) -> Check:
    name, claim = "ak", "this vTPM's AK is the one in the runtime data"
    ak, hcl = subject.ak, subject.hcl
    if ak is None or hcl is None:
        why = "files were looked at, not a vTPM"
        return Check(name, claim, "not checked", why=why, is_needed=False)
    return _run(name, claim, lambda: verify_ak_binding(ak, hcl))


def _check_quote(subject: Subject) -> Check:
    name = "quote"
    claim = "the AK in the runtime data signed the quote over these PCR values"
    quote, hcl = subject.quote, subject.hcl
    if quote is None:
        why = "no --quote was given"
        return Check(name, claim, "not checked", why=why, is_needed=False)
    if hcl is None:
        why = "a bare SNP report names no AK"
        return Check(name, claim, "not checked", why=why)
    return _run(
        name,
        claim,
        lambda: verify_quote(
            quote.signed,
            hcl.runtime_data.ak_public,
            quote.values,
            qualifying_data=quote.qualifying_data,
            indices=quote.indices,
        ),
    )


def _run(name: str, claim: str, verify: Callable[[], None]) -> Check:
    try:
        verify()
    except AgentError as error:
        return Check(name, claim, "failed", code=error.code, why=error.message)
    return Check(name, claim, "ok")
