"""Names that SREs and scripts depend on: metrics, journal fields, message ids.

`metrics` is not imported here: it costs 14 MiB, and only a scrape needs it.
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
