"""Names of metrics, labels, journal fields and events: a stable interface.

Metric names follow prometheus.io/docs/practices/naming. The configuration (`key` is the
alias) or an enumeration bounds the values of each label: a label is never a URL, a
version, a uid or a pid. Journal events have a MESSAGE_ID of 128 bits, created once and
never reused. `skragent.observe.event_catalog` has their texts.
"""

from __future__ import annotations

import enum
import logging
from typing import Final, Literal, NamedTuple


class Metric(NamedTuple):
    """One metric: `help` is in the exposition, `note` in the documents only."""

    name: str  # of counters and infos without `_total` and `_info`
    kind: Literal["counter", "gauge", "info"]
    help: str
    labels: tuple[str, ...] = ()
    note: str = ""

    @property
    def exposed_name(self) -> str:
        """The name in the exposition, for queries."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.kind, "")
        return self.name + suffix


BUILD_INFO: Final = Metric(
    "skragent_build",
    "info",
    "Versions of skragent and Python; the value is 1.",
    ("version", "python"),
)
ATTESTATION_ATTEMPTS: Final = Metric(
    "skragent_attestation_attempts",
    "counter",
    "Attestation attempts, by result and error code.",
    ("result", "error_code"),
)
ATTESTATION_LAST_SUCCESS: Final = Metric(
    "skragent_attestation_last_success_timestamp_seconds",
    "gauge",
    "Time of the last successful attestation.",
)
TOKEN_EXPIRY: Final = Metric(
    "skragent_maa_token_expiry_timestamp_seconds",
    "gauge",
    "Expiry time of the attestation token.",
)
AK_CERT_EXPIRY: Final = Metric(
    "skragent_ak_certificate_expiry_timestamp_seconds",
    "gauge",
    "Expiry time of the certificate of the vTPM's attestation key.",
    note="Alert if less than a month is left. The provider refuses evidence with an"
    " expired certificate (`token.refused`), which ends held keys after five minutes.",
)
AK_RENEWAL_ATTEMPTS: Final = Metric(
    "skragent_ak_certificate_renewal_attempts",
    "counter",
    "Renewal attempts of that certificate, by result and error code.",
    ("result", "error_code"),
)
RELEASE_ATTEMPTS: Final = Metric(
    "skragent_key_release_attempts",
    "counter",
    "Key release attempts, by key, result and error code.",
    ("key", "result", "error_code"),
)
RELEASES_WITHOUT_NONCE: Final = Metric(
    "skragent_key_releases_without_nonce",
    "counter",
    "Key releases whose signed response does not repeat the request's nonce, by key.",
    ("key",),
    "The agent accepts such releases, because Azure does not promise the nonce.",
)
KEY_AVAILABLE: Final = Metric(
    "skragent_key_available",
    "gauge",
    "1 while the agent serves the key.",
    ("key",),
    "Alert on 0. A dropped key also has 0, until it is removed from the configuration.",
)
KEY_STALE: Final = Metric(
    "skragent_key_stale",
    "gauge",
    "1 while the agent serves the key although its refresh is overdue.",
    ("key",),
    "Alert on 1. The agent wipes the key after `keys.NAME.max_stale_seconds`"
    " (one day).",
)
KEY_NEEDS_ATTENTION: Final = Metric(
    "skragent_key_needs_attention",
    "gauge",
    "1 while the last attempt failed and a person probably has to act.",
    ("key",),
    "Alert on 1.",
)
KEY_LAST_RELEASE: Final = Metric(
    "skragent_key_last_release_timestamp_seconds",
    "gauge",
    "Release time of the held key.",
    ("key",),
)
KEY_NOT_AFTER: Final = Metric(
    "skragent_key_not_after_timestamp_seconds",
    "gauge",
    "Expiry time of the held key, by its own attribute.",
    ("key",),
)
JOB_STEP_SECONDS: Final = Metric(
    "skragent_job_step_seconds",
    "gauge",
    "Duration of each step of the last job.",
    ("step",),
)
SOCKET_REQUESTS: Final = Metric(
    "skragent_socket_requests",
    "counter",
    "Requests with a response, by socket, operation and code.",
    ("socket", "op", "code"),
    "`code` is `ok`, `not_modified` or an error code.",
)
SOCKET_DENIED: Final = Metric(
    "skragent_socket_denied",
    "counter",
    "Rejected callers, by reason.",
    ("reason",),
    "`reason` is `no_rule`, `connections`, `rate` or `busy`.",
)
SOCKET_CONNECTIONS: Final = Metric(
    "skragent_socket_connections", "gauge", "Open connections, by socket.", ("socket",)
)
SOCKET_IN_FLIGHT: Final = Metric(
    "skragent_socket_in_flight",
    "gauge",
    "Responses that the caller has not read yet, by socket.",
    ("socket",),
    "Units that wait for a credential are included.",
)
MEMORY_LOCKED: Final = Metric(
    "skragent_memory_locked",
    "gauge",
    "1 if keys are in memory that is never swapped.",
    note="0 until the agent holds its first key. Keys that are held again after a"
    " restart count at once.",
)
MEMORY_SECRET: Final = Metric(
    "skragent_memory_secret",
    "gauge",
    "1 if keys are in memfd_secret memory, which root cannot read.",
    note="0 until the agent holds its first key.",
)
INTERNAL_ERRORS_COUNT: Final = Metric(
    "skragent_internal_errors",
    "counter",
    "Bugs of skragent, by the event in the journal.",
    ("event",),
    "`event` is `request_failed`, `config_refused`, `fatal`, `releaser_said` or"
    " `other`. Report them.",
)
CONFIG_RELOADED: Final = Metric(
    "skragent_config_last_reload_successful",
    "gauge",
    "1 if the last configuration that the agent read is in force.",
    note="0 after a rejected reload. Alert on 0.",
)
# In the order of the documents.
METRICS: Final = (
    BUILD_INFO,
    ATTESTATION_ATTEMPTS,
    ATTESTATION_LAST_SUCCESS,
    TOKEN_EXPIRY,
    AK_CERT_EXPIRY,
    AK_RENEWAL_ATTEMPTS,
    RELEASE_ATTEMPTS,
    RELEASES_WITHOUT_NONCE,
    KEY_AVAILABLE,
    KEY_STALE,
    KEY_NEEDS_ATTENTION,
    KEY_LAST_RELEASE,
    KEY_NOT_AFTER,
    JOB_STEP_SECONDS,
    SOCKET_REQUESTS,
    SOCKET_DENIED,
    SOCKET_CONNECTIONS,
    SOCKET_IN_FLIGHT,
    MEMORY_LOCKED,
    MEMORY_SECRET,
    CONFIG_RELOADED,
    INTERNAL_ERRORS_COUNT,
)

# Values of labels. `error_code` is a code of skragent.error_catalog; success has none.
RESULT_SUCCESS: Final = "success"
RESULT_DENIED: Final = "denied"
RESULT_ERROR: Final = "error"
RESULTS: Final = (RESULT_SUCCESS, RESULT_DENIED, RESULT_ERROR)
DENIED_NO_RULE: Final = "no_rule"
DENIED_CONNECTIONS: Final = "connections"
DENIED_RATE: Final = "rate"
DENIED_BUSY: Final = "busy"
DENIED_REASONS: Final = (
    DENIED_NO_RULE,
    DENIED_CONNECTIONS,
    DENIED_RATE,
    DENIED_BUSY,
)

# Codes of successful requests. Other codes are in skragent.error_catalog.
CODE_OK: Final = "ok"
CODE_NOT_MODIFIED: Final = "not_modified"
CODE_INTERNAL: Final = "internal"

SYSLOG_IDENTIFIER: Final = "skragent"
# Fields of journal entries: `log(..., key=...)` becomes SKRAGENT_KEY.
FIELD_PREFIX: Final = "SKRAGENT_"
# The unit that an entry is about; `journalctl OBJECT_SYSTEMD_UNIT=` finds it.
OBJECT_UNIT_FIELD: Final = "OBJECT_SYSTEMD_UNIT"  # systemd.journal-fields(7)


class Event(enum.Enum):
    """An event in the journal: its MESSAGE_ID and its log level."""

    STARTED = ("4c3e7ce5263c4280b2d945c594824ccd", logging.INFO)
    STOPPED = ("b677840890e34e4fb68c6d83a80e63a3", logging.INFO)
    FATAL = ("8a3f56cfd41a45019a793d9759b79c2f", logging.CRITICAL)
    JOB_DONE = ("cdbe8f5a6dbf41bf9ebb8b2799c29c7c", logging.INFO)
    JOB_FAILED = ("486c5edf017f4ba89c22d8b9e21e2a95", logging.WARNING)
    RELEASER_SAID = ("1258c90423524702908af757f32f4426", logging.WARNING)
    KEY_RELEASED = ("a87ba1aa3f0a453ab9553a84fa8bcf95", logging.INFO)
    KEY_RESTORED = ("9fe361d9534e4905a57a880884ac1bc3", logging.INFO)
    KEY_NOT_RESTORED = ("40c81fb70bc04db1ac015bdc025061da", logging.WARNING)
    ATTENTION = ("be7e4f59ff2f4d659e5f3a0b6b39e9dd", logging.ERROR)
    KEY_FAILED = ("ca788aed70744b8d938431d4b84eb2f3", logging.WARNING)
    KEY_STALE = ("1f345142a8d3483b97fe228043e7feb5", logging.WARNING)
    KEY_DROPPED = ("9da42867da634b0484a8fa55252d9340", logging.ERROR)
    MEMORY_FALLBACK = ("0ecfaa6965f7408da5191317d5183ae6", logging.WARNING)
    CONFIG_REFUSED = ("defd677e430544338f937aee661a34ac", logging.ERROR)
    ACCESS_DENIED = ("2be55c135cfa4cb2b3937b62b2a36c90", logging.WARNING)
    ACCESS_UNSAID = ("8f3009bd214f4940840782c6831ae2a7", logging.WARNING)
    KEY_SERVED = ("a899bce9e3774ec582bddb053590efe0", logging.INFO)
    CREDENTIAL_SERVED = ("4f7b8690259d4ce8a1c9bc386ee97363", logging.INFO)
    CREDENTIAL_REFUSED = ("ced5e55dd8f0458192741fb7c71c2cb2", logging.WARNING)
    UNIT_RULES = ("9ff64a3f40574ecbb477ccfc0fb6dfec", logging.WARNING)
    ADMIN = ("c199f1b3cafc48678b5ff170c4bdcc78", logging.WARNING)
    REQUEST_FAILED = ("ec3d49e9088343fb82e8e8da40aa5f51", logging.ERROR)
    METRICS_REFUSED = ("b528e0bb2bc243079fc95793d6f1eef2", logging.ERROR)
    FEW_DESCRIPTORS = ("eaa993651ff44c09a196bcc0c38232df", logging.WARNING)
    RELOADED = ("7246c53adde24299b69475a5e358e1b8", logging.INFO)
    CANNOT_CHECK = ("5c59c5c591314ad6add5950d0f6431ab", logging.INFO)
    NEEDS_RESTART = ("c6058cfae1304203950665bef0d36bdb", logging.WARNING)
    CONNECTIONS_REFUSED = ("2bf5f10abfe849d2a9fecf86af81291b", logging.WARNING)
    AK_RENEWED = ("cd9f0d27d331405ca03db21b7c334fde", logging.INFO)
    AK_RENEWAL_FAILED = ("0c4775ca49344d59ab256084fa25d114", logging.WARNING)
    NOTE = ("5509aa868fba480bba3ce7bf9014f12f", logging.WARNING)
    NOTIFY_FAILED = ("5b05979b458d43fbbe59cfdd191b9395", logging.WARNING)
    AK_RESTORED = ("aaece800ecda4e0289ce028ee41aa476", logging.WARNING)

    def __init__(self, message_id: str, level: int) -> None:
        self.message_id = message_id
        self.level = level


# The label `event` of internal errors: the journal's event, or `other` if a library
# logged the error.
OTHER_EVENT: Final = "other"
INTERNAL_ERROR_EVENTS: Final = (
    *(
        event.name.lower()
        for event in (
            Event.REQUEST_FAILED,
            Event.CONFIG_REFUSED,
            Event.FATAL,
            Event.RELEASER_SAID,
        )
    ),
    OTHER_EVENT,
)
