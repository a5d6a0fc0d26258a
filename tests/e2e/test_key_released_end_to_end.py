"""A release from evidence to the served key, and the faults that must prevent it."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from support.deadlines import DEADLINE_SECONDS
from support.e2e import Agent, config_for, create_key, run_command
from support.evidence_swtpm import run_swtpm

from skragent.client import SkragentError
from skragent.emulator.amd.chip import Chip
from skragent.emulator.confidential_vm import ConfidentialVm
from skragent.emulator.service import Request, Response
from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

HW_REPORT = 0x20  # offset of the SNP report in an HCL report


def refused_with(agent: Agent, alias: str = "demo") -> str:
    """Return the code of the first failure, and check that the key is not served."""
    code = agent.first_failure()
    with pytest.raises(SkragentError) as caught:
        agent.client.get_key(alias)
    assert caught.value.code in ("serve.not_ready", "client.unreachable")
    return code


def test_the_served_key_equals_the_vaults_key(
    emulator: EmulatorThread, directory: Path
) -> None:
    stored = emulator.instance.vault.store.find("demo")
    assert stored is not None
    material = stored.latest.material
    assert isinstance(material, rsa.RSAPrivateKey)
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
        served = load_pem_private_key(agent.client.get_pem("demo").encode(), None)
    assert isinstance(served, rsa.RSAPrivateKey)
    assert served.private_numbers() == material.private_numbers()


@pytest.mark.parametrize("kind", ["RSA-3072", "RSA-4096", "P-256", "P-384", "P-521"])
def test_every_kind_of_key_is_served(
    emulator: EmulatorThread, directory: Path, kind: str
) -> None:
    create_key(emulator, f"k-{kind}:{kind}")
    with Agent(directory, config_for(emulator, directory, f"k-{kind}")) as agent:
        agent.until(lambda: agent.holds(f"k-{kind}"))
        jwk = agent.client.get_key(f"k-{kind}").jwk
    assert jwk["kty"] == ("RSA" if "RSA" in kind else "EC")


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256", "oct-256"])
def test_a_managed_hsm_releases_keys(
    emulator: EmulatorThread, directory: Path, kind: str
) -> None:
    vault, hsm = emulator.instance.vaults.values()
    name = f"hsm-{kind}"
    create_key(emulator, f"{name}:{kind}", hsm)
    config = config_for(emulator, directory, name).replace(vault.url, hsm.url)
    with Agent(directory, config) as agent:
        agent.until(lambda: agent.holds(name))
        jwk = agent.client.get_key(name).jwk
        if kind.startswith("oct"):
            raw = agent.client.get_bytes(name, "raw")
            stored = hsm.store.find(name)
            assert stored is not None
            assert raw == stored.latest.material
    assert jwk["kid"].startswith(f"{hsm.url}/keys/{name}/")


def test_a_failing_key_does_not_affect_other_keys(
    emulator: EmulatorThread, directory: Path
) -> None:
    config = config_for(emulator, directory, "demo", "no-such-key")
    with Agent(directory, config) as agent:
        agent.until(lambda: agent.holds("demo"))
        assert agent.first_failure() == "release.not_found"
        assert not agent.holds("no-such-key")


def test_another_vtpm_cannot_use_this_vms_report(
    emulator: EmulatorThread, directory: Path
) -> None:
    (directory / "vm").mkdir()
    report = (emulator.instance.directory / "hcl-report.bin").read_bytes()
    other = emulator.call(ConfidentialVm.start(directory / "vm"))
    try:
        other.paravisor.tamper = lambda _: report
        emulator.call(other.paravisor.refresh())
        config = config_for(emulator, directory, "demo", tcti=other.tcti)
        with Agent(directory, config) as agent:
            assert refused_with(agent) == "evidence.ak_mismatch"
    finally:
        emulator.call(other.close())


def test_the_agent_exits_at_the_second_attempt_outside_a_confidential_vm(
    emulator: EmulatorThread, directory: Path
) -> None:
    with run_swtpm(directory) as tpm:
        config = config_for(emulator, directory, "demo", tcti=tpm.tcti)
        with Agent(directory, config) as agent:
            assert agent.process.wait(DEADLINE_SECONDS) == 69
    log = agent.log.read_text()
    assert log.count("code=evidence.not_a_cvm") >= 2
    assert log.count("Next attempt in") == 1


@pytest.mark.parametrize(
    ("skew", "message"), [(-259200, "3 days ahead of"), (259200, "3 days behind")]
)
def test_a_wrong_clock_of_this_vm_is_logged(
    emulator: EmulatorThread, directory: Path, skew: int, message: str
) -> None:
    emulator.call(emulator.instance.faults.apply(f"azure.clock={skew}"))
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: f"this VM's clock is {message}" in agent.log.read_text())
        assert not agent.holds("demo")


def test_the_agent_waits_for_an_ak_certificate_that_azure_provisions_late(
    emulator: EmulatorThread, directory: Path
) -> None:
    emulator.call(emulator.instance.faults.apply("vm.ak_cert"))
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        assert refused_with(agent) == "evidence.ak_cert_not_provisioned"
        emulator.call(emulator.instance.faults.reset())
        agent.until(lambda: agent.holds("demo"))


def test_a_pcr_that_changes_after_attestation_disables_the_wrapping_key(
    emulator: EmulatorThread, directory: Path
) -> None:
    async def extend_first(_: Request, answer: Response) -> Response:
        # Skip the challenge, which arrives before all evidence is collected.
        if answer.status == HTTPStatus.OK:
            await emulator.instance.vm.extend_pcr(7, b"evil")
        return answer

    emulator.instance.vault.before_response = extend_first
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        assert refused_with(agent) == "evidence.pcr_changed"


def test_the_job_after_a_pcr_change_before_the_unwrap_succeeds(
    emulator: EmulatorThread, directory: Path
) -> None:
    unmeasured = iter([b"once"])

    async def extend_once(_: Request, answer: Response) -> Response:
        if answer.status == HTTPStatus.OK and (data := next(unmeasured, None)):
            await emulator.instance.vm.extend_pcr(7, data)
        return answer

    emulator.instance.vault.before_response = extend_once
    config = config_for(emulator, directory, "demo", tcg_log="/dev/null")
    with Agent(directory, config) as agent:
        agent.until(lambda: agent.holds("demo"))
        assert agent.first_failure() == "evidence.pcr_changed"


def test_the_next_evidence_has_a_pcr_that_changed_in_the_meantime(
    emulator: EmulatorThread, directory: Path
) -> None:
    config = config_for(emulator, directory, "demo", tcg_log="/dev/null")
    with Agent(directory, config) as agent:
        agent.until(lambda: agent.holds("demo"))
        emulator.call(emulator.instance.vm.extend_pcr(7, b"something new"))
        run_command(agent, "refresh")
        agent.until(lambda: agent.log.read_text().count("key demo: version") == 2)
        assert "code=" not in agent.log.read_text()


def refusals(agent: Agent) -> int:
    return agent.log.read_text().count("code=token.refused")


def test_a_pcr_without_its_event_in_the_log_is_refused(
    emulator: EmulatorThread, directory: Path
) -> None:
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
        emulator.call(emulator.instance.faults.apply("vm.pcr=7"))
        run_command(agent, "refresh")
        agent.until(lambda: refusals(agent) >= 1)
        run_command(agent, "refresh")
        agent.until(lambda: refusals(agent) > 1)
        # Only a refusal that is confirmed five minutes later drops a key.
        assert agent.holds("demo")
        (key,) = json.loads(run_command(agent, "status", "--json").stdout)["keys"]
        assert key["needs_attention"]


def another_chip(emulator: EmulatorThread) -> Chip:
    now = datetime.now(UTC)  # noqa: TID251 - the certificates must be valid
    return emulator.call(Chip.mint(now=now, root=emulator.instance.vm.chip.root))


def test_a_report_of_another_chip_is_refused(
    emulator: EmulatorThread, directory: Path
) -> None:
    vm = emulator.instance.vm
    endorsements = vm.thim_certification()
    emulator.instance.imds.mutate("thim", lambda _: endorsements)
    vm.paravisor.chip = another_chip(emulator)
    emulator.call(vm.paravisor.refresh())
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        assert refused_with(agent) == "endorsements.chip"


def test_a_report_with_this_chips_id_and_another_chips_signature_is_refused(
    emulator: EmulatorThread, directory: Path
) -> None:
    vm = emulator.instance.vm
    ours, other = vm.chip, another_chip(emulator)

    def sign_again(report: bytes) -> bytes:
        data = report[HW_REPORT + 0x50 : HW_REPORT + 0x90]  # REPORT_DATA
        forged = other.attest(data, chip_id=ours.chip_id)
        return report[:HW_REPORT] + forged + report[HW_REPORT + len(forged) :]

    vm.paravisor.tamper = sign_again
    emulator.call(vm.paravisor.refresh())
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        assert refused_with(agent) == "evidence.signature"


def test_a_policy_that_the_token_does_not_satisfy_denies_the_release(
    emulator: EmulatorThread, directory: Path
) -> None:
    create_key(emulator, "strict:P-256")
    store = emulator.instance.vault.store
    stored = store.find("strict")
    assert stored is not None
    policy = stored.policy.replace(b"azure-compliant-cvm", b"azure-compliant-uvm")
    assert policy != stored.policy
    store.save(dataclasses.replace(stored, policy=policy))
    with Agent(directory, config_for(emulator, directory, "strict")) as agent:
        assert refused_with(agent, "strict") == "release.denied.policy"


def test_a_token_with_another_wrapping_key_is_not_sent_to_the_vault(
    emulator: EmulatorThread, directory: Path
) -> None:
    foreign = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    n = base64.urlsafe_b64encode(foreign.n.to_bytes(256, "big")).rstrip(b"=").decode()
    jwk = {"kty": "RSA", "kid": "x", "key_ops": ["encrypt"], "e": "AQAB", "n": n}

    def put_first(claims: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(json.dumps(claims))
        changed["x-ms-runtime"]["keys"].insert(0, jwk)
        return changed

    emulator.instance.maa.mutate("claims", put_first)
    begin = len(emulator.instance.requests)
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        assert refused_with(agent) == "token.wrapping_key"
    asked = emulator.instance.requests[begin:]
    assert not [r for r in asked if "release" in r.target and r.status == 200]


def test_the_releaser_ends_when_the_agent_is_killed(
    emulator: EmulatorThread, directory: Path
) -> None:
    async def hang(_: Request, answer: Response) -> Response:
        await emulator.instance.vm.extend_pcr(23, b"seen")  # the releaser runs
        children.extend(children_of(agent.process.pid))
        agent.process.kill()
        return answer

    children: list[int] = []
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        emulator.instance.maa.before_response = hang
        agent.process.wait(DEADLINE_SECONDS)
        assert children
        agent.until(lambda: not any(is_running(pid) for pid in children))


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
