"""Room 5: what workloads get, and who may have it."""

from __future__ import annotations

from skragent.serving.access import Access, UnitRules, resolve_access
from skragent.serving.credential_address import judge_name_lengths
from skragent.serving.limits import Limits, limits_of
from skragent.serving.peers import probe_pidfd
from skragent.serving.servers import AdminServer, ApiServer, MetricsServer
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
    "limits_of",
    "probe_pidfd",
    "resolve_access",
]
