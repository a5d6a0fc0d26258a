"""The configuration: TOML text to one frozen, validated value.

`parse_config` is pure: it takes a text and returns a `Config`, or raises one
`ConfigError` with every problem and its path. It does not check that files, users and
sockets exist: `skragent check-config` does.

The docstrings of the tables and the `Setting` of each field are the reference from
which `make docs` generates skragent.toml(5), docs/configuration.md and
config.example.toml. Durations end in `_seconds`, sizes in `_bytes`.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import msgspec

from skragent.config_rules import OPERATIONS, judge, meant, shown, split_key_id
from skragent.config_settings import REMOVED, Setting, types_of
from skragent.errors import ConfigError
from skragent.identity import Identity

MAX_CONFIG_BYTES: Final = 1024 * 1024
_MAX_PROBLEMS: Final = 100
_OF_ID: Final = ("vault", "name", "version")  # the parts of a key's id, in its order


class AgentConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """The sockets of the agent. Changes need a restart."""

    api_socket: Annotated[
        str,
        Setting(
            "The Unix socket for workloads: an absolute path of at most 107 bytes. The"
            " socket has mode 0660 and the group `skragent`. Under systemd,"
            " skragent.socket sets the path."
        ),
    ] = "/run/skragent/api.sock"
    credentials_socket: Annotated[
        str,
        Setting(
            "The Unix socket (mode 0600) from which systemd fetches credentials for"
            " units with `LoadCredential=NAME:/run/skragent/credentials.sock`. Empty:"
            " no such socket."
        ),
    ] = "/run/skragent/credentials.sock"
    admin_socket: Annotated[
        str,
        Setting(
            "The Unix socket (mode 0600) for `skragent status`, `skragent refresh`,"
            " `skragent drop`, `skragent reload` and `skragent wait --all`. Empty: no"
            " such socket."
        ),
    ] = "/run/skragent/admin.sock"
    unit_rules_without_pidfd: Annotated[
        bool,
        Setting(
            "Only for Linux before 6.5. Such a kernel cannot prove that a caller is"
            " still the process that connected. So rules on units match no caller of"
            " api.sock there. If this setting is true, the agent uses the unit of the"
            " process that has the caller's process id now. Then a local attacker gets"
            " the key if the kernel gives the attacker's process id to a process of"
            " that unit. The log and `skragent status` show whether the setting is in"
            " force. Rules on users and groups, and `LoadCredential=`, are not"
            " affected."
        ),
    ] = False
    metrics_listen: Annotated[
        str,
        Setting(
            "HOST:PORT for Prometheus (`/metrics`), an IPv6 address as `[::1]:9469`."
            " The page has no secret, but every user of the machine can read the names"
            " and states of the keys. Empty: no metrics port."
        ),
    ] = "127.0.0.1:9469"


class AttestationConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """The verifier."""

    endpoint: Annotated[
        str,
        Setting(
            "`auto` is Microsoft's shared provider of the VM's region. Else the"
            " attestation URI of your own provider,"
            " `https://NAME.REGION.attest.azure.net`. The release policies of the keys"
            " must name the same URI as their `authority`."
        ),
    ] = "auto"


class VtpmConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The sources of the evidence."""

    tcti: Annotated[
        str,
        Setting(
            "The TPM, as a TCTI string of tpm2-tss, such as `device:PATH` or"
            " `swtpm:path=SOCKET`. The unit allows only `/dev/tpmrm0`. Another device"
            " needs a drop-in with `BindPaths=` and `DeviceAllow=`, and a line for"
            " AppArmor: see skragent.service(8)."
        ),
    ] = "device:/dev/tpmrm0"
    tcg_log: Annotated[
        str,
        Setting(
            "An absolute path: the TCG event log, which is part of the evidence. Only"
            " root can read the kernel's file. So the unit passes a copy"
            " (`LoadCredential=tcglog:...`), and the agent uses the copy if this"
            " setting has its default. Empty: the evidence has no log."
        ),
    ] = "/sys/kernel/security/tpm0/binary_bios_measurements"


class ImdsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The instance metadata service."""

    endpoint: Annotated[
        str,
        Setting(
            "The address, always with http. The agent never uses a proxy for it. Only"
            " an emulator has another address."
        ),
    ] = "http://169.254.169.254"


class TrustConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """PEM files with root certificates, for emulators and private clouds.

    On Azure all three are empty. The agent reads the files whenever it attests: a
    corrected file needs neither a reload nor a restart.

    The agent skips a certificate that it cannot read, also in the system's bundle. The
    journal (`NOTE`) and `skragent check-config` name it. A file without any readable
    certificate is an error (`config.invalid`): two failed attempts in a row at a start
    end the agent. At a refresh the agent repeats the attempt and keeps held keys.
    """

    amd_roots: Annotated[
        str,
        Setting(
            "An absolute path: AMD's root keys (ARK). Empty: AMD's own, pinned by"
            " fingerprint."
        ),
    ] = ""
    tls_roots: Annotated[
        str,
        Setting(
            "An absolute path: roots for TLS to the verifier and the vaults. Empty: the"
            " system's."
        ),
    ] = ""
    release_roots: Annotated[
        str,
        Setting(
            "An absolute path: roots for the certificate that signs a release. Empty:"
            " the system's."
        ),
    ] = ""


class LimitsConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """Time limits."""

    request_timeout_seconds: Annotated[
        float,
        Setting(
            "The maximum duration of one request to a service, from name resolution to"
            " the last byte of the response. A whole job (attestation, releases,"
            " unwrapping) may take twelve times as long: then the agent kills the"
            " releaser (`releaser.timeout`) and repeats the job later.",
            0.1,
            300,
        ),
    ] = 10.0

    @property
    def job_timeout_seconds(self) -> float:
        """The maximum duration of one job of the releaser."""
        return 12 * self.request_timeout_seconds


class ServingConfig(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """Limits of each socket.

    No caller can take a socket from all other callers. The agent rejects a request
    beyond a limit with a code (`serve.connections`, `serve.busy`, `serve.rate`) and a
    Retry-After. If all users together reach a limit, the user with the most connections
    or requests loses one of them. All users that no rule names share the quota of one
    user.
    """

    connections: Annotated[
        int,
        Setting(
            "Open connections. One user may have half of them, five sixths may have a"
            " request under way, and two thirds may wait for a change (`?wait=`)."
            "\n\n"
            "systemd's `LimitNOFILE=` must allow twice as many"
            " descriptors, and about 1200 more. Else the journal has"
            " `FEW_DESCRIPTORS`.",
            1,
            65_536,
        ),
    ] = 768
    credential_wait_seconds: Annotated[
        int,
        Setting(
            "How long a unit with `LoadCredential=` waits for a key that is not held"
            " yet. Use less than the unit's `TimeoutStartSec=` (default: 90 s): after a"
            " rejection the journal has a reason, after a timeout it has none.",
            0,
            86_400,
        ),
    ] = 60


class AllowRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule of `allow`.

    A caller must match all given members. At least one of `user`, `group` and `unit`
    must be given.
    """

    user: Annotated[
        str | int | None, Setting("A user of this machine, by name or uid.")
    ] = None
    group: Annotated[
        str | int | None,
        Setting(
            "A group of this machine, by name or gid. Supplementary groups of the"
            " caller count."
        ),
    ] = None
    unit: Annotated[
        str | None,
        Setting(
            "The systemd unit of the caller: a name, a template (`app@.service`, which"
            " matches each of its instances), or a glob with `*`, `?` and `[...]`. The"
            " unit of a container is its scope, and the unit of a user's own units is"
            " `user@UID.service`."
            "\n\n"
            "Only rules with a unit and neither user nor group count for"
            " `LoadCredential=`. The names of unit (with its instance and `.service`)"
            " and credential (with `.pem`, if given) may have at most 83 characters"
            " together: systemd sends both in an address of at most 107 bytes, and does"
            " not start a unit with longer names."
        ),
    ] = None
    operations: Annotated[
        tuple[str, ...],
        Setting("`get` allows the key itself, `public` its public half."),
    ] = OPERATIONS


class KeyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table for each key; at least one is needed.

    Workloads use NAME: 1 to 64 letters, digits, `-` and `_`, beginning with a letter or
    digit.
    """

    vault: Annotated[
        str,
        Setting(
            "Required, unless `id` is given. The vault or Managed HSM,"
            " `https://NAME.vault.azure.net` or `https://NAME.managedhsm.azure.net`."
            " Use this name also for a vault with a private endpoint: in the endpoint's"
            " network the name resolves to the endpoint."
        ),
    ] = ""
    name: Annotated[
        str,
        Setting(
            "The key's name in the vault: 1 to 127 letters, digits, `-`. Empty: NAME."
        ),
    ] = ""
    version: Annotated[
        str,
        Setting(
            "One version: 32 hexadecimal digits in lower case. Empty: the latest"
            " version."
        ),
    ] = ""
    id: Annotated[
        str,
        Setting(
            "Instead of `vault`, `name` and `version`: the key's id as Azure shows it,"
            " `https://NAME.vault.azure.net/keys/KEY[/VERSION]`."
        ),
    ] = ""
    identity: Annotated[
        str,
        Setting(
            "The identity that requests the key: a name of `[identities.NAME]`. Empty:"
            " `[identity]`."
        ),
    ] = ""
    refresh_seconds: Annotated[
        int,
        Setting(
            "The interval between two releases of the key, plus or minus a tenth.",
            300,
            604_800,
            "four fifths of the token lifetime",
        ),
    ] = 0
    version_check_seconds: Annotated[
        int,
        Setting(
            "The interval between two checks for a new version, each of which is a GET"
            " request to the vault. The agent checks only if the identity has the"
            " permission `get` and `version` is empty. Else it finds a new version at"
            " the next refresh.",
            60,
            604_800,
            "never",
        ),
    ] = 3600
    max_stale_seconds: Annotated[
        int,
        Setting(
            "How long the agent serves the key after its refresh is overdue. In this"
            " time the state of the key is `stale`. The refresh is overdue one token"
            " lifetime (eight hours) after the last release. With `refresh_seconds`, it"
            " is overdue after five fourths of that interval. The maximum is 30 days.",
            0,
            2_592_000,
        ),
    ] = 86_400
    overlap_seconds: Annotated[
        int,
        Setting(
            "How long after a rotation the agent serves the previous version to callers"
            " that request it (`?version=`).",
            0,
            2_592_000,
        ),
    ] = 0
    on_denial: Annotated[
        str,
        Setting(
            "What the agent does after a confirmed denial of an authority (see"
            " skragent-errors(7)): `drop` wipes the key. `keep` continues to serve it,"
            " as after a fault: choose it if availability matters more than prompt"
            " revocation."
        ),
    ] = "drop"
    allow: Annotated[
        tuple[AllowRule, ...],
        Setting(
            "The callers that may use the key. One matching rule is enough. Without a"
            " rule no caller may use it."
        ),
    ] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    cloud: Annotated[
        str,
        Setting(
            "Azure's cloud: `public`, `usgovernment` or `china`. The agent rejects"
            " vaults of other clouds, and requests access tokens for applications from"
            " this cloud."
        ),
    ] = "public"
    agent: AgentConfig = AgentConfig()
    attestation: AttestationConfig = AttestationConfig()
    identity: Identity = Identity()
    identities: dict[str, Identity] = {}
    vtpm: VtpmConfig = VtpmConfig()
    imds: ImdsConfig = ImdsConfig()
    trust: TrustConfig = TrustConfig()
    limits: LimitsConfig = LimitsConfig()
    serving: ServingConfig = ServingConfig()
    keys: dict[str, KeyConfig] = {}


_T = TypeVar("_T", bound=msgspec.Struct)


def parse_config(text: str) -> Config:
    """Parse a configuration file's text.

    Raises:
        ConfigError: the text has problems; the error lists all of them.
    """
    config, problems = examine_config(text)
    if problems:
        raise ConfigError(in_short(problems))
    return config


def examine_config(text: str) -> tuple[Config, list[str]]:
    """Parse a configuration file's text as far as possible, and find every problem.

    A setting with a problem has its default or the value of the text. So the returned
    configuration is for further checks only.

    Raises:
        ConfigError: the text is not TOML, or too long.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise too_long()
    document = _read_toml(text)
    problems: list[str] = []
    config = _convert_table(document, Config, "", problems) or Config()
    config = _resolve_ids(config, problems)
    if document.get("keys", {}) == {}:
        problems.append("keys: no key is configured; add a [keys.NAME] table")
    return config, merge(problems, judge(config))


def merge(problems: list[str], more: list[str]) -> list[str]:
    """Add problems of other places: one problem for each setting and list entry."""
    listed = {problem.partition(": ")[0] for problem in problems}
    listed |= {p for path in listed if (p := path.rpartition(".")[0]).endswith("]")}
    return problems + [p for p in more if p.partition(": ")[0] not in listed]


def in_short(problems: list[str]) -> list[str]:
    """Shorten a long list of problems."""
    if len(problems) <= _MAX_PROBLEMS:
        return problems
    more = len(problems) - _MAX_PROBLEMS
    return [*problems[:_MAX_PROBLEMS], f"and {more} more problems"]


def too_long() -> ConfigError:
    """Return the error for a file that is too long."""
    return ConfigError([f"the file is longer than {MAX_CONFIG_BYTES} bytes"])


def _read_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = shown(error)
        cause: Exception = error
    except ValueError as error:  # int() of a very long number
        problem, cause = "a number is too long", error
    except RecursionError as error:
        problem, cause = "it is nested too deeply", error
    raise ConfigError([f"not TOML: {problem}"], code="config.syntax") from cause


def _resolve_ids(config: Config, problems: list[str]) -> Config:
    """Set vault, name and version of each key that is given by its id."""
    keys = dict(config.keys)
    for alias, key in config.keys.items():
        if not key.id:
            continue
        path = f"keys.{shown(alias)}.id"
        if given := [name for name in _OF_ID if getattr(key, name)]:
            problems.append(
                f"{path}: the id has the vault, name and version already: remove"
                f" {' and '.join(given)}, or remove id"
            )
            continue
        try:
            parts = split_key_id(key.id)
        except ValueError as error:
            problems.append(f"{path}: {error}")
            continue
        named = dict(zip(_OF_ID, parts, strict=True))
        keys[alias] = msgspec.structs.replace(key, **named)
    return msgspec.structs.replace(config, keys=keys)


def _convert(value: Any, kind: Any, path: str, problems: list[str]) -> Any:  # noqa: ANN401 - any TOML value
    """Convert one TOML value to its type, collecting problems instead of stopping.

    Return None if the value cannot be converted.
    """
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _convert_table(value, kind, path, problems)
    if get_origin(kind) is dict and isinstance(value, dict):
        inner = get_args(kind)[1]
        items = {
            k: _convert(v, inner, _join(path, k), problems) for k, v in value.items()
        }
        return {k: v for k, v in items.items() if v is not None}
    if get_origin(kind) is tuple and isinstance(value, list):
        inner = get_args(kind)[0]
        entries = [
            _convert(v, inner, f"{path}[{i}]", problems) for i, v in enumerate(value)
        ]
        # An invalid entry becomes an empty one, so that the others keep their index.
        return tuple(inner() if entry is None else entry for entry in entries)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{path}: {_in_toml_words(str(error))}")
        return None


def _in_toml_words(message: str) -> str:
    """Replace the names of JSON types in a message of msgspec by those of TOML."""
    words = {" | null": "", "`int | str`": "a whole number or a string"}
    words |= {"`object`": "a table", "`array`": "a list", "`str`": "a string"}
    words |= {"`int`": "a whole number", "`bool`": "true or false"}
    words |= {"got `float`": "got one with a point", "`float`": "a number"}
    for theirs, ours in words.items():
        message = message.replace(theirs, ours)
    return message[:1].lower() + message[1:]


def _convert_table(
    value: Any,  # noqa: ANN401 - any TOML value
    kind: type[_T],
    path: str,
    problems: list[str],
) -> _T | None:
    """Convert a table; a setting with a problem gets its default."""
    if not isinstance(value, dict):
        problems.append(f"{path}: expected a table, got {type(value).__name__}")
        return None
    types = types_of(kind)
    for name in sorted(value.keys() - types.keys()):
        setting = _join(path, name)
        removed = REMOVED.get(setting)
        problem = (
            f"removed in version 0.2: {removed}"
            if removed
            else f"no such setting{meant(name, types)}"
        )
        problems.append(f"{setting}: {problem}")
    converted = {
        name: _convert(value[name], inner, _join(path, name), problems)
        for name, inner in types.items()
        if name in value
    }
    return kind(**{k: v for k, v in converted.items() if v is not None})


def _join(path: str, name: str) -> str:
    return f"{path}.{shown(name)}" if path else shown(name)
