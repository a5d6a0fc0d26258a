"""Room 5: what workloads get, and who may have it."""

from __future__ import annotations

from skragent.serving.access import Access, resolve_access
from skragent.serving.limits import Limits
from skragent.serving.server import ApiServer, MetricsServer

__all__ = ["Access", "ApiServer", "Limits", "MetricsServer", "resolve_access"]
