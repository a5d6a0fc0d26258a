"""TOML -> one frozen, validated value.

`parse_config` is pure: text in, `Config` out, or one `ConfigError` that lists every
problem with its key path. Whether files, users and sockets named here exist is asked
by who uses them (`skragent check-config` asks all of them).

The field docs below and `config.example.toml` are the reference; a test holds the
two together. Durations end in `_seconds`.
"""

from __future__ import annotations

import tomllib
from typing import Any, Final, TypeVar, get_args, get_origin

import msgspec

from skragent.config_rules import OPERATIONS, judge, meant, shown, split_key_id
from skragent.errors import ConfigError

MAX_CONFIG_BYTES: Final = 1024 * 1024
_MAX_PROBLEMS: Final = 100  # more helps nobody
_OF_ID: Final = ("vault", "name", "version")  # what a key's id says, in its order


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One TOML table: what is not named here is an error."""


class AgentConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[agent]: where the daemon listens."""

    api_socket: str = "/run/skragent/api.sock"
    credentials_socket: str = "/run/skragent/credentials.sock"  # empty: none
    admin_socket: str = "/run/skragent/admin.sock"  # empty: none
    unit_rules_without_pidfd: bool = False  # Linux before 6.5: believe units anyway
    metrics_listen: str = "127.0.0.1:9469"  # HOST:PORT; empty switches it off


class AttestationConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[attestation]: the verifier."""

    endpoint: str = "auto"  # https://…attest.azure.net, or the region's shared one


class IdentityConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[identity], [identities.NAME]: who we are to the vaults.

    A user-assigned identity by one of its names; none: the system-assigned one. With a
    tenant: an application of Entra ID, by its client id and one of the files.
    """

    client_id: str = ""
    object_id: str = ""
    resource_id: str = ""
    tenant_id: str = ""
    certificate: str = ""
    secret_file: str = ""
    token_file: str = ""


class RefreshConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[refresh]: how keys are kept fresh."""

    token_fraction: float = 0.8  # of a token's life, after which it is renewed


class VtpmConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[vtpm]: where the evidence comes from."""

    tcti: str = "device:/dev/tpmrm0"
    tcg_log: str = "/sys/kernel/security/tpm0/binary_bios_measurements"


class ImdsConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[imds]: the instance metadata service."""

    endpoint: str = "http://169.254.169.254"


class TrustConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[trust]: roots other than the built-in and the system's. Paths of PEM files."""

    amd_roots: str = ""  # ARKs; empty: AMD's own, pinned by fingerprint
    tls_roots: str = ""  # for TLS to MAA and the vaults
    release_roots: str = ""  # for the certificate that signs a release


class LimitsConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[limits]: bounds in time."""

    request_timeout_seconds: float = 10.0  # one network exchange, whole
    job_timeout_seconds: float = 120.0  # the releaser is killed then


class ServingConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[serving]: bounds of each socket. Whole seconds; `serving.limits` says why."""

    connections: int = 768
    connections_per_uid: int = 384
    requests_in_flight: int = 640
    long_polls: int = 512
    answers_per_second_per_uid: int = 10_000
    head_bytes: int = 8192
    body_bytes: int = 16384
    head_timeout_seconds: int = 5
    idle_timeout_seconds: int = 75
    send_timeout_seconds: int = 10
    credential_wait_seconds: int = 60  # of a unit that starts before its key is here


class AllowRule(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of `allow`: a caller must match every member that is given."""

    user: str | int | None = None  # name or uid
    group: str | int | None = None  # name or gid; supplementary groups count
    unit: str | None = None  # systemd unit: a name, a template for instances, a glob
    operations: tuple[str, ...] = OPERATIONS  # get: the key; public: its public half


class KeyConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[keys.NAME]: one key, by the name that workloads ask for."""

    id: str = ""  # https://…/keys/NAME[/VERSION], in place of the next three
    vault: str = ""  # required, without an id
    name: str = ""  # the vault's name; empty: NAME
    version: str = ""  # 32 hex digits; empty: the latest
    identity: str = ""  # of [identities]; empty: [identity]
    refresh_seconds: int = 0  # 0: once in a token's life
    version_check_seconds: int = 3600  # a look for a new version; 0: none
    max_stale_seconds: int = 86400  # served so long after its refresh is overdue
    overlap_seconds: int = 0  # a version is served so long after its successor came
    on_denial: str = "drop"  # or keep: until max_stale_seconds is over
    allow: tuple[AllowRule, ...] = ()  # empty: nobody


class Config(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    cloud: str = "public"  # Azure's: public, usgovernment, china
    agent: AgentConfig = AgentConfig()
    attestation: AttestationConfig = AttestationConfig()
    identity: IdentityConfig = IdentityConfig()
    identities: dict[str, IdentityConfig] = {}
    refresh: RefreshConfig = RefreshConfig()
    vtpm: VtpmConfig = VtpmConfig()
    imds: ImdsConfig = ImdsConfig()
    trust: TrustConfig = TrustConfig()
    limits: LimitsConfig = LimitsConfig()
    serving: ServingConfig = ServingConfig()
    keys: dict[str, KeyConfig] = {}


_T = TypeVar("_T", bound=_Table)


def parse_config(text: str) -> Config:
    """Read a configuration file's text.

    Raises:
        ConfigError: with every problem that the text has.
    """
    config, problems = examine_config(text)
    if problems:
        raise ConfigError(in_short(problems))
    return config


def examine_config(text: str) -> tuple[Config, list[str]]:
    """Read what can be read of a configuration file's text, and find every problem.

    For who has more to ask of the rest. What has a problem has its default instead, or
    is still what the text says: it is fit for looking at, and not for use.

    Raises:
        ConfigError: it is no TOML, or too long.
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
    """Add what is not told of yet: one problem for each place, and each list entry."""
    told = {problem.partition(": ")[0] for problem in problems}
    told |= {p for path in told if (p := path.rpartition(".")[0]).endswith("]")}
    return problems + [p for p in more if p.partition(": ")[0] not in told]


def in_short(problems: list[str]) -> list[str]:
    """Leave out what nobody would read to the end."""
    if len(problems) <= _MAX_PROBLEMS:
        return problems
    more = len(problems) - _MAX_PROBLEMS
    return [*problems[:_MAX_PROBLEMS], f"and {more} problems more"]


def too_long() -> ConfigError:
    """Refuse a file for its length alone."""
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

    Gives None where there is nothing to go on with.
    """
    if isinstance(kind, type) and issubclass(kind, _Table):
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
        # What is no entry leaves an empty one: the others keep their places.
        return tuple(inner() if entry is None else entry for entry in entries)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{path}: {_in_toml_words(str(error))}")
        return None


def _in_toml_words(message: str) -> str:
    """Say what msgspec says of JSON, in the words of who writes TOML."""
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
    """Convert a table; what is wrong in it has its default."""
    if not isinstance(value, dict):
        problems.append(f"{path}: expected a table, got {type(value).__name__}")
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    problems += [
        f"{_join(path, name)}: no such setting{meant(name, fields)}"
        for name in sorted(value.keys() - fields.keys())
    ]
    converted = {
        name: _convert(value[name], field.type, _join(path, name), problems)
        for name, field in fields.items()
        if name in value
    }
    return kind(**{k: v for k, v in converted.items() if v is not None})


def _join(path: str, name: str) -> str:
    return f"{path}.{shown(name)}" if path else shown(name)
