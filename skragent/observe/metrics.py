"""The numbers as Prometheus reads them, collected at the moment of a scrape.

prometheus_client costs 14 MiB and 70 ms to import, so this module is imported by the
first scrape and not before.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from skragent import __version__
from skragent.observe import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from skragent.observe.counters import Counters, KeySample


class MetricsPage:
    """Renders everything; the registry is its own, so that agents do not collide."""

    def __init__(
        self, counters: Counters, keys: Callable[[], Iterable[KeySample]]
    ) -> None:
        self._rendered: dict[str, bytes] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(counters, keys))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, as the scraper accepts it.

        It is rendered, which takes milliseconds, once until `forget`: any user of the
        machine may ask for it as often as they like.
        """
        encode, content_type = choose_encoder(accept)
        page = self._rendered.get(content_type)
        if page is None:
            page = self._rendered[content_type] = encode(self._registry)
        return page, content_type

    def forget(self) -> None:
        """Let the next page be a new one."""
        self._rendered.clear()


class _Collector(Collector):
    """Turns counts into families. Without `_created` series: nobody asks for them."""

    def __init__(
        self, counters: Counters, keys: Callable[[], Iterable[KeySample]]
    ) -> None:
        self._counters = counters
        self._keys = keys

    def collect(self) -> Iterator[Metric]:  # type: ignore[explicit-override] # 3.12's
        yield InfoMetricFamily(
            names.BUILD_INFO,
            "What runs.",
            {
                "version": __version__,
                "python": platform.python_version(),
            },
        )
        yield from self._attempts()
        yield from _key_families(list(self._keys()))
        yield from self._socket()
        yield from self._memory()
        yield _counter(
            names.INTERNAL_ERRORS_COUNT,
            "Errors that are bugs of skragent, by the event in the journal.",
            ("event",),
            [((event,), n) for event, n in self._counters.internal_errors.items()],
        )
        yield _gauge(
            names.CONFIG_RELOADED,
            "1 where the configuration that was read last is in force.",
            (),
            [((), float(self._counters.is_reloaded))],
        )

    def _attempts(self) -> Iterator[Metric]:
        counters = self._counters
        yield _counter(
            names.ATTESTATION_ATTEMPTS,
            "Attestations tried, by result and error code.",
            ("result", "error_code"),
            counters.attestations.items(),
        )
        yield _counter(
            names.RELEASE_ATTEMPTS,
            "Key releases tried, by key, result and error code.",
            ("key", "result", "error_code"),
            counters.releases.items(),
        )
        yield _counter(
            names.RELEASES_WITHOUT_NONCE,
            "Key releases that do not repeat the nonce of their request, by key.",
            ("key",),
            [((key,), count) for key, count in counters.missing_nonces.items()],
        )
        yield _optional(
            names.ATTESTATION_LAST_SUCCESS,
            "When an attestation token was last had.",
            counters.attested_at,
        )
        yield _optional(
            names.TOKEN_EXPIRY,
            "When the attestation token expires.",
            counters.token_expires_at,
        )
        yield _optional(
            names.AK_CERT_EXPIRY,
            "When the certificate of the vTPM's attestation key expires.",
            counters.ak_certificate_expires_at,
        )
        yield _counter(
            names.AK_RENEWAL_ATTEMPTS,
            "Renewals of that certificate tried, by result and error code.",
            ("result", "error_code"),
            counters.ak_renewals.items(),
        )
        yield _gauge(
            names.JOB_STEP_SECONDS,
            "How long each step of the last job took.",
            ("step",),
            [((step,), value) for step, value in counters.step_seconds.items()],
        )

    def _socket(self) -> Iterator[Metric]:
        counters = self._counters
        yield _counter(
            names.SOCKET_REQUESTS,
            "Requests answered, by socket, operation and code.",
            ("socket", "op", "code"),
            [(label, cell.value) for label, cell in counters.requests.items()],
        )
        yield _counter(
            names.SOCKET_DENIED,
            "Callers refused, by reason.",
            ("reason",),
            [((reason,), value) for reason, value in counters.denied.items()],
        )
        yield _gauge(
            names.SOCKET_CONNECTIONS,
            "Connections open, by socket.",
            ("socket",),
            [((socket,), value) for socket, value in counters.connections.items()],
        )
        yield _gauge(
            names.SOCKET_IN_FLIGHT,
            "Answers that their reader has not taken yet, by socket.",
            ("socket",),
            [((socket,), value) for socket, value in counters.in_flight.items()],
        )

    def _memory(self) -> Iterator[Metric]:
        kind = self._counters.memory_kind
        yield _gauge(
            names.MEMORY_LOCKED,
            "1 where keys are in memory that is never swapped.",
            (),
            [((), float(bool(kind)))],
        )
        yield _gauge(
            names.MEMORY_SECRET,
            "1 where keys are in memfd_secret memory, unreadable even for root.",
            (),
            [((), float(kind == "memfd_secret"))],
        )


def _key_families(keys: list[KeySample]) -> Iterator[Metric]:
    yield _gauge(
        names.KEY_AVAILABLE,
        "1 while the key is served.",
        ("key",),
        [((key.alias,), float(key.is_available)) for key in keys],
    )
    yield _gauge(
        names.KEY_STALE,
        "1 while the key is served although its refresh is overdue.",
        ("key",),
        [((key.alias,), float(key.is_stale)) for key in keys],
    )
    yield _gauge(
        names.KEY_NEEDS_ATTENTION,
        "1 while the last attempt failed and a person must probably act.",
        ("key",),
        [((key.alias,), float(key.needs_attention)) for key in keys],
    )
    yield _gauge(
        names.KEY_LAST_RELEASE,
        "When the key that is held was released.",
        ("key",),
        [((key.alias,), at) for key in keys if (at := key.released_at) is not None],
    )
    yield _gauge(
        names.KEY_NOT_AFTER,
        "When the key that is held expires, by its own attribute.",
        ("key",),
        [((key.alias,), at) for key in keys if (at := key.not_after) is not None],
    )


def _counter(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], int]],
) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _gauge(
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _optional(name: str, text: str, value: float | None) -> Metric:
    return _gauge(name, text, (), () if value is None else [((), value)])
