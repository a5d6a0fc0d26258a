"""Renewals of the AK certificate with a real TPM and the emulated THIM."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.deadlines import DEADLINE_SECONDS
from typing_extensions import override

from skragent.emulator.emulator import Emulator
from skragent.emulator.thread import EmulatorThread
from skragent.evidence.tpm import Vtpm
from skragent.job import Job, Result
from skragent.releaser.ak_renewal import run_renewal
from skragent.releaser.stopwatch import Stopwatch

pytestmark = pytest.mark.swtpm

DAY = 86400


def break_(emulator: EmulatorThread, *faults: str) -> None:
    for fault in faults:
        emulator.call(emulator.instance.faults.apply(fault))


def renew(
    emulator: EmulatorThread, query_id: str = "", *, stopwatch: Stopwatch | None = None
) -> Result:
    world: Emulator = emulator.instance
    state = world.directory / "state"  # of the agent
    state.mkdir(mode=0o700, exist_ok=True)
    job = Job(
        purpose="renew",
        ak_query_id=query_id,
        now=now(emulator),
        timeout_seconds=DEADLINE_SECONDS,
        keys=(),
        arena_fd=-1,
        arena_bytes=0,
        tcti=world.vm.tcti,
        tcg_log="",
        imds_endpoint=world.azure.imds_url,
        amd_roots="",
        attestation_endpoint="",
        authority="",
        tls_roots="",
        release_roots="",
        state_directory=str(state),
    )
    return run_renewal(job, stopwatch or Stopwatch())


def certificate(emulator: EmulatorThread) -> x509.Certificate:
    """Read it as a client does that takes the index for exactly as long."""
    with Vtpm(emulator.instance.vm.tcti) as tpm:
        return x509.load_der_x509_certificate(tpm.read_ak_certificate())


def now(emulator: EmulatorThread) -> float:
    clock = emulator.instance.azure.clock
    return clock.now() - clock.skew_seconds


def days_left(emulator: EmulatorThread) -> float:
    """Return for how long the index's certificate is valid."""
    end = certificate(emulator).not_valid_after_utc.timestamp()
    return (end - now(emulator)) / DAY


def asked_of_thim(emulator: EmulatorThread) -> list[str]:
    """List the renewals and queries, with their api-versions."""
    return [
        f"{r.method} {r.target.partition('/tvm/certificate/')[2].partition('&')[0]}"
        for r in emulator.instance.requests
        if "/tvm/" in r.target
    ]


@pytest.fixture(autouse=True)
def _from_now_on(emulator: EmulatorThread) -> None:
    emulator.instance.requests.clear()


@pytest.mark.parametrize("days", [-3, 30, 89])
def test_a_certificate_near_its_end_is_renewed_at_once(
    emulator: EmulatorThread, days: int
) -> None:
    break_(emulator, "vm.ak_cert_guests", f"vm.ak_cert_days={days}")
    old = certificate(emulator)
    result = renew(emulator)
    new = certificate(emulator)
    assert result.failure is None
    assert new.public_key() == old.public_key()
    assert days_left(emulator) > 300
    assert result.ak_certificate is not None
    assert result.ak_certificate.expires_at == new.not_valid_after_utc.timestamp()
    assert not result.ak_certificate.is_renewal_due
    assert asked_of_thim(emulator) == ["POST renew?api-version=2023-07-01"]


def test_a_certificate_with_more_than_90_days_left_is_not_renewed(
    emulator: EmulatorThread,
) -> None:
    break_(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=91")
    old = certificate(emulator)
    result = renew(emulator)
    assert result.ak_certificate is not None
    assert not result.ak_certificate.is_renewal_due
    assert certificate(emulator) == old
    assert asked_of_thim(emulator) == []


def test_a_certificate_in_the_paravisors_index_is_not_renewed(
    emulator: EmulatorThread,
) -> None:
    break_(emulator, "vm.ak_cert_days=30")
    result = renew(emulator)
    assert result.failure is None
    assert result.ak_certificate is not None
    assert not result.ak_certificate.is_renewal_due
    assert asked_of_thim(emulator) == []


def test_an_asynchronous_renewal_is_requested_and_fetched_later(
    emulator: EmulatorThread,
) -> None:
    break_(*(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=30", "imds.renewal_later"))
    old = certificate(emulator)
    order = renew(emulator)
    assert order.failure is None
    assert order.ak_query_id
    assert order.ak_certificate is not None
    assert order.ak_certificate.is_renewal_due
    assert certificate(emulator) == old

    too_early = renew(emulator, order.ak_query_id)
    assert too_early.failure is not None
    assert too_early.failure.code == "transport.server"
    assert too_early.failure.disposition == "retry"
    assert certificate(emulator) == old

    emulator.instance.azure.clock.skew_seconds = 60
    fetched = renew(emulator, order.ak_query_id)
    assert fetched.failure is None
    assert fetched.ak_query_id == ""
    assert days_left(emulator) > 300
    assert asked_of_thim(emulator) == [
        "POST renew?api-version=2023-07-01",
        "POST renew?api-version=2021-12-01",
        "GET query?api-version=2021-12-01",
        "GET query?api-version=2021-12-01",
    ]


def test_an_empty_response_to_a_query_is_not_a_renewal(
    emulator: EmulatorThread,
) -> None:
    break_(*(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=30", "imds.renewal_later"))
    order = renew(emulator)
    emulator.instance.azure.clock.skew_seconds = 60
    break_(emulator, "imds.body=,path=/query")
    failure = renew(emulator, order.ak_query_id).failure
    assert failure is not None
    assert failure.code == "endorsements.malformed"


def test_an_order_by_the_newer_form_is_an_order_too(emulator: EmulatorThread) -> None:
    break_(
        *(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=30"),
        "imds.renewal.AkCertPem",
    )
    assert renew(emulator).ak_query_id


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (("imds.renewal.AkCertPem=garbage",), "endorsements.malformed"),
        (
            ("imds.renewal.AkCertPem", "imds.renewal.CertQueryId"),
            "endorsements.malformed",
        ),
        (("imds.status=429,path=/renew",), "transport.throttled"),
        (("imds.status=500,path=/renew",), "transport.server"),
        (("imds.status=400,path=/renew",), "transport.unexpected"),
        (("imds.reset,path=/renew",), "transport.reset"),
    ],
)
def test_a_failed_renewal_leaves_the_certificate_unchanged(
    emulator: EmulatorThread, faults: tuple[str, ...], code: str
) -> None:
    break_(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=30", *faults)
    old = certificate(emulator)
    result = renew(emulator)
    assert result.failure is not None
    assert result.failure.code == code
    assert certificate(emulator) == old


def test_a_throttled_thim_gets_no_second_request(
    emulator: EmulatorThread,
) -> None:
    break_(
        *(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=30"),
        "imds.status=429,path=/renew",
    )
    renew(emulator)
    assert asked_of_thim(emulator) == ["POST renew?api-version=2023-07-01"]


def test_a_certificate_for_another_key_is_not_taken(emulator: EmulatorThread) -> None:
    break_(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=30")
    old = certificate(emulator)
    foreign = emulator.instance.azure.pki.root.public_bytes(Encoding.PEM).decode()
    emulator.instance.imds.mutate("renewal", lambda a: a | {"AkCertPem": foreign})
    result = renew(emulator)
    assert result.failure is not None
    assert result.failure.code == "endorsements.ak_certificate"
    assert certificate(emulator) == old


def test_a_certificate_that_does_not_end_later_is_rejected(
    emulator: EmulatorThread,
) -> None:
    break_(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=30")
    old = certificate(emulator)
    same = old.public_bytes(Encoding.PEM).decode()
    emulator.instance.imds.mutate("renewal", lambda a: a | {"AkCertPem": same})
    result = renew(emulator)
    assert result.failure is not None
    assert result.failure.code == "endorsements.ak_certificate"


class LateWatch(Stopwatch):
    @override
    def timings(self) -> dict[str, float]:
        return {**super().timings(), "total": 15_001.0}


def test_the_index_is_not_touched_shortly_before_the_agent_kills_the_job(
    emulator: EmulatorThread,
) -> None:
    break_(emulator, "vm.ak_cert_guests", "vm.ak_cert_days=30")
    old = certificate(emulator)
    failure = renew(emulator, stopwatch=LateWatch()).failure
    assert failure is not None
    assert failure.code == "transport.timeout"
    assert failure.disposition == "retry"
    assert certificate(emulator) == old


def test_a_tpm_that_has_no_certificate_yet_has_none_to_renew(
    emulator: EmulatorThread,
) -> None:
    break_(emulator, "vm.ak_cert_guests", "vm.ak_cert")
    failure = renew(emulator).failure
    assert failure is not None
    assert failure.code == "evidence.ak_cert_not_provisioned"
