"""The output of `skragent report`: decoded evidence as nested names and values.

The same structure is printed as JSON or, by `render`, as text. Pure functions.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from skragent.errors import EndorsementsError, UnsupportedEvidenceError
from skragent.evidence.endorsements import chip_generation, find_signer
from skragent.evidence.tcb import Generation, decode_tcb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.cli.report_checks import Check
    from skragent.cli.report_input import QuotedPcrs, Subject
    from skragent.evidence.hcl import HclReport
    from skragent.evidence.snp import SnpReport

Tree = dict[str, object]

_NAME_COLUMNS = 31
_OUTCOMES = {"ok": "ok", "failed": "FAILED", "not checked": "not checked"}


def describe_subject(subject: Subject) -> Tree:
    """Return the decoded evidence of a subject."""
    generation = _find_generation(subject)
    tree: Tree = {"snp_report": _describe_report(subject.snp, generation)}
    if subject.hcl:
        tree["runtime_data"] = _describe_runtime_data(subject.hcl)
    if subject.certificates:
        tree["certificates"] = [
            {
                "subject": certificate.subject.rfc4514_string(),
                "valid_until": f"{certificate.not_valid_after_utc:%F}",
            }
            for certificate in subject.certificates
        ]
    if subject.quote:
        tree["quote"] = _describe_quote(subject.quote)
    return tree


def _find_generation(subject: Subject) -> Generation | None:
    """Return the chip's generation, from the certificate if there is one."""
    try:
        return chip_generation(subject.snp, find_signer(subject.certificates))
    except (EndorsementsError, UnsupportedEvidenceError):
        return subject.snp.generation


def _describe_report(report: SnpReport, generation: Generation | None) -> Tree:
    cpuid = report.cpuid
    tree: Tree = {
        "version": report.version,
        "decoded_as_version": report.layout_version,
        "chip": generation.value if generation else "unknown",
        "cpuid": f"family {cpuid.family:#x} model {cpuid.model:#x}"
        f" stepping {cpuid.stepping}"
        if cpuid
        else None,
        "chip_id": report.chip_id.hex(),
        "vmpl": report.vmpl,
        "guest_svn": report.guest_svn,
        "policy": _describe_policy(report),
        "platform": list(report.platform_info.names),
        "signing_key": report.key_info.signing_key.name,
        "measurement": report.measurement.hex(),
        "report_data": report.report_data.hex(),
        "host_data": report.host_data.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "report_id": report.report_id.hex(),
        "firmware": {
            "current": report.current_version,
            "committed": report.committed_version,
        },
        "tcb": {
            name: _describe_tcb(raw, generation)
            for name, raw in (
                ("reported", report.reported_tcb),
                ("committed", report.committed_tcb),
                ("current", report.current_tcb),
                ("launch", report.launch_tcb),
            )
        },
    }
    if report.current_mitigation_vector is not None:
        tree["mitigations"] = {
            "current": f"{report.current_mitigation_vector:#x}",
            "launch": f"{report.launch_mitigation_vector or 0:#x}",
        }
    return tree


def _describe_policy(report: SnpReport) -> Tree:
    policy = report.policy
    return {
        "raw": f"{policy.raw:#x}",
        "least_abi": policy.abi,
        "debuggable": policy.is_debuggable,
        "migration_agent_allowed": policy.is_migration_agent_allowed,
        "smt_allowed": policy.is_smt_allowed,
        "single_socket": policy.is_single_socket,
        "cxl_allowed": policy.is_cxl_allowed,
        "aes_256_xts_required": policy.is_aes_256_xts_required,
        "rapl_disabled": policy.is_rapl_disabled,
        "ciphertext_hiding_required": policy.is_ciphertext_hiding_required,
        "page_swap_disabled": policy.is_page_swap_disabled,
    }


def _describe_tcb(raw: bytes, generation: Generation | None) -> str:
    if generation is None:
        return f"{raw.hex()} (its layout is the chip's)"
    return decode_tcb(raw, generation).describe()


def _describe_runtime_data(hcl: HclReport) -> Tree:
    runtime_data = hcl.runtime_data
    user_data = runtime_data.user_data
    return {
        "header_version": hcl.version,
        "header_decoded_as_version": hcl.layout_version,
        "hash": hcl.hash_type.name,
        "vm_id": runtime_data.vm_unique_id,
        "secure_boot": runtime_data.is_secure_boot,
        "user_data": user_data.hex() if user_data is not None else None,
        "vm_configuration": dict(runtime_data.vm_configuration),
        "ak_bits": runtime_data.ak_public.modulus.bit_length(),
        "has_ek": runtime_data.ek_public is not None,
    }


def _describe_quote(quote: QuotedPcrs) -> Tree:
    pairs = zip(quote.indices, quote.values, strict=True)
    return {
        "qualifying_data": quote.qualifying_data.hex(),
        "pcrs": {str(index): value.hex() for index, value in pairs},
    }


def render(tree: Mapping[str, object], depth: int = 0) -> list[str]:
    """Render a tree as lines of text, two columns of indentation a level."""
    lines = []
    for key, value in tree.items():
        name = "  " * depth + _show(key).replace("_", " ")
        if isinstance(value, dict) and value:
            lines += [name, *render(value, depth + 1)]
        elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
            lines.append(name)
            for item in value:
                lines += render(item, depth + 1)
        else:
            lines.append(f"{name:{_NAME_COLUMNS}} {_show(value)}".rstrip())
    return lines


def _show(value: object) -> str:
    """Return one value as text, with control characters escaped."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and value.isprintable():
        return value
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ", ".join(map(_show, value)) or "-"
    return json.dumps(value)


def render_check(check: Check) -> str:
    """Render a check as one line."""
    why = f": {check.why}" if check.why else ""
    code = f" [{check.code}]" if check.code else ""
    return f"{_OUTCOMES[check.outcome]:11} {check.claim}{why}{code}"
