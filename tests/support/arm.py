"""Azure Resource Manager without Azure: a template and parameters in, resources out.

It evaluates template expressions as their reference describes them, with the functions
of packaging/azure only. Another function and a missing reference are errors. It uses no
network.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from dataclasses import dataclass
from typing import Any, TypeAlias

from support.azure_vm import VM_ID

Json: TypeAlias = Any

LOCATION = "westeurope"
TENANT_ID = "10000000-0000-4000-8000-000000000001"
VM_PRINCIPAL = "20000000-0000-4000-8000-000000000002"
USER_PRINCIPAL = "30000000-0000-4000-8000-000000000003"

_SUBSCRIPTION = "/subscriptions/40000000-0000-4000-8000-000000000004"
_GROUP = f"{_SUBSCRIPTION}/resourceGroups/skragent"
# The runtime state of deployed resources: the body, and the properties.
_STATE: dict[str, tuple[Json, Json]] = {
    "Microsoft.Compute/virtualMachines": (
        {"identity": {"principalId": VM_PRINCIPAL}},
        {"vmId": VM_ID.lower()},  # in lower case, as in Azure Resource Manager
    ),
    "Microsoft.ManagedIdentity/userAssignedIdentities": (
        {},
        {"principalId": USER_PRINCIPAL},
    ),
}
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+)|(?P<name>[A-Za-z]\w*)"
    r"|(?P<mark>[().,\[\]]))"
)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "securestring": str,
    "int": int,
    "bool": bool,
    "array": list,
    "object": dict,
}


class DeploymentError(Exception):
    """Azure Resource Manager would refuse the template or its parameters."""


@dataclass(frozen=True)
class _Expression:
    """A literal, a call, a member or an index, with its operands."""

    kind: str
    head: Json
    parts: tuple[_Expression, ...] = ()


def expressions(value: Json) -> list[str]:
    """Return all expressions of a template."""
    if isinstance(value, dict):
        return [e for pair in value.items() for v in pair for e in expressions(v)]
    if isinstance(value, list):
        return [e for member in value for e in expressions(member)]
    return [value] if _is_expression(value) else []


def calls(expression: str) -> list[tuple[str, tuple[Json, ...]]]:
    """Return all function calls of an expression, with their literal arguments."""

    def walk(node: _Expression) -> list[tuple[str, tuple[Json, ...]]]:
        literals = tuple(p.head for p in node.parts if p.kind == "literal")
        own = [(node.head, literals)] if node.kind == "call" else []
        return own + [found for part in node.parts for found in walk(part)]

    return walk(_parse(expression))


class Deployment:
    """The result of the deployment of a template.

    `resources` has the resources whose condition is true, by type: one of each type.
    """

    def __init__(self, template: Json, **parameters: Json) -> None:
        self._template = template
        self._parameters = self._given(parameters)
        self.ids = {self._id_of(r): r["type"] for r in template["resources"]}
        active = [
            r for r in template["resources"] if self._value(r.get("condition", True))
        ]
        self._active = {self._id_of(resource) for resource in active}
        self.resources = {r["type"]: self._value(r) for r in active}
        self.outputs = {
            name: self._value(output["value"])
            for name, output in template["outputs"].items()
        }

    def properties(self, kind: str) -> Json:
        """Return the properties of the resource of a type."""
        return self.resources[kind]["properties"]

    def dependencies(self) -> dict[str, list[str]]:
        """Return the ids that each resource depends on, with any condition."""
        return {
            self._id_of(r): [self._value(d) for d in r.get("dependsOn", [])]
            for r in self._template["resources"]
        }

    def _given(self, given: dict[str, Json]) -> dict[str, Json]:
        known = self._template["parameters"]
        if unknown := given.keys() - known.keys():
            raise DeploymentError(f"no such parameters: {unknown}")
        self._parameters = dict(given)
        for name, parameter in known.items():
            if name not in given and "defaultValue" not in parameter:
                raise DeploymentError(f"{name}: missing")
            if name not in given:
                self._parameters[name] = self._value(parameter["defaultValue"])
            _judge(name, parameter, self._parameters[name])
        return self._parameters

    def _id_of(self, resource: Json) -> str:
        scope = self._value(resource["scope"]) if "scope" in resource else _GROUP
        names = str(self._value(resource["name"])).split("/")
        return _resource_id(scope, resource["type"], *names)

    def _value(self, value: Json) -> Json:
        if isinstance(value, dict):
            return {self._value(n): self._value(member) for n, member in value.items()}
        if isinstance(value, list):
            return [self._value(member) for member in value]
        if _is_expression(value):
            return self._evaluate(_parse(value))
        return value[1:] if isinstance(value, str) and value[:2] == "[[" else value

    def _evaluate(self, node: _Expression) -> Json:
        if node.kind == "literal":
            return node.head
        if node.kind == "call" and node.head == "if":
            condition, *branches = node.parts
            return self._evaluate(branches[not self._evaluate(condition)])
        values = [self._evaluate(part) for part in node.parts]
        if node.kind == "call":
            return self._call(node.head, values)
        key = node.head if node.kind == "member" else values[1]
        if not isinstance(values[0], dict) or key not in values[0]:
            raise DeploymentError(f"there is no property `{key}`")
        return values[0][key]

    def _call(self, name: str, values: list[Json]) -> Json:
        function = getattr(self, f"_do_{name}", None)
        if function is None:
            raise DeploymentError(f"no such function: {name}")
        return function(*values)

    def _do_parameters(self, name: str) -> Json:
        if name not in self._parameters:
            raise DeploymentError(f"no such parameter: {name}")
        return self._parameters[name]

    def _do_variables(self, name: str) -> Json:
        if name not in self._template["variables"]:
            raise DeploymentError(f"no such variable: {name}")
        return self._value(self._template["variables"][name])

    def _do_reference(self, of: str, _version: str, full: str = "") -> Json:
        if of not in self._active:
            raise DeploymentError(f"no such resource: {of}")
        return _STATE[self.ids[of]][full != "full"]

    _do_resourceId = staticmethod(  # noqa: N815 - the function's own name
        lambda kind, *names: _resource_id(_GROUP, kind, *names)
    )
    _do_subscriptionResourceId = staticmethod(  # noqa: N815 - the function's own name
        lambda kind, *names: _resource_id(_SUBSCRIPTION, kind, *names)
    )
    _do_resourceGroup = staticmethod(  # noqa: N815 - the function's own name
        lambda: {"id": _GROUP, "location": LOCATION}
    )
    _do_subscription = staticmethod(lambda: {"tenantId": TENANT_ID})
    _do_environment = staticmethod(
        lambda: {"suffixes": {"keyvaultDns": ".vault.azure.net"}}
    )
    _do_equals = staticmethod(lambda one, other: one == other)
    _do_and = staticmethod(lambda *values: all(values))
    _do_not = staticmethod(lambda value: not value)
    _do_empty = staticmethod(lambda value: not value)
    _do_toLower = staticmethod(lambda text: text.lower())  # noqa: N815
    _do_toUpper = staticmethod(lambda text: text.upper())  # noqa: N815
    _do_replace = staticmethod(lambda text, old, new: text.replace(old, new))
    _do_base64 = staticmethod(lambda text: base64.b64encode(text.encode()).decode())
    _do_createArray = staticmethod(lambda *values: list(values))  # noqa: N815
    _do_createObject = staticmethod(  # noqa: N815 - the function's own name
        lambda *pairs: dict(zip(pairs[::2], pairs[1::2], strict=True))
    )
    _do_guid = staticmethod(
        lambda *texts: str(uuid.uuid5(uuid.NAMESPACE_URL, "-".join(texts)))
    )
    _do_uniqueString = staticmethod(  # noqa: N815 - the function's own name
        lambda *texts: hashlib.sha256("-".join(texts).encode()).hexdigest()[:13]
    )

    @staticmethod
    def _do_format(pattern: str, *values: Json) -> str:
        return pattern.format(*values)  # .NET's {0} and {{ are Python's


def _judge(name: str, parameter: Json, value: Json) -> None:
    of_type = isinstance(value, _TYPES[parameter["type"]])
    if not of_type or value not in parameter.get("allowedValues", [value]):
        raise DeploymentError(f"{name}: not allowed: {value!r}")
    size = value if isinstance(value, int) else len(value)
    least = parameter.get("minValue", parameter.get("minLength", size))
    most = parameter.get("maxValue", parameter.get("maxLength", size))
    if not least <= size <= most:
        raise DeploymentError(f"{name}: must be from {least} to {most}")


def _is_expression(value: Json) -> bool:
    return isinstance(value, str) and value[:1] == "[" and value[:2] != "[["


def _resource_id(scope: str, kind: str, *names: str) -> str:
    namespace, *types = kind.split("/")
    if len(types) != len(names):
        raise DeploymentError(f"{kind}: {len(names)} names for it: {names}")
    path = "/".join(part for pair in zip(types, names, strict=True) for part in pair)
    return f"{scope}/providers/{namespace}/{path}"


def _parse(text: str) -> _Expression:
    """Parse an expression, brackets included."""
    tokens: list[tuple[str, str]] = []
    position, end = 1, len(text) - 1
    if text[end:] != "]":
        raise DeploymentError(f"the expression does not end: {text}")
    while position < end:
        match = _TOKEN.match(text, position, end)
        if not match or not match.lastgroup:
            raise DeploymentError(f"not an expression: {text[position:]}")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    tokens.append(("end", ""))
    expression = _parse_one(tokens)
    if tokens[0][0] != "end":
        raise DeploymentError(f"more than one expression: {text}")
    return expression


def _parse_one(tokens: list[tuple[str, str]]) -> _Expression:
    kind, text = tokens.pop(0)
    if kind == "text":
        return _Expression("literal", text[1:-1].replace("''", "'"))
    if kind == "number":
        return _Expression("literal", int(text))
    if kind != "name" or tokens.pop(0) != ("mark", "("):
        raise DeploymentError(f"an expression begins with a value or a call: {text}")
    parts: list[_Expression] = []
    while tokens[0] != ("mark", ")"):
        parts.append(_parse_one(tokens))
        if tokens[0] != ("mark", ")"):
            _take(tokens, ",")
    _take(tokens, ")")
    expression = _Expression("call", text, tuple(parts))
    while tokens[0] in (("mark", "."), ("mark", "[")):
        if tokens.pop(0)[1] == ".":
            expression = _Expression("member", tokens.pop(0)[1], (expression,))
        else:
            index = _parse_one(tokens)
            _take(tokens, "]")
            expression = _Expression("index", None, (expression, index))
    return expression


def _take(tokens: list[tuple[str, str]], mark: str) -> None:
    if tokens.pop(0) != ("mark", mark):
        raise DeploymentError(f"`{mark}` is missing")
