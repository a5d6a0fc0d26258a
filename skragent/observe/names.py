"""Every name that an SRE's rule, query or script may depend on, in one place.

Metric names follow prometheus.io/docs/practices/naming. Labels are bounded by the
configuration (`key` is the alias) or by our own enumerations: never a URL, a version,
a uid or a pid. Journal events carry a MESSAGE_ID (128 bits, made once, never reused).
"""

from __future__ import annotations

import enum
import logging
from typing import Final

# Metrics. Counters are named without the `_total` that the exposition appends.
BUILD_INFO: Final = "skragent_build"  # exposed as skragent_build_info
ATTESTATION_ATTEMPTS: Final = "skragent_attestation_attempts"
ATTESTATION_LAST_SUCCESS: Final = "skragent_attestation_last_success_timestamp_seconds"
TOKEN_EXPIRY: Final = "skragent_maa_token_expiry_timestamp_seconds"  # noqa: S105 - a name
AK_CERT_EXPIRY: Final = "skragent_ak_certificate_expiry_timestamp_seconds"
AK_RENEWAL_ATTEMPTS: Final = "skragent_ak_certificate_renewal_attempts"
RELEASE_ATTEMPTS: Final = "skragent_key_release_attempts"
RELEASES_WITHOUT_NONCE: Final = "skragent_key_releases_without_nonce"
KEY_AVAILABLE: Final = "skragent_key_available"
KEY_STALE: Final = "skragent_key_stale"
KEY_NEEDS_ATTENTION: Final = "skragent_key_needs_attention"
KEY_LAST_RELEASE: Final = "skragent_key_last_release_timestamp_seconds"
KEY_NOT_AFTER: Final = "skragent_key_not_after_timestamp_seconds"
CONFIG_RELOADED: Final = "skragent_config_last_reload_successful"
JOB_STEP_SECONDS: Final = "skragent_job_step_seconds"
SOCKET_REQUESTS: Final = "skragent_socket_requests"
SOCKET_DENIED: Final = "skragent_socket_denied"
SOCKET_IN_FLIGHT: Final = "skragent_socket_in_flight"
SOCKET_CONNECTIONS: Final = "skragent_socket_connections"
MEMORY_LOCKED: Final = "skragent_memory_locked"
MEMORY_SECRET: Final = "skragent_memory_secret"  # noqa: S105 - a name
INTERNAL_ERRORS_COUNT: Final = "skragent_internal_errors"

# Values of labels. `error_code` is a code of skragent.errors, empty for success.
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

# Codes of requests that were answered as asked; others are codes of skragent.errors.
CODE_OK: Final = "ok"
CODE_NOT_MODIFIED: Final = "not_modified"
CODE_INTERNAL: Final = "internal"

SYSLOG_IDENTIFIER: Final = "skragent"
# Fields of journal entries: `log(..., key=...)` becomes SKRAGENT_KEY.
FIELD_PREFIX: Final = "SKRAGENT_"
# The unit that an entry is about; `journalctl OBJECT_SYSTEMD_UNIT=` finds it.
OBJECT_UNIT_FIELD: Final = "OBJECT_SYSTEMD_UNIT"  # systemd.journal-fields(7)


class Event(enum.Enum):
    """What is worth a line in the journal: its MESSAGE_ID and how grave it is."""

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


# The label `event` of internal errors: the event in the journal that tells of one, or
# `other` for what a library logged.
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
