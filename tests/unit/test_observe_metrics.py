"""The page that a scraper reads."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import skragent
from skragent.observe import Counters, Event, KeySample
from skragent.observe.metrics import MetricsPage


def render(counters: Counters, *keys: KeySample, accept: str = "") -> str:
    return MetricsPage(counters, lambda: keys).render(accept)[0].decode()


def test_attempts_are_there_before_the_first_one() -> None:
    page = render(Counters(("db",)))
    for result in ("success", "denied", "error"):
        assert (
            f'skragent_attestation_attempts_total{{error_code="",result="{result}"}} 0'
            in page
        )
        assert (
            "skragent_key_release_attempts_total"
            f'{{error_code="",key="db",result="{result}"}} 0' in page
        )


def test_attempts_are_counted_by_result_and_error_code() -> None:
    counters = Counters(("db",))
    counters.count_attestation("success")
    counters.count_release("db", "denied", "release.denied.policy")
    page = render(counters)
    assert (
        'skragent_attestation_attempts_total{error_code="",result="success"} 1' in page
    )
    assert (
        "skragent_key_release_attempts_total"
        '{error_code="release.denied.policy",key="db",result="denied"} 1' in page
    )


def test_counts_of_keys_that_are_gone_are_forgotten() -> None:
    counters = Counters(("gone",))
    counters.count_release("gone", "error", "transport.timeout")
    counters.configure(("db",))
    assert "gone" not in render(counters)


def test_keys_are_shown() -> None:
    page = render(
        Counters(),
        KeySample(
            "db",
            is_available=True,
            is_stale=True,
            needs_attention=True,
            released_at=5.0,
            not_after=None,
        ),
        KeySample(
            "no",
            is_available=False,
            is_stale=False,
            needs_attention=False,
            released_at=None,
            not_after=None,
        ),
    )
    assert 'skragent_key_available{key="db"} 1.0' in page
    assert 'skragent_key_stale{key="db"} 1.0' in page
    assert 'skragent_key_needs_attention{key="db"} 1.0' in page
    assert 'skragent_key_needs_attention{key="no"} 0.0' in page
    assert 'skragent_key_last_release_timestamp_seconds{key="db"} 5.0' in page
    assert 'skragent_key_available{key="no"} 0.0' in page
    assert 'skragent_key_last_release_timestamp_seconds{key="no"}' not in page


def test_requests_are_counted_by_socket_op_and_code() -> None:
    counters = Counters()
    counters.requests_cell("api", "get", "ok").value += 2
    assert (
        'skragent_socket_requests_total{code="ok",op="get",socket="api"} 2.0'
        in render(counters)
    )


def test_the_kind_of_memory_is_shown() -> None:
    counters = Counters()
    counters.memory_kind = "mlock"
    page = render(counters)
    assert "skragent_memory_locked 1.0" in page
    assert "skragent_memory_secret 0.0" in page


def test_times_are_there_once_they_are_known() -> None:
    counters = Counters()
    assert "skragent_maa_token_expiry_timestamp_seconds " not in re.sub(
        "#.*", "", render(counters)
    )
    counters.token_expires_at = 7.0
    assert "\nskragent_maa_token_expiry_timestamp_seconds 7.0" in render(counters)


def test_nothing_asks_which_packages_are_installed() -> None:
    # Where we are installed by dpkg or rpm, no Python package of our name is.
    for file in Path(skragent.__file__).parent.rglob("*.py"):
        assert "import metadata" not in file.read_text(), file
    version = f'skragent_build_info{{python="{platform.python_version()}"'
    assert f'{version},version="{skragent.__version__}"}} 1.0' in render(Counters())


def test_created_series_are_not_there() -> None:
    counters = Counters(("db",))
    counters.count_release("db", "success")
    assert "_created" not in render(counters)


def test_a_scraper_gets_the_type_that_it_accepts() -> None:
    page = MetricsPage(Counters(), list)
    assert page.render("")[1].startswith("text/plain; version=0.0.4")
    openmetrics = "application/openmetrics-text; version=1.0.0"
    body, content_type = page.render(openmetrics)
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_message_ids_are_128_bits_and_never_shared() -> None:
    ids = [event.message_id for event in Event]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert len(set(ids)) == len(list(Event))


def test_an_agent_without_a_scraper_does_not_pay_for_prometheus() -> None:
    code = (
        "import sys, skragent.serving, skragent.keyring, skragent.observe;"
        "sys.exit('prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_configuration_that_was_refused_is_shown() -> None:
    counters = Counters()
    assert "skragent_config_last_reload_successful 1.0" in render(counters)
    counters.is_reloaded = False
    assert "skragent_config_last_reload_successful 0.0" in render(counters)


def test_the_ak_certificates_end_and_renewals_are_shown() -> None:
    counters = Counters()
    name = "skragent_ak_certificate_renewal_attempts_total"
    assert f'{name}{{error_code="",result="error"}} 0.0' in render(counters)
    counters.ak_certificate_expires_at = 7.0
    counters.count_ak_renewal("error", "transport.server")
    page = render(counters)
    assert "\nskragent_ak_certificate_expiry_timestamp_seconds 7.0" in page
    assert f'{name}{{error_code="transport.server",result="error"}} 1.0' in page
