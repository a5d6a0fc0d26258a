"""Every error code: what the agent does about it, its cause and its remedy.

This is the one source. `skragent.errors` takes the disposition from here.
`packaging/generate_docs.py` writes the lists of skragent-errors(7) and docs/errors.md.
Texts are Markdown: backquotes mark names, four spaces of indentation mark commands.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Disposition(enum.Enum):
    """What the scheduler does about an error."""

    RETRY = "retry"  # repeat the step after a backoff
    REATTEST = "reattest"  # start again with new evidence, after a backoff
    # A person probably has to act: as RETRY, with a long backoff and an alarm.
    RETRY_SLOWLY = "retry_slowly"
    # An authority denied the key. `skragent.denials` has the same codes.
    DENIED = "denied"
    # The configuration cannot be used, or the machine is not a confidential VM. At the
    # start, the error ends the agent. Later it is handled as RETRY_SLOWLY.
    FATAL = "fatal"


RETRY: Final = Disposition.RETRY
REATTEST: Final = Disposition.REATTEST
SLOWLY: Final = Disposition.RETRY_SLOWLY
DENIED: Final = Disposition.DENIED
FATAL: Final = Disposition.FATAL
# The response to one caller, or the end of one command: the scheduler never gets it.
REJECTED: Final = "rejected"
# The disposition depends on the cause: each error has its own.
VARIES: Final = "varies"


class ErrorCode(NamedTuple):
    """One code. `code` is stable: alerts and scripts may rely on it."""

    code: str
    disposition: Disposition | Literal["rejected", "varies"]
    cause: str
    remedy: str

    @property
    def action(self) -> str:
        """The word for what the agent does, a key of ACTIONS."""
        disposition = self.disposition
        return disposition if isinstance(disposition, str) else disposition.value


class ErrorGroup(NamedTuple):
    """The codes of one area, with a text about all of them."""

    title: str
    text: str
    codes: tuple[ErrorCode, ...]


_CONFIGURATION: Final = ErrorGroup(
    "Configuration",
    "See skragent.toml(5). At a start the first five codes end the agent. At a reload"
    " the agent rejects the whole file and keeps the previous configuration. Files of"
    " `[trust]` differ: see `config.invalid`.",
    (
        ErrorCode(
            "config.invalid",
            FATAL,
            "A setting has a value that is not allowed, a setting does not exist, or a"
            " file of `[trust]` cannot be used. The message lists all problems."
            "\n\n"
            "The agent reads the files of `[trust]` whenever it attests, and not at a"
            " reload. At a start, two failed attempts in a row end the agent. At a"
            " refresh the error is handled as `retry_slowly`: the agent keeps held"
            " keys, and the key needs attention.",
            "Correct the file. `skragent check-config` lists the same problems. After"
            " the correction of a file of `[trust]` no reload is needed.",
        ),
        ErrorCode(
            "config.syntax",
            FATAL,
            "The file is not valid TOML or not UTF-8.",
            "Correct the line and column that the message names.",
        ),
        ErrorCode(
            "config.unreadable",
            FATAL,
            "The file does not exist, the agent's user may not read it, or it is not a"
            " regular file. The agent does not open a FIFO or a device, because"
            " reading it could block.",
            "Create the file with owner root, group `skragent` and mode 0640.",
        ),
        ErrorCode(
            "config.unknown_name",
            FATAL,
            "A rule names a user or a group that this machine does not have.",
            "Create the user or group, or correct the rule. `getent passwd USER` asks"
            " the directory service.",
        ),
        ErrorCode(
            "config.timeout",
            FATAL,
            "Looking up users and groups took longer than 30 seconds. At a reload the"
            " time includes reading the file. At a start the agent exits with 75, and"
            " systemd starts it again after five seconds.",
            "Check that the directory service (LDAP, SSSD) and the network file system"
            " respond, and reload again.",
        ),
        ErrorCode(
            "config.no_socket",
            FATAL,
            "Only of a command: `agent.admin_socket` is empty in the file of"
            " `--config`.",
            "Set it and restart the agent.",
        ),
    ),
)

_NETWORK: Final = ErrorGroup(
    "Network",
    "A service did not respond or cannot respond now. The message names the service:"
    " IMDS (169.254.169.254), Entra ID, the attestation provider, or a vault.",
    (
        ErrorCode(
            "transport.dns",
            RETRY,
            "The name of the service has no address.",
            "Check `/etc/resolv.conf` and, for private endpoints, the private DNS zone."
            " The unit's `IPAddressDeny=` blocks resolvers on the local link"
            " (`169.254.0.0/16`, `fe80::/64`): allow such a resolver in a drop-in.",
        ),
        ErrorCode(
            "transport.refused",
            RETRY,
            "The service refused the connection, or there is no route to it.",
            "Check routes, network security groups and the proxy. Check whether"
            " `IPAddressDeny=` of the unit (local link) or of a drop-in blocks the"
            " address.",
        ),
        ErrorCode(
            "transport.timeout",
            RETRY,
            "The service did not respond within `limits.request_timeout_seconds`. It is"
            " overloaded, or a firewall drops the packets.",
            "If the error persists, check the firewalls on the path.",
        ),
        ErrorCode(
            "transport.reset",
            RETRY,
            "The connection broke during a response.",
            "The error is usually temporary. If it persists, look for a proxy or a"
            " firewall that inspects TLS.",
        ),
        ErrorCode(
            "transport.tls",
            RETRY,
            "The certificate of the service is not valid. A proxy may inspect TLS, or"
            " the clock of this VM is wrong.",
            "Exclude these hosts from inspection, or set `trust.tls_roots` to a file"
            " with the proxy's root. Check the clock.",
        ),
        ErrorCode(
            "transport.throttled",
            RETRY,
            "The service limits the rate of requests (429). A vault allows 10 releases"
            " of HSM keys in 10 seconds.",
            "Distribute the keys or the VMs over more vaults.",
        ),
        ErrorCode(
            "transport.server",
            RETRY,
            "The service has a fault (5xx).",
            "The error is usually temporary. If it persists, check Azure's service"
            " health.",
        ),
        ErrorCode(
            "transport.oversized",
            RETRY,
            "The response has more bytes or more JSON values than any valid response."
            " Another server or a proxy responds in place of the service.",
            "Check the address of the service and the proxy.",
        ),
        ErrorCode(
            "transport.unexpected",
            RETRY,
            "The response is not one that the service sends: a redirect, an unknown"
            " status, or not HTTP.",
            "Look for a captive portal or a proxy. Check `imds.endpoint`,"
            " `attestation.endpoint` and `keys.NAME.vault`.",
        ),
    ),
)

_IDENTITY: Final = ErrorGroup(
    "Identity",
    "The agent did not get an access token for the vault, or the vault rejected it."
    " IMDS and Entra ID are not authorities over a key: none of these codes ends a"
    " held key.",
    (
        ErrorCode(
            "identity.unavailable",
            RETRY,
            "IMDS or Entra ID did not issue a token now.",
            "The error is usually temporary. If it persists, see the service's own"
            " words in the message.",
        ),
        ErrorCode(
            "identity.not_found",
            SLOWLY,
            "The VM does not have this managed identity.",
            "Assign the identity. If several identities are assigned, name one in"
            " `[identity]`.",
        ),
        ErrorCode(
            "identity.denied",
            SLOWLY,
            "Entra ID rejects the application: its secret or certificate is wrong or"
            " has expired, or `identity.tenant_id` or `identity.client_id` is wrong.",
            "Correct the settings or replace the file. A new file needs no restart.",
        ),
        ErrorCode(
            "identity.unreadable",
            SLOWLY,
            "The agent cannot read or use the file of `identity.certificate`,"
            " `identity.secret_file` or `identity.token_file`. The message names the"
            " problem: the file does not exist or is a FIFO; the certificate has an EC"
            " key; the certificate or its private key is missing; they do not belong"
            " together; the private key or the PFX file has a passphrase.",
            "Provide a PEM or PFX file with a certificate and its RSA private key, or a"
            " file with the secret alone. Set owner `skragent` and mode 0400. Put the"
            " file into `/etc/skragent`: AppArmor blocks other directories, and the"
            " unit blocks `/home` and `/tmp`. See skragent.service(8).",
        ),
        ErrorCode(
            "identity.refused",
            RETRY,
            "The vault rejects the access token (401). If the vault says that the token"
            " expired, the error is temporary: the agent gets a new token.",
            "Check the clock: `timedatectl`. Use a vault and an identity of the same"
            " tenant.",
        ),
        ErrorCode(
            "identity.challenge",
            RETRY,
            "The vault demands a token for another service, because its URL is not the"
            " vault's own host name.",
            "Correct `keys.NAME.vault`.",
        ),
    ),
)

_EVIDENCE: Final = ErrorGroup(
    "Evidence",
    "The evidence of the hardware. `skragent report` shows it.",
    (
        ErrorCode(
            "evidence.not_a_cvm",
            FATAL,
            "The TPM has no HCL report: this machine is not an Azure confidential VM."
            " At a start, two attempts in a row end the agent. Later the agent retries"
            " slowly.",
            "Use a VM of the series DCasv5, ECasv5 or newer.",
        ),
        ErrorCode(
            "evidence.unsupported",
            VARIES,
            "The agent knows this kind of evidence and does not support it. A hardware"
            " report of another kind than SEV-SNP's, such as TDX's, is fatal, like"
            " `evidence.not_a_cvm`. The agent retries slowly after anything else.",
            "Use a VM series with AMD SEV-SNP.",
        ),
        ErrorCode(
            "evidence.malformed",
            SLOWLY,
            "The agent cannot parse the vTPM's evidence.",
            "If the VM is a confidential VM, report the problem with the output of"
            " `skragent report --json`.",
        ),
        ErrorCode(
            "evidence.tpm",
            VARIES,
            "A TPM command failed. The message has the command and the response code."
            " If the TPM only lost the agent's objects, the agent attests again. Else"
            " it retries slowly.",
            "If the error persists, restart the VM.",
        ),
        ErrorCode(
            "evidence.tpm.unreachable",
            RETRY,
            "The agent cannot open the TPM: `/dev/tpmrm0` does not exist, or the"
            " agent's user is not in the group `tss`.",
            "Check `vtpm.tcti`, and `BindPaths=` and `DeviceAllow=` of the unit. If the"
            " device appeared after the start of the agent, restart the agent.",
        ),
        ErrorCode(
            "evidence.tpm.busy",
            RETRY,
            "Another program uses the TPM, or the TPM is starting.",
            "No action is needed. The error is temporary.",
        ),
        ErrorCode(
            "evidence.tpm.lockout",
            RETRY,
            "The TPM's dictionary attack protection is active.",
            "Wait: the lockout ends by itself. `tpm2_getcap properties-variable` shows"
            " its counter.",
        ),
        ErrorCode(
            "evidence.hcl_not_provisioned",
            RETRY,
            "NV index 0x01400001 of the TPM, which holds the HCL report, is empty (TPM"
            " response code 0x14a). On a new confidential VM the error ends within"
            " minutes of the first start.",
            "If the error persists, the VM is not a SEV-SNP confidential VM but, for"
            " example, a Trusted Launch VM. Use a VM of the series DCasv5, ECasv5 or"
            " newer.",
        ),
        ErrorCode(
            "evidence.ak_cert_not_provisioned",
            RETRY,
            "The vTPM does not have a certificate of its attestation key yet. Azure"
            " provisions it within minutes of the VM's first start.",
            "Wait some minutes.",
        ),
        ErrorCode(
            "evidence.pcr_changed",
            REATTEST,
            "A program extended one of the PCRs 0 to 7 after the agent created its"
            " wrapping key.",
            "The error is usually temporary. If it repeats, find the program that"
            " extends these PCRs.",
        ),
        ErrorCode(
            "evidence.binding",
            REATTEST,
            "The SNP report holds the hash of other runtime data. The report may have"
            " been refreshed meanwhile.",
            "If the error persists, do not trust this VM: deploy it again.",
        ),
        ErrorCode(
            "evidence.ak_mismatch",
            REATTEST,
            "The HCL report has another attestation key than this vTPM. The report may"
            " have been refreshed meanwhile.",
            "If the error persists, do not trust this VM: deploy it again.",
        ),
        ErrorCode(
            "evidence.signature",
            REATTEST,
            "The VCEK's signature over the report, or the attestation key's signature"
            " over the quote, is not valid.",
            "If the error persists, do not trust this VM: deploy it again.",
        ),
        ErrorCode(
            "evidence.quote",
            REATTEST,
            "The quote, or the certification of the wrapping key, covers other data.",
            "If the error persists, do not trust this VM: deploy it again.",
        ),
    ),
)

_ENDORSEMENTS: Final = ErrorGroup(
    "Endorsements",
    "The certificates that endorse the signer of the report. The agent gets them from"
    " IMDS (THIM).",
    (
        ErrorCode(
            "endorsements.malformed",
            RETRY,
            "The agent cannot parse the certificates.",
            "The error is usually temporary. If it persists, look for a server that"
            " responds in place of IMDS.",
        ),
        ErrorCode(
            "endorsements.chain",
            RETRY,
            "A certificate is not signed by the next one.",
            "If the error persists, report it with the output of"
            " `skragent report --json`.",
        ),
        ErrorCode(
            "endorsements.root",
            RETRY,
            "The root certificate is not AMD's.",
            "For an emulator, set `trust.amd_roots` to its root.",
        ),
        ErrorCode(
            "endorsements.lifetime",
            RETRY,
            "A certificate is not valid at this time.",
            "Check the clock.",
        ),
        ErrorCode(
            "endorsements.tcb",
            RETRY,
            "The certificates are for another firmware version than the report's. THIM"
            " may lag behind an update.",
            "No action is needed. The error ends when THIM has the new certificates.",
        ),
        ErrorCode(
            "endorsements.chip",
            RETRY,
            "The certificates are for another chip than the report's.",
            "If the error persists, report it with the output of"
            " `skragent report --json`.",
        ),
        ErrorCode(
            "endorsements.ak_certificate",
            RETRY,
            "The new certificate of the vTPM's attestation key, from THIM, is worse"
            " than the present one. The agent did not store it.",
            "No action is needed while the present certificate is valid: see"
            " `skragent_ak_certificate_expiry_timestamp_seconds`.",
        ),
        ErrorCode(
            "endorsements.ak_copy",
            SLOWLY,
            "The agent did not write the certificate of the vTPM's attestation key,"
            " because it cannot keep a copy and an interrupted write could lose the"
            " certificate. Or the agent cannot read the copy that an interrupted write"
            " left. The present certificate is unchanged.",
            "Free space in `/var/lib/skragent` and give the directory to the user"
            " `skragent`. If a program other than systemd starts the agent, set"
            " `STATE_DIRECTORY`.",
        ),
    ),
)

_TOKEN: Final = ErrorGroup(
    "Token",
    "The response of the verifier, Microsoft Azure Attestation. If a `token` code other"
    " than `token.endpoint`, `token.refused` and `token.expired` persists, a program or"
    " device between this VM and the verifier modifies the traffic. Find it first.",
    (
        ErrorCode(
            "token.endpoint",
            SLOWLY,
            "The agent knows no shared provider for the VM's region.",
            "Set `attestation.endpoint` to the provider of the release policies.",
        ),
        ErrorCode(
            "token.refused",
            DENIED,
            "The provider refused the evidence: HTTP 400 in its own error format. The"
            " message has its reason. Shared providers refuse guests without Secure"
            " Boot. Your own provider applies its policy."
            "\n\n"
            "The provider also refuses an expired certificate of the vTPM's attestation"
            " key. Five minutes later the refusal ends held keys.",
            "Check the expiry of that certificate:"
            " `skragent_ak_certificate_expiry_timestamp_seconds` or `skragent status`."
            " If it has expired, see the code of `AK_RENEWAL_FAILED` in the journal."
            " Without such an entry the paravisor should have renewed the certificate:"
            " contact Azure's support. Meanwhile, set `keys.NAME.on_denial` to `keep`"
            " and run `skragent reload` to keep the keys.",
        ),
        ErrorCode(
            "token.expired",
            REATTEST,
            "The token has expired or is not valid yet. If this VM's clock differs from"
            " the time in Azure's responses by five minutes or more, the message shows"
            " the difference.",
            "Check the clock: `timedatectl`.",
        ),
        ErrorCode(
            "token.invalid",
            REATTEST,
            "The response is not a token that the agent can parse.",
            "The error is usually temporary. If it persists, look for a proxy.",
        ),
        ErrorCode(
            "token.signature",
            REATTEST,
            "None of the provider's published keys signed the token. The provider's key"
            " set may lag behind a change of keys.",
            "The error is usually temporary. If it persists, look for a proxy.",
        ),
        ErrorCode(
            "token.issuer",
            REATTEST,
            "Another provider issued the token.",
            "Check `attestation.endpoint`.",
        ),
        ErrorCode(
            "token.nonce",
            REATTEST,
            "The token does not contain the request's nonce: it belongs to another"
            " request.",
            "If the error persists, look for a cache or a proxy.",
        ),
        ErrorCode(
            "token.lifetime",
            REATTEST,
            "`iat`, `nbf` or `exp` of the token is out of range, or they are more than"
            " a day apart.",
            "If the error persists, look for a proxy.",
        ),
        ErrorCode(
            "token.wrapping_key",
            REATTEST,
            "The first suitable key of the token is not this vTPM's wrapping key, or it"
            " is a wrapping key that the vTPM can no longer create.",
            "If the error persists, look for a proxy.",
        ),
        ErrorCode(
            "token.sealed",
            REATTEST,
            "The verifier's sealed response is malformed or cannot be decrypted.",
            "If the error persists, look for a proxy.",
        ),
        ErrorCode(
            "token.signing_keys",
            REATTEST,
            "The provider's signing keys are not a JWK set, or no entry of the set can"
            " be used. The agent skips single entries that it cannot read.",
            "The error is usually temporary. If it persists, look for a server that"
            " responds in place of the provider.",
        ),
    ),
)

_RELEASE: Final = ErrorGroup(
    "Release",
    "The response of the vault. `release.malformed`, `release.signature`,"
    " `release.chain`, `release.host`, `release.mismatch`, `release.key_mismatch` and"
    " `unwrap` must not persist. If one does, a program or device between this VM and"
    " the vault modifies the traffic. Else report the problem.",
    (
        ErrorCode(
            "release.denied",
            DENIED,
            "The vault responded with HTTP 400, 403 or 404 in its own error format,"
            " without a more precise code. The message has the vault's words.",
            "Check that the key is exportable, has a release policy, and is in a"
            " Premium vault or a Managed HSM.",
        ),
        ErrorCode(
            "release.denied.policy",
            DENIED,
            "The token does not satisfy the key's release policy.",
            "Compare the policy with the output of `skragent report`, which shows the"
            " VM's id and whether Secure Boot is on. `authority` must be the"
            " attestation endpoint, and the VM must meet every claim. A VM"
            " that was deleted and created again has a new id. A policy with"
            " `x-ms-azurevm-vmid` needs the new id, in upper case:"
            "\n\n"
            "    az vm show --resource-group GROUP --name VM \\\n"
            "      --query vmId -o tsv | tr a-z A-Z\n"
            "    az keyvault key set-attributes --vault-name VAULT \\\n"
            "      --name KEY --policy FILE",
        ),
        ErrorCode(
            "release.denied.permission",
            DENIED,
            "The identity does not have the permission to release the key.",
            "Assign the role `Key Vault Crypto Service Release User`; in a vault with"
            " access policies the key permission `release`; on a Managed HSM the local"
            " role `Managed HSM Crypto Service Release User`. The hint of the error"
            " names the right one. A role of Azure RBAC can take ten minutes to apply,"
            " or a day if a group has the role. Access policies and local roles of a"
            " Managed HSM apply at once.",
        ),
        ErrorCode(
            "release.denied.firewall",
            DENIED,
            "The vault's firewall blocks this VM. If the denial persists, the agent"
            " wipes a held key about five minutes after the first one.",
            "Allow the VM's network, or use a private endpoint.",
        ),
        ErrorCode(
            "release.denied.connection",
            DENIED,
            "The vault allows only private endpoints, and the request came by another"
            " path. The agent wipes a held key as after `release.denied.firewall`.",
            "Create an approved private endpoint of the vault in the VM's network, and"
            " the private DNS zone `privatelink.vaultcore.azure.net` (for a Managed HSM"
            " `privatelink.managedhsm.azure.net`). `getent ahosts VAULT` must show a"
            " private address.",
        ),
        ErrorCode(
            "release.denied.disabled",
            DENIED,
            "The key's version is disabled.",
            "Enable the version, or configure another one.",
        ),
        ErrorCode(
            "release.not_found",
            DENIED,
            "The vault has no such key or version.",
            "Check `keys.NAME.vault`, `keys.NAME.name` and `keys.NAME.version`. Recover"
            " a deleted key within the vault's retention time.",
        ),
        ErrorCode(
            "release.not_yet_valid",
            SLOWLY,
            "The `nbf` attribute of the key's version is in the future. The agent keeps"
            " a held version.",
            "Wait, or change the attribute.",
        ),
        ErrorCode(
            "release.expired",
            VARIES,
            "The `exp` attribute of the key's version is in the past. If the agent"
            " holds this version, it wipes it. It keeps another held version. Without a"
            " held key the agent retries slowly.",
            "Rotate the key, or change the attribute.",
        ),
        ErrorCode(
            "release.conflict",
            RETRY,
            "The vault is deleting, recovering or changing the key.",
            "No action is needed. The error is temporary.",
        ),
        ErrorCode(
            "release.unverified",
            REATTEST,
            "The vault could not verify the token now.",
            "The error is usually temporary. If it persists, compare `authority` of the"
            " release policy with the attestation endpoint.",
        ),
        ErrorCode(
            "release.malformed",
            REATTEST,
            "The agent cannot parse the vault's response.",
            "If the error persists, look for a proxy, or report it.",
        ),
        ErrorCode(
            "release.signature",
            REATTEST,
            "The signature over the release is not valid.",
            "If the error persists, look for a proxy, or report it.",
        ),
        ErrorCode(
            "release.chain",
            REATTEST,
            "The certificate that signed the release leads to no trusted root.",
            "Check `trust.release_roots`.",
        ),
        ErrorCode(
            "release.host",
            REATTEST,
            "The certificate that signed the release is not the vault's.",
            "Check `keys.NAME.vault`.",
        ),
        ErrorCode(
            "release.mismatch",
            REATTEST,
            "The response has another key, version, nonce or wrapping algorithm than"
            " the request.",
            "If the error persists, look for a proxy, or report it.",
        ),
        ErrorCode(
            "release.key_mismatch",
            REATTEST,
            "The private key does not belong to the signed public key.",
            "If the error persists, report it.",
        ),
        ErrorCode(
            "unwrap",
            REATTEST,
            "The agent could not unwrap the released key. The message is the same for"
            " every cause, so that it reveals nothing about the key.",
            "If the error persists, report it.",
        ),
    ),
)

_AGENT: Final = ErrorGroup(
    "The agent itself",
    "",
    (
        ErrorCode(
            "releaser.timeout",
            RETRY,
            "A job took longer than twelve times `limits.request_timeout_seconds`, and"
            " the agent killed the releaser. The usual reason is a TPM that does not"
            " respond.",
            "Check that `tpm2_pcrread` responds.",
        ),
        ErrorCode(
            "releaser.crashed",
            RETRY,
            "The releaser ended without a result. Its output is in the journal"
            " (`RELEASER_SAID`).",
            "If signal 9 killed the releaser, look for the kernel's out-of-memory"
            " killer. Else report the problem.",
        ),
        ErrorCode(
            "releaser.garbage",
            RETRY,
            "The agent cannot use the releaser's result. The package may have been"
            " upgraded while the agent was running.",
            "Restart the agent.",
        ),
        ErrorCode(
            "releaser.spawn",
            RETRY,
            "The agent cannot start the releaser: the machine lacks memory or processes"
            " (`TasksMax=`), or the package is damaged.",
            "Free memory, raise `TasksMax=`, or install the package again.",
        ),
        ErrorCode(
            "memory",
            RETRY,
            "The agent cannot create or map memory for keys.",
            "See memfd_secret(2), and the system call filters of the unit.",
        ),
        ErrorCode(
            "memory.locked_limit",
            RETRY,
            "The agent may not lock more memory.",
            "Raise `LimitMEMLOCK=` of the unit, or hold fewer keys.",
        ),
        ErrorCode(
            "memory.content",
            RETRY,
            "Memory that systemd kept for an earlier agent has no record of a held key"
            " that this agent can read. The memory is damaged, or a version with"
            " another format wrote it. The agent can read a record of a newer version"
            " with the same format, and ignores new fields.",
            "No action is needed. The agent discards the memory and releases the keys"
            " again.",
        ),
        ErrorCode(
            "listen.in_use",
            FATAL,
            "Another program listens on the address. If it is the metrics port, the"
            " agent tries again every 30 seconds and serves keys meanwhile.",
            "Find the program with `ss -lxp` or `ss -lntp`, and stop it.",
        ),
        ErrorCode(
            "listen.not_a_socket",
            FATAL,
            "A file that is not a socket has the path of a socket.",
            "Move the file away.",
        ),
        ErrorCode(
            "listen.inherited",
            FATAL,
            "A socket unit passed a descriptor that is not a listening Unix socket.",
            "Check `systemctl cat skragent.socket`.",
        ),
        ErrorCode(
            "listen.failed",
            FATAL,
            "The directory of the socket does not exist or is not writable, or the"
            " machine does not have the address.",
            "Create the directory, or correct the address.",
        ),
        ErrorCode(
            "internal",
            VARIES,
            "The agent has a bug. In a release: the agent retries slowly. In a request:"
            " the response is 500. In the agent as a whole: it exits with 70, systemd"
            " starts it again, and the agent serves held keys again.",
            "Report the bug with the journal's entries around it.",
        ),
    ),
)

_RESPONSES: Final = ErrorGroup(
    "Responses to workloads",
    "On the sockets, with an HTTP status.",
    (
        ErrorCode(
            "serve.denied",
            REJECTED,
            "404: the key does not exist, or no rule allows it to the caller. The"
            " response does not say which. The journal (`ACCESS_DENIED`) does, for"
            " root.",
            "Run `skragent status` as that user and in that unit: it shows the caller's"
            " identity as the agent sees it.",
        ),
        ErrorCode(
            "serve.not_ready",
            REJECTED,
            "503: a rule allows the key to the caller, but the agent does not hold it"
            " (yet).",
            "Look up the code in `last_failure` of the response.",
        ),
        ErrorCode(
            "serve.version",
            REJECTED,
            "404: the agent holds another version of the key.",
            "Request the current version.",
        ),
        ErrorCode(
            "serve.not_acceptable",
            REJECTED,
            "406: the key is not available in the requested format.",
            "Request one of the formats in `formats` of the response.",
        ),
        ErrorCode(
            "serve.rate",
            REJECTED,
            "429: the user has got 10000 responses within a second.",
            "Repeat the request after the time in Retry-After.",
        ),
        ErrorCode(
            "serve.busy",
            REJECTED,
            "503: too many requests are under way or wait for a change. The limits"
            " follow from `serving.connections`.",
            "Repeat the request after the time in Retry-After.",
        ),
        ErrorCode(
            "serve.connections",
            REJECTED,
            "503: the connections exceed `serving.connections`, or those of the user"
            " exceed half of it.",
            "Find the user in the journal (`CONNECTIONS_REFUSED`).",
        ),
        ErrorCode(
            "serve.bad_request",
            REJECTED,
            "400: the agent cannot parse the request.",
            "Correct the client.",
        ),
        ErrorCode(
            "serve.not_found",
            REJECTED,
            "404: the agent has no such resource.",
            "Correct the path.",
        ),
        ErrorCode(
            "serve.method",
            REJECTED,
            "405: the resource does not have this method. Only admin.sock accepts"
            " refresh, reload and drop.",
            "Use a method that the header `Allow` names.",
        ),
        ErrorCode(
            "serve.body",
            REJECTED,
            "400, 413, 417 or 501: the request has a body where none is allowed, a body"
            " longer than 16384 bytes, an expectation other than 100-continue,"
            " or a transfer coding other than chunked. The framing of a chunked body"
            " (sizes, extensions, trailers) may have at most 8192 bytes.",
            "Correct the client.",
        ),
        ErrorCode(
            "serve.head_too_large",
            REJECTED,
            "431: the head of the request is longer than 8192 bytes.",
            "Correct the client.",
        ),
        ErrorCode(
            "serve.timeout",
            REJECTED,
            "408: the request was not complete within 5 seconds.",
            "Send the whole request at once.",
        ),
        ErrorCode(
            "serve.http_version",
            REJECTED,
            "505: the request is neither HTTP/1.0 nor HTTP/1.1.",
            "Correct the client.",
        ),
    ),
)

_CLIENT: Final = ErrorGroup(
    "Commands and the client",
    "Without a response of the agent.",
    (
        ErrorCode(
            "client.unreachable",
            RETRY,
            "No program listens on the socket, or the agent ended during its response.",
            "Run `systemctl status skragent.socket skragent`.",
        ),
        ErrorCode(
            "client.timeout",
            RETRY,
            "The agent did not respond in time.",
            "See the agent's last messages: `journalctl -u skragent`.",
        ),
        ErrorCode(
            "client.forbidden",
            REJECTED,
            "The user may not connect to the socket.",
            "Add the user to the group `skragent` for api.sock. Use root for"
            " admin.sock.",
        ),
        ErrorCode(
            "client.garbage",
            REJECTED,
            "The response is not an agent's, or another version's.",
            "Check the path of the socket, and restart the agent after an upgrade.",
        ),
        ErrorCode(
            "command.timeout",
            RETRY,
            "A command did not end within its overall deadline: see skragent(1). The"
            " message names its last action, such as reading the TPM or asking the"
            " directory service.",
            "Find out why that did not respond, and repeat the command.",
        ),
    ),
)

_EMULATOR: Final = ErrorGroup(
    "The emulator",
    "Only of `skragent emulator` and its faults.sock.",
    (
        ErrorCode(
            "emulator.not_installed",
            FATAL,
            "A program or library that the emulator needs is missing.",
            "Install the package that the message names.",
        ),
        ErrorCode(
            "emulator.directory",
            FATAL,
            "The emulator cannot create or write the directory of `--dir`.",
            "Choose another directory, or change its permissions.",
        ),
        ErrorCode(
            "emulator.in_use",
            FATAL,
            "Another emulator uses the directory.",
            "Stop it, or choose another directory.",
        ),
        ErrorCode(
            "emulator.address",
            FATAL,
            "The emulator cannot listen on its previous addresses, or on Azure's"
            " (`--real-names`).",
            "Run the commands of the hint as root.",
        ),
        ErrorCode(
            "emulator.vtpm",
            FATAL,
            "swtpm cannot start, or it ended.",
            "See swtpm's own words in the message.",
        ),
        ErrorCode(
            "emulator.application",
            FATAL,
            "A file of the application in the directory holds no certificate.",
            "Remove the file. The emulator creates a new one.",
        ),
        ErrorCode(
            "emulator.fault",
            FATAL,
            "The fault does not exist, or its value is wrong.",
            "See `skragent emulator --list-faults`.",
        ),
        ErrorCode(
            "emulator.request",
            REJECTED,
            "faults.sock cannot parse the request.",
            "Correct the request.",
        ),
    ),
)

# What the agent does, by `ErrorCode.action`.
ACTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "retry": "The agent repeats the attempt within one second, after the next"
        " failure within two, and so on. The window doubles up to a minute, and the"
        " wait is a random part of the window (full jitter), so that the VMs of a fleet"
        " do not retry at the same time. After a 429 of a vault the wait is about ten"
        " seconds, and each time a tenth longer. The agent obeys a longer Retry-After,"
        " up to ten minutes. It serves held keys meanwhile. A held key is `stale` from"
        " the time when its refresh is overdue, and is wiped"
        " `keys.NAME.max_stale_seconds` later.",
        "reattest": "As `retry`, but the agent starts again with new evidence and a"
        " fresh token.",
        "retry_slowly": "A person probably has to act. The agent repeats the attempt"
        " within three seconds, then within one minute, two minutes, and so on, up to"
        " 15 minutes. It serves held keys as after `retry`. The journal has an error"
        " (`ATTENTION`), and `skragent_key_needs_attention` is 1.",
        "denied": "An authority denied the key: the vault or the attestation provider,"
        " in its own error format. Of all errors, only a confirmed denial ends a held"
        " key. From the first denial on, the journal has an error (`ATTENTION`),"
        " and `skragent_key_needs_attention` is 1.",
        "fatal": "The configuration cannot be used, a socket cannot be bound, or the"
        " machine is not a confidential VM. At a start the error ends the agent. Once"
        " the agent has attested or holds a key, it handles the error as"
        " `retry_slowly`. In a command, the error ends the command.",
        "varies": "The action depends on the cause. The text of the code describes it.",
        "rejected": "The response to one caller. Nothing changes for other callers.",
    }
)

GROUPS: Final = (
    _CONFIGURATION,
    _NETWORK,
    _IDENTITY,
    _EVIDENCE,
    _ENDORSEMENTS,
    _TOKEN,
    _RELEASE,
    _AGENT,
    _RESPONSES,
    _CLIENT,
    _EMULATOR,
)
CODES: Final[Mapping[str, ErrorCode]] = MappingProxyType(
    {entry.code: entry for group in GROUPS for entry in group.codes}
)


def remedy_of(code: str) -> str:
    """Return the first paragraph of a code's remedy; an unknown code is looked up."""
    entry = CODES.get(code)
    if entry is None:
        return f"See {code} in skragent-errors(7)."
    return " ".join(entry.remedy.partition("\n\n")[0].split())


def disposition_of(code: str) -> Disposition | None:
    """Return the disposition of a code; None if each error has its own."""
    entry = CODES.get(code)
    if entry is None or isinstance(entry.disposition, str):
        return None
    return entry.disposition
