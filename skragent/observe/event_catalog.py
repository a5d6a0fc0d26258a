"""The texts of the journal's events: what happened, its cause and its remedy.

`packaging/generate_docs.py` writes skragent.catalog (for `journalctl -x`), the list of
skragent.service(8) and docs/journal.md from here. The agent does not import it.
Texts are Markdown. The journal replaces `@FIELD@` by the entry's field.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from skragent.observe.names import Event

if TYPE_CHECKING:
    from collections.abc import Mapping


class EventText(NamedTuple):
    """The texts of one event."""

    subject: str
    page: str  # the manual page that explains more
    description: str
    cause: str
    remedy: str


_COMMAND: Final = "skragent(1)"
_CONFIGURATION: Final = "skragent.toml(5)"
_ERRORS: Final = "skragent-errors(7)"
_SERVICE: Final = "skragent.service(8)"
_NO_ACTION: Final = "no action is needed."

EVENT_TEXTS: Final[Mapping[Event, EventText]] = MappingProxyType(
    {
        Event.STARTED: EventText(
            "The Secure Key Release agent listens",
            _SERVICE,
            "The agent's sockets listen. A later entry of this kind reports that the"
            " metrics port listens, too. The keys follow when the vaults release them:"
            " see `skragent status`.",
            "the service was started.",
            _NO_ACTION,
        ),
        Event.STOPPED: EventText(
            "The Secure Key Release agent stops",
            _SERVICE,
            "The agent ends. It first rejects the requests of units that wait for a"
            " credential. If systemd starts the agent again at once, as `systemctl"
            " restart` and an upgrade do, it serves the held keys again from the secret"
            " memory that systemd kept. Else all keys are wiped.",
            "a signal: systemctl stop or restart, or Ctrl-C in a terminal.",
            "no action is needed. `systemctl start skragent` starts the agent.",
        ),
        Event.FATAL: EventText(
            "The Secure Key Release agent ended with an error",
            _ERRORS,
            "The agent ended. It serves no key until it runs again.",
            "two attempts in a row after the start found that a file of [trust] cannot"
            " be used (exit status 78) or that this machine is not a confidential VM"
            " (69): see SKRAGENT_CODE. systemd does not restart the agent after these."
            " It does after 75, and keeps held keys meanwhile. An entry without a code"
            " is a bug (70): systemd starts the agent again, and the agent serves held"
            " keys again. If the agent cannot use its configuration file, bind a socket"
            " or look up a user, it ends at once without this entry: the journal has"
            ' "skragent: CODE: ...".',
            "look up the code in skragent-errors(7), correct the cause, and run"
            " `skragent check-config && systemctl restart skragent`. Report a bug with"
            " the lines around it.",
        ),
        Event.JOB_DONE: EventText(
            "This machine was attested",
            _SERVICE,
            "The verifier, Microsoft Azure Attestation, issued a token for this"
            " machine's evidence. Or the entry shows what the agent verified before it"
            " sent the evidence. The releases follow.",
            "keys were due, or `skragent refresh` requested them.",
            _NO_ACTION,
        ),
        Event.JOB_FAILED: EventText(
            "No key could be requested: @SKRAGENT_CODE@",
            _ERRORS,
            "An attestation failed, and with it all releases that were due. The fault"
            " is probably temporary. The agent serves held keys until"
            " keys.NAME.max_stale_seconds after their refresh is overdue. It tries"
            " again by itself: the message has the time.",
            "see the code. transport.* is the network or a service of Azure, evidence.*"
            " the vTPM, token.* the verifier, releaser.* the agent's child process.",
            "look up the code in skragent-errors(7). `skragent report` verifies the"
            " evidence of the hardware. `skragent refresh` tries again at once.",
        ),
        Event.RELEASER_SAID: EventText(
            "The releaser printed a message",
            _ERRORS,
            "The agent's short-lived child process wrote this line to its stderr.",
            "a warning of a library; or, before releaser.crashed, the reason of the"
            " crash.",
            "no action is needed while keys are released. Else report the message.",
        ),
        Event.KEY_RELEASED: EventText(
            "Key @SKRAGENT_KEY@ is held",
            _SERVICE,
            "The vault released version @SKRAGENT_VERSION@ of key @SKRAGENT_KEY@. The"
            " key is in secret memory, and the agent serves it to the callers that a"
            " rule allows.",
            "the key was due, or `skragent refresh` requested it.",
            _NO_ACTION,
        ),
        Event.KEY_RESTORED: EventText(
            "A key is held again: @SKRAGENT_KEY@",
            _SERVICE,
            "The agent started again and serves a key that the previous agent held,"
            " from the secret memory that systemd kept.",
            "a restart, an upgrade, or a crash of the agent.",
            "no action is needed. The agent will release the key again soon.",
        ),
        Event.KEY_NOT_RESTORED: EventText(
            "A key of the previous agent is not served again",
            _SERVICE,
            "The agent started again and does not serve a key that the previous agent"
            " held.",
            "see the message. The configuration has no table of the key's name, or the"
            " table names another vault or key, which may be a typo. Or the key was"
            " stale for max_stale_seconds, or its own `exp` has passed. Or the agent"
            " holds a newer release of the key. Or the memory has no record that this"
            " agent can read (memory.content: the memory is damaged, or a version with"
            " another format wrote it). Or the memory cannot be mapped now (memory.*):"
            " then it is not wiped, and systemd keeps it for the next start.",
            "no action is needed for configured keys: the agent releases them again. If"
            " the configuration has a typo, correct it and run `systemctl reload"
            " skragent`. If SKRAGENT_CODE is memory.locked_limit, raise LimitMEMLOCK="
            " and restart the agent.",
        ),
        Event.ATTENTION: EventText(
            "A person probably has to act: @SKRAGENT_CODE@",
            _ERRORS,
            "An attestation or a release failed, and will probably fail again until a"
            " person acts. The agent serves held keys until max_stale_seconds after"
            " their refresh is overdue. Only a confirmed denial ends a held key. The"
            " agent repeats the attempt at growing intervals of at most 15 minutes.",
            "see SKRAGENT_CODE. A file cannot be used, an identity is not assigned, or"
            " the TPM gave an unexpected response. Or an authority denied the key:"
            " release.denied.* and release.not_found are the vault's denials (release"
            " policy, permission, firewall, disabled or deleted version), token.refused"
            " is the attestation provider's. A second denial within seconds confirms a"
            " denial for a policy, a permission, or a disabled or deleted key. A denial"
            " at least five minutes after the first one confirms the others. With"
            ' on_denial = "keep" the agent serves the key after that, too.',
            "look up the code in skragent-errors(7), correct the cause, and run"
            " `skragent refresh`.",
        ),
        Event.KEY_FAILED: EventText(
            "Key @SKRAGENT_KEY@ was not released: @SKRAGENT_CODE@",
            _ERRORS,
            "This machine was attested, but this key was not released because of a"
            " fault that is probably temporary. Or the released version may not be used"
            " now, by its own attributes. Other keys are not affected. The agent serves"
            " a held key until its own `exp` or max_stale_seconds after its refresh is"
            " overdue. A fault does not end a held key. A denial has an entry of its"
            " own.",
            "see the code. identity.* is the managed identity, transport.* the network"
            " or the vault's load, release.not_yet_valid and release.expired the"
            " version's own `nbf` and `exp`, other release.* codes a response of the"
            " vault that is not valid.",
            "look up the code in skragent-errors(7), correct the cause in Azure or in"
            " the configuration, and run `skragent refresh @SKRAGENT_KEY@`.",
        ),
        Event.KEY_STALE: EventText(
            "Key @SKRAGENT_KEY@ is stale",
            _ERRORS,
            "The refresh of key @SKRAGENT_KEY@ is overdue: the lifetime of a token"
            " (eight hours, or a time by keys.NAME.refresh_seconds) has passed since"
            " the last release. The agent serves the key until"
            " keys.NAME.max_stale_seconds have passed (default: one day), and then"
            " wipes it.",
            "every attempt since then has failed. SKRAGENT_CODE is the last error.",
            "look up the code in skragent-errors(7). `skragent status` shows the time"
            " of the next attempt, and `skragent refresh @SKRAGENT_KEY@` makes one now."
            " To gain time, raise max_stale_seconds and run `systemctl reload"
            " skragent`.",
        ),
        Event.KEY_DROPPED: EventText(
            "Key @SKRAGENT_KEY@ is not served: @SKRAGENT_STATE@",
            _ERRORS,
            "Key @SKRAGENT_KEY@ is @SKRAGENT_STATE@. The agent has wiped it and serves"
            " it to no caller until the key is released again. The agent continues to"
            " try. A workload that fetched the key before still has it.",
            "denied: the vault or the attestation provider denied the key, and the"
            " denial is confirmed. A second denial with a fresh token confirms a denial"
            " for a policy, a permission, or a disabled or deleted key. A denial at"
            " least five minutes after the first one confirms the others (the vault's"
            " firewall, a refusal of the provider). A fault never has this effect."
            " expired: the `exp` of the version has passed, or the key was stale for"
            " max_stale_seconds.",
            "SKRAGENT_CODE is the last error: look it up in skragent-errors(7). Revert"
            " the change in Azure (policy, role, firewall, disabled version), and run"
            ' `skragent refresh @SKRAGENT_KEY@`. With on_denial = "keep" the agent'
            " keeps a key after denials.",
        ),
        Event.MEMORY_FALLBACK: EventText(
            "Keys are in locked memory, not in secret memory",
            _SERVICE,
            "Keys are never swapped or dumped, but root can read them in the agent's"
            " memory.",
            "see the message. This kernel has no memfd_secret(2): it is older than"
            " 5.14, or older than 6.5 and booted without secretmem.enable=1. Or a"
            " seccomp filter forbids it.",
            "add secretmem.enable=1 to the kernel's command line, boot a newer kernel,"
            " or allow memfd_secret in the filter. Then restart the agent:"
            " skragent_memory_secret is 1.",
        ),
        Event.CONFIG_REFUSED: EventText(
            "The changed configuration was rejected: @SKRAGENT_CODE@",
            _CONFIGURATION,
            "The agent read the file again and rejected it as a whole. The message"
            " lists the problems. The previous configuration stays in force, and no key"
            " is dropped.",
            "`systemctl reload skragent`, `skragent reload` or SIGHUP, with a file that"
            " cannot be used, or with users and groups that could not be looked up.",
            "correct the file, run `skragent check-config` until it prints ok, and"
            " reload again. Do so before the next restart: the agent would not start"
            " with this file.",
        ),
        Event.ACCESS_DENIED: EventText(
            "A caller was denied a key",
            _CONFIGURATION,
            "uid @SKRAGENT_UID@ requested a key that no rule allows it, or that does"
            " not exist. The response did not say which. The agent logs this once for"
            " each caller and key.",
            "no rule of keys.NAME.allow matches the caller: its user, its groups, its"
            " unit (SKRAGENT_UNIT), or the operation (@SKRAGENT_OPERATION@). Or the"
            " caller guesses names.",
            "if the caller should have the key, add a rule and run `systemctl reload"
            " skragent`. `skragent status`, run as that user and in that unit, shows"
            " the caller's identity. Else find out what pid @SKRAGENT_PID@ was.",
        ),
        Event.ACCESS_UNSAID: EventText(
            "More callers than the journal names",
            _SERVICE,
            "Within one second @SKRAGENT_COUNT@ more callers were given keys or denied"
            " than the fifty that the journal names.",
            "very many new callers at once, or a program that floods the agent with"
            " names.",
            "no action is needed if many units start together. Else see"
            " skragent_socket_requests_total and skragent_socket_denied_total.",
        ),
        Event.KEY_SERVED: EventText(
            "A caller was given key @SKRAGENT_KEY@",
            _SERVICE,
            "uid @SKRAGENT_UID@, pid @SKRAGENT_PID@, was given version"
            " @SKRAGENT_VERSION@ of key @SKRAGENT_KEY@, or its public half (operation"
            " @SKRAGENT_OPERATION@). The agent logs this once for each caller and"
            " version.",
            "the caller requested the key on api.sock, and a rule of keys.NAME.allow"
            " matches it.",
            "no action is needed. If the caller should not have the key, remove the"
            " rule, run `systemctl reload skragent`, and rotate the key, because the"
            " caller still has it.",
        ),
        Event.CREDENTIAL_SERVED: EventText(
            "Unit @SKRAGENT_UNIT@ was given its credential @SKRAGENT_CREDENTIAL@",
            _SERVICE,
            "systemd fetched key @SKRAGENT_KEY@ for the unit.",
            "the unit was started, it has LoadCredential=, and a rule names it.",
            _NO_ACTION,
        ),
        Event.CREDENTIAL_REFUSED: EventText(
            "The credential of a unit was rejected: @SKRAGENT_CODE@",
            _SERVICE,
            "The unit (SKRAGENT_UNIT) fails to start, with status 243/CREDENTIALS."
            ' systemd\'s own message is only "Protocol error".',
            "serve.denied: the key does not exist, or none of its rules names the unit"
            " alone (rules that also name a user or group do not count here)."
            " serve.not_ready: the agent did not get the key within"
            " serving.credential_wait_seconds. serve.not_acceptable: the key is not"
            " available in this format.",
            'add a rule { unit = "..." }, correct the credential\'s name (KEY, KEY.pem,'
            " KEY.der, KEY.jwk), or see with `skragent status` why the key is not held."
            " Then start the unit again.",
        ),
        Event.UNIT_RULES: EventText(
            "Rules on units are limited on this kernel",
            _CONFIGURATION,
            "This kernel cannot reliably identify the unit of a caller on api.sock. The"
            " message says whether rules on units match no caller or match by process"
            " ids. Rules on users and groups, and LoadCredential=, are not affected.",
            "Linux before 6.5 has no peer pidfds.",
            "boot a newer kernel, use rules on users and LoadCredential=, or accept the"
            " small race with agent.unit_rules_without_pidfd = true.",
        ),
        Event.ADMIN: EventText(
            "An administrator sent a command",
            _COMMAND,
            "uid @SKRAGENT_UID@, pid @SKRAGENT_PID@, sent the command in the message on"
            " admin.sock.",
            "`skragent refresh`, `drop` or `reload`, or a program on admin.sock.",
            "no action is needed. A dropped key is not released again until `skragent"
            " refresh KEY` names it or the agent starts again, also after a crash or an"
            " upgrade.",
        ),
        Event.REQUEST_FAILED: EventText(
            "A request failed because of a bug",
            _ERRORS,
            "The agent responded to one request with an error, or closed its"
            " connection. Keys and other callers are not affected.",
            "a bug of skragent. The message has the traceback.",
            "report the bug with the traceback.",
        ),
        Event.METRICS_REFUSED: EventText(
            "The metrics port is not available",
            _CONFIGURATION,
            "Prometheus cannot scrape the agent. The agent serves keys, and tries the"
            " port again every 30 seconds.",
            "another program listens on agent.metrics_listen (any user can bind the"
            " port while the agent is not running), or the machine does not have the"
            " address.",
            "find the program with `ss -lntp` and stop it, or set agent.metrics_listen"
            " to another address and restart the agent.",
        ),
        Event.FEW_DESCRIPTORS: EventText(
            "The descriptor limit is too low for the configured connections",
            _CONFIGURATION,
            "The agent works. With as many connections as serving.connections allows,"
            " the agent would run out of descriptors, and connections would wait.",
            "serving.connections is too large for LimitNOFILE= of the unit.",
            "raise LimitNOFILE= in a drop-in (`systemctl edit skragent`) to the number"
            " in the message and restart, or lower serving.connections.",
        ),
        Event.RELOADED: EventText(
            "The configuration was read again",
            _CONFIGURATION,
            "The file is in force. Its keys and rules apply to open connections, too. A"
            " key is wiped if its table is gone or names another vault or key.",
            "`systemctl reload skragent`, `skragent reload` or SIGHUP.",
            _NO_ACTION,
        ),
        Event.CANNOT_CHECK: EventText(
            "The agent cannot check key @SKRAGENT_KEY@ for new versions",
            _CONFIGURATION,
            "The agent finds new versions at the next refresh, after four fifths of the"
            " token's lifetime, instead of within keys.NAME.version_check_seconds.",
            "the identity may release the key, but does not have the permission to get"
            " it.",
            "no action is needed if that is soon enough. Else give the identity the"
            " permission `get` (or a role that may read keys), or set refresh_seconds."
            " version_check_seconds = 0 stops the checks.",
        ),
        Event.NEEDS_RESTART: EventText(
            "Some changes need a restart",
            _CONFIGURATION,
            "The changed configuration is in force, except for the settings in the"
            " message.",
            "the agent opens the sockets and the metrics port once, at the start.",
            "`systemctl restart skragent`. Connections made during the restart wait,"
            " and the agent serves held keys again afterwards.",
        ),
        Event.CONNECTIONS_REFUSED: EventText(
            "Connections were rejected",
            _CONFIGURATION,
            "The agent told a caller to try again later, or new connections wait. The"
            " agent serves the open connections.",
            "serving.connections or the limit of one user is reached, usually because a"
            " client opens connections and does not close them (SKRAGENT_UID). Or the"
            " machine is out of descriptors or memory.",
            "`ss -xp` shows the processes that hold connections to api.sock. Correct"
            " that client, or raise serving.connections together with LimitNOFILE= of"
            " the unit.",
        ),
        Event.AK_RENEWED: EventText(
            "The certificate of the vTPM's attestation key was renewed",
            _SERVICE,
            "The new certificate is in the vTPM, and the evidence contains it from now"
            " on.",
            "the certificate was within its last 90 days, on a VM whose paravisor does"
            " not renew it.",
            _NO_ACTION,
        ),
        Event.AK_RENEWAL_FAILED: EventText(
            "The certificate of the vTPM's attestation key was not renewed:"
            " @SKRAGENT_CODE@",
            _ERRORS,
            "The present certificate is valid until the time in the metric"
            " skragent_ak_certificate_expiry_timestamp_seconds and in `skragent"
            " status`. After that the provider refuses the evidence (token.refused),"
            " which ends held keys after five minutes. The agent tries again by"
            " itself.",
            "see the code. Usually THIM, Azure's service for certificates, does not"
            " respond.",
            "look up the code in skragent-errors(7). If less than a month is left,"
            " contact Azure's support.",
        ),
        Event.NOTE: EventText(
            "A file or the evidence needs attention",
            _SERVICE,
            "The agent continues. The message names the setting, the file and the"
            " reason. The agent logs the message once after each start while the cause"
            " lasts.",
            "the agent skipped a root certificate that it cannot read; or vtpm.tcg_log"
            " is not a regular file; or a report has a newer version than this agent"
            " knows.",
            "if one of your services depends on the certificate, replace or remove it:"
            " the message names it by position, subject and fingerprint, as `skragent"
            " check-config` does. For a newer report, upgrade skragent.",
        ),
        Event.NOTIFY_FAILED: EventText(
            "The agent cannot notify systemd of its state",
            _SERVICE,
            "The agent continues and serves keys. `systemctl status` does not show its"
            " state, and the watchdog gets no heartbeat. The agent logs only the first"
            " failure.",
            "the environment variable NOTIFY_SOCKET does not name a listening Unix"
            " socket. For example, a program other than systemd started the agent and"
            " passed its own variable.",
            "unset NOTIFY_SOCKET in the program that starts the agent. Under systemd,"
            " check that /run/systemd/notify exists and that a drop-in or AppArmor does"
            " not block it.",
        ),
        Event.AK_RESTORED: EventText(
            "The certificate of the vTPM's attestation key was restored from its copy",
            _SERVICE,
            "A renewal was interrupted and left the vTPM without a complete"
            " certificate. The agent wrote the copy from /var/lib/skragent back and"
            " removed the copy.",
            "the agent or the machine was killed or lost power during the renewal; or"
            " the vTPM was busy for too long.",
            "no action is needed. If it happens at each renewal, find the program that"
            " kills the agent, or see evidence.tpm.busy before this entry.",
        ),
    }
)
