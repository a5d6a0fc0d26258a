"""Rules that the types of the configuration do not express: paths, origins, names.

Pure functions from a `Config` to problems, each one sentence with the path of its
setting. They do not check that files, users and sockets exist. A problem repeats only a
short, printable part of a value, and never an address with a user or password.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from typing import TYPE_CHECKING, Final

from skragent.clouds import CLOUDS, cloud_of
from skragent.config_settings import judge_bounds
from skragent.job import ALIAS_PATTERN, MAX_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skragent.config import AllowRule, Config, KeyConfig
    from skragent.identity import Identity

MAX_SHOWN: Final = 80
_MAX_SHOWN_BITS: Final = 128
_MAX_SOCKET_PATH_BYTES: Final = 107  # sockaddr_un.sun_path with its NUL: unix(7)
_SOCKETS: Final = ("api_socket", "credentials_socket", "admin_socket")
_TRUST_FILES: Final = ("amd_roots", "tls_roots", "release_roots")
_FILES: Final = ("certificate", "secret_file", "token_file")
_MAX_NAME: Final = 256
_MAX_HOST: Final = 253
_MAX_PORT: Final = 2**16 - 1

_ALIAS: Final = re.compile(ALIAS_PATTERN)
_VAULT_KEY_NAME: Final = re.compile(r"[0-9A-Za-z-]{1,127}")  # Key Vault: object-name
_VERSION: Final = re.compile(r"[0-9a-f]{32}")  # Key Vault: object-version
# Key Vault: kid, a key's identifier.
_KEY_ID: Final = re.compile(r"(https://[^/]*)/keys/([^/]*)(?:/([^/]*))?")
_TCTI: Final = re.compile(r"(device|swtpm|mssim|tabrmd|cmd)(:.*)?")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# Azure Resource Manager's name of a user-assigned identity; letters' case is ignored.
_RESOURCE_ID: Final = re.compile(
    r"/subscriptions/[0-9a-f-]{36}/resourcegroups/[\w.()-]{1,90}"
    r"/providers/microsoft\.managedidentity/userassignedidentities/[\w-]{1,128}",
    re.IGNORECASE,
)
# systemd.unit(5), without `slice`: a process is never directly in a slice.
UNIT_TYPES: Final = (
    *("service", "scope", "socket", "mount", "swap", "timer"),
    *("path", "device", "automount", "target"),
)
_MAX_UNIT: Final = 256
# Names and globs of units: systemd.unit(5), fnmatch(3). A `[` must be closed.
_UNIT_CLASS: Final = re.compile(r"\[!?[A-Za-z0-9:_.\\@-]+\]")
_UNIT: Final = re.compile(rf"([A-Za-z0-9:_.\\@*?-]|{_UNIT_CLASS.pattern})+")
_UNIT_END: Final = re.compile(rf".*(\*|[^.]\.({'|'.join(UNIT_TYPES)}))")
OPERATIONS: Final = ("get", "public")
ON_DENIAL: Final = ("drop", "keep")
_LABEL: Final = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")


def shown(value: object) -> str:
    """Return a value as a short text on one line."""
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN_BITS:
        return "a very large number"  # str() raises for more than 4300 digits
    text = _cut(str(value))
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return _cut(text)  # an escape has up to ten characters


def _cut(text: str) -> str:
    """Remove the middle of a text that is too long."""
    if len(text) <= MAX_SHOWN:
        return text
    return f"{text[: MAX_SHOWN - 32]}…{text[-31:]}"  # TOML errors end with the place


def meant(name: str, known: Iterable[str]) -> str:
    """Return a hint with the most similar known name, if there is one."""
    if len(name) > MAX_SHOWN:
        return ""
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def split_key_id(key_id: str) -> tuple[str, str, str]:
    """Split a vault's id of a key: vault, name, and version or an empty text.

    Raises:
        ValueError: the text is not such an id. The message is for people.
    """
    match = _KEY_ID.fullmatch(key_id)
    vault, name, version = match.groups() if match else ("", "", None)
    given = "" if "@" in key_id else f", not `{shown(key_id)}`"
    if _judge_origin("", vault) or not _VAULT_KEY_NAME.fullmatch(name):
        raise ValueError(f"must be https://HOST/keys/NAME[/VERSION]{given}")
    if not (version is None or _VERSION.fullmatch(version)):
        raise ValueError(
            "the version behind NAME must be 32 hexadecimal digits in lower case,"
            f" or left out{given}"
        )
    return vault, name, version or ""


def vault_setting(key: KeyConfig) -> str:
    """Return the name of the setting that names a key's vault."""
    return "id" if key.id else "vault"


def judge(config: Config) -> list[str]:
    """Find every problem."""
    problems = _judge_paths(config)
    problems += judge_bounds(config.limits, "limits")
    problems += judge_bounds(config.serving, "serving")
    if config.agent.metrics_listen and not _is_host_port(config.agent.metrics_listen):
        problems.append("agent.metrics_listen: must be HOST:PORT, or empty for none")
    if config.attestation.endpoint != "auto":
        problems += _judge_origin("attestation.endpoint", config.attestation.endpoint)
    problems += _judge_cloud(config)
    problems += _judge_identity("identity", config.identity)
    for name, identity in config.identities.items():
        path = f"identities.{shown(name)}"
        if not _ALIAS.fullmatch(name):
            problems.append(f"{path}: a name is 1 to 64 letters, digits, `-` and `_`")
        problems += _judge_identity(path, identity)
    if not (_TCTI.fullmatch(config.vtpm.tcti) and config.vtpm.tcti.isprintable()):
        problems.append(
            "vtpm.tcti: must be a TCTI string such as device:/dev/tpmrm0"
            " or swtpm:path=/run/tpm.sock"
        )
    problems += _judge_origin("imds.endpoint", config.imds.endpoint, scheme="http")
    if len(config.keys) > MAX_KEYS:
        problems.append(f"keys: at most {MAX_KEYS} keys, these are {len(config.keys)}")
    for alias, key in config.keys.items():
        problems += _judge_key(alias, key)
        if key.identity and key.identity not in config.identities:
            problems.append(
                f"keys.{shown(alias)}.identity: there is no"
                f" [identities.{shown(key.identity)}]"
                f"{meant(key.identity, config.identities)}"
            )
    return problems


def _judge_cloud(config: Config) -> list[str]:
    """Reject an unknown cloud, and vaults of another cloud."""
    if config.cloud not in CLOUDS:
        near = meant(config.cloud, CLOUDS)
        return [f"cloud: must be one of {', '.join(CLOUDS)}{near}"]
    problems = []
    for alias, key in config.keys.items():
        home = cloud_of(key.vault)
        if home not in ("", config.cloud):
            problems.append(
                f"keys.{shown(alias)}.{vault_setting(key)}: this vault is in another"
                f' cloud of Azure: set cloud = "{home}"'
            )
    return problems


def _judge_application(path: str, identity: Identity) -> list[str]:
    """Check the settings of an application of Entra ID."""
    files = {n: v for n in _FILES if (v := getattr(identity, n))}
    problems = [
        f"{path}.{name}: must be an absolute path, not `{shown(value)}`"
        for name, value in files.items()
        if not value.startswith("/") or not value.isprintable()
    ]
    if not identity.tenant_id:
        return problems + [
            f"{path}.{name}: only for an application: give tenant_id and client_id"
            for name in files
        ]
    if not (_UUID.fullmatch(identity.tenant_id) or _is_host(identity.tenant_id)):
        problems.append(f"{path}.tenant_id: must be a UUID or a domain")
    if not identity.client_id:
        problems.append(f"{path}.client_id: missing: it is required with tenant_id")
    if len(files) != 1:
        problems.append(f"{path}: give one of {', '.join(_FILES)} with tenant_id")
    return problems


def _judge_identity(path: str, identity: Identity) -> list[str]:
    problems = [
        f"{path}.{name}: must be a UUID, or empty"
        for name in ("client_id", "object_id")
        if (value := getattr(identity, name)) and not _UUID.fullmatch(value)
    ]
    if identity.resource_id and not _RESOURCE_ID.fullmatch(identity.resource_id):
        problems.append(
            f"{path}.resource_id: must be /subscriptions/…/resourceGroups/…/providers/"
            "Microsoft.ManagedIdentity/userAssignedIdentities/NAME, or empty"
        )
    names = (identity.client_id, identity.object_id, identity.resource_id)
    if sum(map(bool, names)) > 1:
        problems.append(
            f"{path}: give one of client_id, object_id and resource_id: each names the"
            " identity alone"
        )
    return problems + _judge_application(path, identity)


def _judge_paths(config: Config) -> list[str]:
    """Reject relative paths: their meaning depends on the working directory."""
    optional = {f"trust.{n}": getattr(config.trust, n) for n in _TRUST_FILES}
    optional["vtpm.tcg_log"] = config.vtpm.tcg_log
    sockets = {f"agent.{n}": getattr(config.agent, n) for n in _SOCKETS}
    paths = {n: p for n, p in sockets.items() if p or n == "agent.api_socket"}
    paths |= {name: path for name, path in optional.items() if path}
    problems = [
        f"{name}: must be an absolute path, not `{shown(path)}`"
        for name, path in paths.items()
        if not path.startswith("/") or not path.isprintable()
    ]
    problems += [
        f"{name}: a socket's path has at most {_MAX_SOCKET_PATH_BYTES} bytes"
        for name, path in sockets.items()
        if len(path.encode()) > _MAX_SOCKET_PATH_BYTES
    ]
    problems += [
        f"{name}: another socket has this path"
        for i, (name, path) in enumerate(sockets.items())
        if path and path in list(sockets.values())[:i]
    ]
    return problems


def _judge_key(alias: str, key: KeyConfig) -> list[str]:
    path = f"keys.{shown(alias)}"
    if key.vault:
        problems = _judge_origin(f"{path}.vault", key.vault)
    else:
        problems = [] if key.id else [f"{path}.vault: missing; give vault or id"]
    if not _ALIAS.fullmatch(alias):
        problems.append(
            f"{path}: a key's name is 1 to 64 letters, digits, `-` and `_`,"
            " and begins with a letter or digit"
        )
    name = key.name or alias
    if not (_VAULT_KEY_NAME.fullmatch(name) or key.id):
        # With an id, `split_key_id` judges the name.
        given = (
            "" if key.name else "missing; give the key's name in the vault, because "
        )
        problems.append(
            f"{path}.name: {given}`{shown(name)}` cannot be a key's name in a vault"
            " (1 to 127 letters, digits and `-`)"
        )
    if key.version and not _VERSION.fullmatch(key.version):
        problems.append(
            f"{path}.version: must be 32 hexadecimal digits in lower case, or empty"
        )
    problems += _judge_lifetime(path, key)
    for i, rule in enumerate(key.allow):
        problems += _judge_rule(f"{path}.allow[{i}]", rule)
    return problems


def _judge_lifetime(path: str, key: KeyConfig) -> list[str]:
    problems = list(judge_bounds(key, path))
    if key.on_denial not in ON_DENIAL:
        near = meant(key.on_denial, ON_DENIAL)
        problems.append(f"{path}.on_denial: must be `drop` or `keep`{near}")
    return problems


def _judge_rule(path: str, rule: AllowRule) -> list[str]:
    problems = []
    if rule.user is None and rule.group is None and rule.unit is None:
        problems.append(f"{path}: matches no caller: give `user`, `group` or `unit`")
    problems += [
        f"{path}.{member}: no such {member}: `{shown(name)}`"
        for member in ("user", "group")
        if (name := getattr(rule, member)) is not None and not _is_user_or_group(name)
    ]
    if rule.unit is not None and (problem := _unit_problem(rule.unit)):
        problems.append(f"{path}.unit: {problem}, not `{shown(rule.unit)}`")
    if not rule.operations:
        problems.append(f"{path}.operations: must name one of {', '.join(OPERATIONS)}")
    for i, operation in enumerate(rule.operations):
        if operation not in OPERATIONS:
            near = meant(operation, OPERATIONS)
            said = f"no such operation: `{shown(operation)}`{near}"
            problems.append(f"{path}.operations[{i}]: {said}")
        elif operation in rule.operations[:i]:
            problems.append(f"{path}.operations[{i}]: `{operation}` is listed twice")
    return problems


def _unit_problem(unit: str) -> str:
    """Return why a text cannot be a unit's name or a glob of them."""
    if len(unit) > _MAX_UNIT:
        return f"has at most {_MAX_UNIT} characters"
    if unit.endswith(".slice"):
        return "must not be a slice: a slice has units and no processes"
    if not _UNIT.fullmatch(unit):
        return "must be a unit's name, or a glob with `*`, `?` and `[…]`"
    if not _UNIT_END.fullmatch(unit):
        return "must end with `.service` or another type of unit, or with `*`"
    ranges = re.findall(r"(.)-(.)", "".join(_UNIT_CLASS.findall(unit)))
    if any(first > last for first, last in ranges):
        return "must not have a range such as [z-a]"
    return ""


def _is_user_or_group(name: str | int) -> bool:
    if isinstance(name, int):
        return 0 <= name < 2**32 - 1  # 2**32 - 1 is not an id: chown(2)
    return 0 < len(name) <= _MAX_NAME and name.isprintable()


def _judge_origin(path: str, url: str, *, scheme: str = "https") -> list[str]:
    """Accept only a scheme, a host and optionally a port.

    urlsplit is not strict enough: it removes line breaks, and its results for
    `https://h?` and `https://h` are equal.
    """
    start = f"{scheme}://"
    if url.startswith(start) and _is_authority(url[len(start) :].removesuffix("/")):
        return []
    given = "" if "@" in url else f", not `{shown(url)}`"
    return [f"{path}: must be {start}HOST[:PORT] and nothing after it{given}"]


def _is_authority(text: str) -> bool:
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return False
    host, port = match.groups()
    is_port = port is None or 0 < int(port) <= _MAX_PORT
    if host.startswith("["):
        return is_port and _is_ipv6(host[1:-1])
    return is_port and _is_host(host)


def _is_host_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    is_port = re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) <= _MAX_PORT
    if host.startswith("[") and host.endswith("]"):
        return bool(is_port) and _is_ipv6(host[1:-1])
    return bool(is_port) and (_is_host(host) or _is_ipv6(host))


def _is_host(text: str) -> bool:
    return len(text) <= _MAX_HOST and _HOST.fullmatch(text) is not None


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False
