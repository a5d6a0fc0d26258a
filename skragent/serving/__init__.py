"""The servers for workloads, administrators, systemd and metrics scrapers."""

from __future__ import annotations

from skragent.serving.access import Access, UnitRules, resolve_access
from skragent.serving.admission import Limits
from skragent.serving.credential_protocol import judge_name_lengths
from skragent.serving.metrics import MetricsServer
from skragent.serving.peers import probe_pidfd
from skragent.serving.servers import AdminServer, ApiServer
from skragent.serving.systemd_credentials import CredentialServer

__all__ = [
    "Access",
    "AdminServer",
    "ApiServer",
    "CredentialServer",
    "Limits",
    "MetricsServer",
    "UnitRules",
    "judge_name_lengths",
    "probe_pidfd",
    "resolve_access",
]
