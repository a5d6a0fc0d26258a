"""Metrics, journal fields and message ids: the names that SREs and scripts rely on.

This package does not import `metrics`, which takes 14 MiB and only a scrape needs.
"""

from __future__ import annotations

from skragent.observe.counters import Cell, Counters, KeySample
from skragent.observe.internal_errors import INTERNAL_ERRORS, InternalErrors
from skragent.observe.log import log, set_up_logging
from skragent.observe.names import Event

__all__ = [
    "INTERNAL_ERRORS",
    "Cell",
    "Counters",
    "Event",
    "InternalErrors",
    "KeySample",
    "log",
    "set_up_logging",
]
