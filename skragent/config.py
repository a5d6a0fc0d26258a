"""TOML -> one frozen, validated value.

`parse_config` is pure: text in, `Config` out, or one `ConfigError` that lists every
problem with its key path. Whether files, users and sockets named here exist is asked
by who uses them (`skragent check-config` asks all of them).

The field docs below and `config.example.toml` are the reference; a test holds the
two together. Durations end in `_seconds`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import urllib.parse
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from skragent.errors import ConfigError
from skragent.job import MAX_KEYS

MAX_CONFIG_BYTES = 1024 * 1024

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VAULT_KEY_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")  # Key Vault: object-name
_VERSION = re.compile(r"[0-9a-f]{32}")  # Key Vault: object-version
_TCTI = re.compile(r"(device|swtpm|mssim|tabrmd|cmd)(:.*)?", re.DOTALL)


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One TOML table: what is not named here is an error."""


class AgentConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[agent]: where the daemon listens."""

    api_socket: str = "/run/skragent/api.sock"
    metrics_listen: str = "127.0.0.1:9469"  # HOST:PORT; empty switches it off


class AttestationConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[attestation]: the verifier."""

    endpoint: str = "auto"  # https://…attest.azure.net, or the region's shared one


class IdentityConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[identity]: who we are to the vaults."""

    client_id: str = ""  # of a user-assigned identity; empty: system-assigned


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

    request_timeout_seconds: float = 10.0  # one network operation
    job_timeout_seconds: float = 120.0  # the releaser is killed then


class AllowRule(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry of `allow`: a caller must match every member that is given."""

    user: str | int | None = None  # name or uid
    group: str | int | None = None  # name or gid; supplementary groups count


class KeyConfig(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """[keys.NAME]: one key, by the name that workloads ask for."""

    vault: str
    name: str = ""  # the vault's name; empty: NAME
    version: str = ""  # 32 hex digits; empty: the latest
    allow: tuple[AllowRule, ...] = ()  # empty: nobody


class Config(_Table, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    agent: AgentConfig = AgentConfig()
    attestation: AttestationConfig = AttestationConfig()
    identity: IdentityConfig = IdentityConfig()
    vtpm: VtpmConfig = VtpmConfig()
    imds: ImdsConfig = ImdsConfig()
    trust: TrustConfig = TrustConfig()
    limits: LimitsConfig = LimitsConfig()
    keys: dict[str, KeyConfig] = {}


_T = TypeVar("_T", bound=_Table)


def parse_config(text: str) -> Config:
    """Read a configuration file's text.

    Raises:
        ConfigError: with every problem that the text has.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError([f"the file is longer than {MAX_CONFIG_BYTES} characters"])
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError([f"not TOML: {error}"], code="config.syntax") from error
    problems: list[str] = []
    config: Config | None = _convert_table(document, Config, "", problems)
    if config is not None:
        problems += _judge(config)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _convert(value: Any, kind: Any, path: str, problems: list[str]) -> Any:  # noqa: ANN401 - any TOML value
    """Convert one TOML value to its type, collecting problems instead of stopping."""
    if isinstance(kind, type) and issubclass(kind, _Table):
        return _convert_table(value, kind, path, problems)
    if get_origin(kind) is dict and isinstance(value, dict):
        inner = get_args(kind)[1]
        items = {
            k: _convert(v, inner, _join(path, k), problems) for k, v in value.items()
        }
        return None if any(v is None for v in items.values()) else items
    if get_origin(kind) is tuple and isinstance(value, list):
        inner = get_args(kind)[0]
        entries = [
            _convert(v, inner, f"{path}[{i}]", problems) for i, v in enumerate(value)
        ]
        return None if any(v is None for v in entries) else tuple(entries)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{path}: {_in_toml_words(str(error))}")
        return None


def _in_toml_words(message: str) -> str:
    """Say what msgspec says of JSON, in the words of who writes TOML."""
    words = {"`object`": "a table", "`array`": "a list", "`str`": "a string"}
    for theirs, ours in words.items():
        message = message.replace(theirs, ours)
    return message[:1].lower() + message[1:]


def _convert_table(
    value: Any,  # noqa: ANN401 - any TOML value
    kind: type[_T],
    path: str,
    problems: list[str],
) -> _T | None:
    if not isinstance(value, dict):
        problems.append(f"{path}: expected a table, got {type(value).__name__}")
        return None
    before = len(problems)
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for name in sorted(value.keys() - fields.keys()):
        near = difflib.get_close_matches(name, fields, 1)
        meant = f"; did you mean `{near[0]}`?" if near else ""
        problems.append(f"{_join(path, name)}: no such setting{meant}")
    converted: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            converted[name] = _convert(
                value[name], field.type, _join(path, name), problems
            )
        elif field.required:
            problems.append(f"{_join(path, name)}: missing")
    if len(problems) > before:
        return None
    return kind(**converted)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _judge(config: Config) -> list[str]:
    """Find what types cannot say; one full sentence each."""
    problems = _judge_paths(config) + _judge_limits(config.limits)
    if config.agent.metrics_listen and not _is_host_port(config.agent.metrics_listen):
        problems.append("agent.metrics_listen: must be HOST:PORT, or empty for none")
    if config.attestation.endpoint != "auto":
        problems += _judge_url("attestation.endpoint", config.attestation.endpoint)
    if not _TCTI.fullmatch(config.vtpm.tcti):
        problems.append(
            "vtpm.tcti: must be a TCTI string such as device:/dev/tpmrm0"
            " or swtpm:path=/run/tpm.sock"
        )
    problems += _judge_url("imds.endpoint", config.imds.endpoint, schemes=("http",))
    if not config.keys:
        problems.append("keys: no key is configured; add a [keys.NAME] table")
    if len(config.keys) > MAX_KEYS:
        problems.append(f"keys: at most {MAX_KEYS} keys, these are {len(config.keys)}")
    for alias, key in config.keys.items():
        problems += _judge_key(alias, key)
    return problems


def _judge_paths(config: Config) -> list[str]:
    paths = {"agent.api_socket": config.agent.api_socket} | {
        f"trust.{name}": getattr(config.trust, name)
        for name in ("amd_roots", "tls_roots", "release_roots")
        if getattr(config.trust, name)
    }
    return [
        f"{name}: must be an absolute path, not `{path}`"
        for name, path in paths.items()
        if not path.startswith("/")
    ]


def _judge_limits(limits: LimitsConfig) -> list[str]:
    problems = []
    if not 0.1 <= limits.request_timeout_seconds <= 300:  # noqa: PLR2004 - said right below
        problems.append("limits.request_timeout_seconds: must be from 0.1 to 300")
    if not 1 <= limits.job_timeout_seconds <= 3600:  # noqa: PLR2004 - said right below
        problems.append("limits.job_timeout_seconds: must be from 1 to 3600")
    return problems


def _judge_key(alias: str, key: KeyConfig) -> list[str]:
    path = f"keys.{alias}"
    problems = _judge_url(f"{path}.vault", key.vault)
    if not _ALIAS.fullmatch(alias):
        problems.append(
            f"{path}: a key's name is 1 to 64 letters, digits, `-` and `_`,"
            " and begins with a letter or digit"
        )
    name = key.name or alias
    if not _VAULT_KEY_NAME.fullmatch(name):
        problems.append(
            f"{path}.name: `{name}` is no vault key name"
            " (1 to 127 letters, digits and `-`)"
        )
    if key.version and not _VERSION.fullmatch(key.version):
        problems.append(f"{path}.version: must be 32 lower-case hex digits, or empty")
    for i, rule in enumerate(key.allow):
        if rule.user is None and rule.group is None:
            problems.append(f"{path}.allow[{i}]: names nobody; give `user` or `group`")
        for member in ("user", "group"):
            who = getattr(rule, member)
            if who == "" or (isinstance(who, int) and not 0 <= who < 2**32 - 1):
                problems.append(
                    f"{path}.allow[{i}].{member}: no such {member}: {who!r}"
                )
    return problems


def _judge_url(
    path: str, url: str, *, schemes: tuple[str, ...] = ("https",)
) -> list[str]:
    """Accept an origin: scheme, host, maybe a port, nothing that would be ignored."""
    try:
        parts = urllib.parse.urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        return [f"{path}: `{url}` is not a URL"]
    if parts.scheme not in schemes or not parts.hostname or not port_is_good:
        return [f"{path}: must be {schemes[0]}://HOST[:PORT], not `{url}`"]
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        return [f"{path}: only {schemes[0]}://HOST[:PORT], nothing after it: `{url}`"]
    return []


def _is_host_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and 0 < int(port) < 2**16
