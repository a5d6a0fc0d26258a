"""The metrics page in Prometheus' exposition formats, rendered at each scrape.

The import of prometheus_client takes 14 MiB and 70 ms. So the first scrape imports this
module.
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
    """Render the metrics page from a registry of its own."""

    def __init__(
        self, counters: Counters, keys: Callable[[], Iterable[KeySample]]
    ) -> None:
        self._rendered: dict[str, bytes] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(counters, keys))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, for a scraper's Accept header.

        The page is cached until `forget`, because rendering takes milliseconds and any
        user of the machine may request it at any rate.
        """
        encode, content_type = choose_encoder(accept)
        page = self._rendered.get(content_type)
        if page is None:
            page = self._rendered[content_type] = encode(self._registry)
        return page, content_type

    def forget(self) -> None:
        """Discard the cached page."""
        self._rendered.clear()


class _Collector(Collector):
    """Convert counts to metric families, without `_created` series."""

    def __init__(
        self, counters: Counters, keys: Callable[[], Iterable[KeySample]]
    ) -> None:
        self._counters = counters
        self._keys = keys

    def collect(self) -> Iterator[Metric]:  # type: ignore[explicit-override] # 3.12's
        yield InfoMetricFamily(
            names.BUILD_INFO.name,
            names.BUILD_INFO.help,
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
            [((event,), n) for event, n in self._counters.internal_errors.items()],
        )
        yield _gauge(
            names.CONFIG_RELOADED,
            [((), float(self._counters.is_reloaded))],
        )

    def _attempts(self) -> Iterator[Metric]:
        counters = self._counters
        yield _counter(
            names.ATTESTATION_ATTEMPTS,
            counters.attestations.items(),
        )
        yield _counter(
            names.RELEASE_ATTEMPTS,
            counters.releases.items(),
        )
        yield _counter(
            names.RELEASES_WITHOUT_NONCE,
            [((key,), count) for key, count in counters.missing_nonces.items()],
        )
        yield _optional(
            names.ATTESTATION_LAST_SUCCESS,
            counters.attested_at,
        )
        yield _optional(
            names.TOKEN_EXPIRY,
            counters.token_expires_at,
        )
        yield _optional(
            names.AK_CERT_EXPIRY,
            counters.ak_certificate_expires_at,
        )
        yield _counter(
            names.AK_RENEWAL_ATTEMPTS,
            counters.ak_renewals.items(),
        )
        yield _gauge(
            names.JOB_STEP_SECONDS,
            [((step,), value) for step, value in counters.step_seconds.items()],
        )

    def _socket(self) -> Iterator[Metric]:
        counters = self._counters
        yield _counter(
            names.SOCKET_REQUESTS,
            [(label, cell.value) for label, cell in counters.requests.items()],
        )
        yield _counter(
            names.SOCKET_DENIED,
            [((reason,), value) for reason, value in counters.denied.items()],
        )
        yield _gauge(
            names.SOCKET_CONNECTIONS,
            [((socket,), value) for socket, value in counters.connections.items()],
        )
        yield _gauge(
            names.SOCKET_IN_FLIGHT,
            [((socket,), value) for socket, value in counters.in_flight.items()],
        )

    def _memory(self) -> Iterator[Metric]:
        kind = self._counters.memory_kind
        yield _gauge(
            names.MEMORY_LOCKED,
            [((), float(bool(kind)))],
        )
        yield _gauge(
            names.MEMORY_SECRET,
            [((), float(kind == "memfd_secret"))],
        )


def _key_families(keys: list[KeySample]) -> Iterator[Metric]:
    yield _gauge(
        names.KEY_AVAILABLE,
        [((key.alias,), float(key.is_available)) for key in keys],
    )
    yield _gauge(
        names.KEY_STALE,
        [((key.alias,), float(key.is_stale)) for key in keys],
    )
    yield _gauge(
        names.KEY_NEEDS_ATTENTION,
        [((key.alias,), float(key.needs_attention)) for key in keys],
    )
    yield _gauge(
        names.KEY_LAST_RELEASE,
        [((key.alias,), at) for key in keys if (at := key.released_at) is not None],
    )
    yield _gauge(
        names.KEY_NOT_AFTER,
        [((key.alias,), at) for key in keys if (at := key.not_after) is not None],
    )


def _counter(
    metric: names.Metric, values: Iterable[tuple[tuple[str, ...], int]]
) -> Metric:
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _gauge(
    metric: names.Metric, values: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _optional(metric: names.Metric, value: float | None) -> Metric:
    return _gauge(metric, () if value is None else [((), value)])
