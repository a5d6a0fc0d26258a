"""Compile Bicep to an ARM template: the part of the language in packaging/azure.

No package registry has Bicep's compiler, so this module is a stand-in. pycep parses,
and the output follows Bicep's documentation. `python -m support.bicep`, in tests/,
writes packaging/azure/main.json.

pycep returns a literal and a symbol as the same string. This module takes a string
for a symbol if the symbol is declared. `ambiguous_literals` finds literals for which
this is wrong.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pycep import BicepParser

if TYPE_CHECKING:
    from collections.abc import Iterable

Json: TypeAlias = Any

AZURE = Path(__file__).resolve().parents[2] / "packaging" / "azure"
_SCHEMA = (
    "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
)
_DECORATORS = {
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_value": "minValue",
    "max_value": "maxValue",
    "allowed": "allowedValues",
}
_LITERAL = re.compile(r"'((?:[^'\\\n]|\\.)*)'")


_PARSER = BicepParser(add_line_numbers=False)


@functools.cache
def parse(source: str) -> Json:
    """Parse Bicep; broken syntax raises lark's UnexpectedInput."""
    return _PARSER.parse(text=source)


def ambiguous_literals(source: str) -> set[str]:
    """Return the literals that are equal to a declared name."""
    tree = parse(source)
    declared = {
        *tree.get("parameters", {}),
        *tree.get("variables", {}),
        *tree.get("resources", {}),
    }
    code = "\n".join(
        line for line in source.splitlines() if not line.startswith(("//", "@"))
    )
    return declared & set(_LITERAL.findall(code))


def compile_file(path: Path, source: str | None = None) -> Json:
    """Compile a file, or a text in its place, to an ARM template."""
    tree = parse(path.read_text() if source is None else source)
    return _Compiler(tree, path.parent).template()


class _Compiler:
    def __init__(self, tree: Json, folder: Path) -> None:
        self._folder = folder
        self._parameters: Json = tree.get("parameters", {})
        self._variables: Json = tree.get("variables", {})
        self._resources: Json = tree.get("resources", {})
        self._outputs: Json = tree.get("outputs", {})
        self._files: dict[str, Json] = {}
        # The resources that the present expression refers to.
        self._used: set[str] = set()
        self._known: dict[str, tuple[str, set[str]]] = {}

    def template(self) -> Json:
        parameters = {n: self._parameter(p) for n, p in self._parameters.items()}
        resources = [self._resource(name) for name in self._resources]
        outputs = {n: self._output(o) for n, o in self._outputs.items()}
        variables = {
            name: self._value(variable["value"])
            for name, variable in self._variables.items()
            if not self._is_runtime(name)
        }
        return {
            "$schema": _SCHEMA,
            "contentVersion": "1.0.0.0",
            "parameters": parameters,
            "variables": self._files | variables,
            "resources": resources,
            "outputs": outputs,
        }

    def _parameter(self, parameter: Json) -> Json:
        compiled: Json = {"type": parameter["type"]}
        if parameter["default"] is not None:
            compiled["defaultValue"] = self._value(parameter["default"])
        for decorator in parameter["decorators"]:
            kind = decorator["type"]
            if kind == "secure":
                compiled["type"] = f"secure{parameter['type']}"
            elif kind == "description":
                text = _unescaped(decorator["argument"])
                compiled["metadata"] = {"description": text}
            else:
                compiled[_DECORATORS[kind]] = decorator["argument"]
        return compiled

    def _output(self, output: Json) -> Json:
        compiled: Json = {"type": output["type"]}
        for decorator in output["decorators"]:
            text = _unescaped(decorator["argument"])
            compiled["metadata"] = {"description": text}
        compiled["value"] = self._value(output["value"])
        return compiled

    def _resource(self, symbol: str) -> Json:
        resource = self._resources[symbol]
        config = resource["config"]
        compiled: Json = {}
        self._used = set()
        if "condition" in config:
            compiled["condition"] = self._value(config["condition"])
            config = config["config"]
        compiled["type"] = resource["type"]
        compiled["apiVersion"] = resource["api_version"]
        body = dict(config)
        if "scope" in body:
            compiled["scope"] = f"[{self._id(body.pop('scope'))}]"
        compiled["name"] = self._name(symbol)
        del body["name"]
        if parent := body.pop("parent", None):
            self._used.add(parent)
        compiled |= {name: self._value(value) for name, value in body.items()}
        if self._used:
            ids = [f"[{self._id(used)}]" for used in sorted(self._used)]
            compiled["dependsOn"] = ids
        return compiled

    def _name(self, symbol: str) -> Json:
        names = self._names(symbol)
        if len(names) == 1:
            return self._value(self._config(symbol)["name"])
        slots = "/".join(f"{{{index}}}" for index in range(len(names)))
        return f"[format({', '.join([_quoted(slots), *names])})]"

    def _names(self, symbol: str) -> list[str]:
        config = self._config(symbol)
        above = self._names(config["parent"]) if "parent" in config else []
        return [*above, self._expression(config["name"])]

    def _config(self, symbol: str) -> Json:
        config = self._resources[symbol]["config"]
        return config["config"] if "condition" in config else config

    def _id(self, symbol: str) -> str:
        self._used.add(symbol)
        kind = _quoted(self._resources[symbol]["type"])
        return f"resourceId({', '.join([kind, *self._names(symbol)])})"

    def _is_runtime(self, variable: str) -> bool:
        """Return whether a value depends on resources; such a value is inserted."""
        return "reference(" in self._variable(variable)[0]

    def _variable(self, name: str) -> tuple[str, set[str]]:
        """Return a variable's expression and the resources that it refers to."""
        if name not in self._known:
            used, self._used = self._used, set()
            expression = self._expression(self._variables[name]["value"])
            self._known[name] = (expression, self._used)
            self._used = used
        return self._known[name]

    def _value(self, value: Json) -> Json:
        """Return a value as JSON, with expressions in brackets."""
        if isinstance(value, list):
            return [self._value(member) for member in value]
        if isinstance(value, dict) and not value.keys() & {"operator", "function"}:
            return {self._key(n): self._value(member) for n, member in value.items()}
        if isinstance(value, str) and not self._is_symbol(value) and "${" not in value:
            text = _unescaped(value)
            return f"[{text}" if text.startswith("[") else text
        if isinstance(value, bool | int):
            return value
        return f"[{self._expression(value)}]"

    def _key(self, name: str) -> str:
        if not name.startswith("'"):
            return name
        return f"[{self._expression(name[1:-1])}]"

    def _is_symbol(self, text: str) -> bool:
        return text in self._parameters or text in self._variables

    def _expression(self, value: Json) -> str:
        if isinstance(value, bool | None):
            return f"{json.dumps(value)}()"
        if isinstance(value, int):
            return str(value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            return _call("createArray", map(self._expression, value))
        return self._object(value)

    def _object(self, value: Json) -> str:
        if "function" in value:
            return self._function(value["function"])
        if "operator" in value:
            return self._operator(value["operator"])
        members: list[str] = []
        for name, member in value.items():
            key = self._text(name[1:-1]) if name.startswith("'") else _quoted(name)
            members += [key, self._expression(member)]
        return _call("createObject", members)

    def _text(self, text: str) -> str:
        if text in self._parameters:
            return f"parameters('{text}')"
        if text in self._variables:
            expression, used = self._variable(text)
            self._used |= used
            return expression if self._is_runtime(text) else f"variables('{text}')"
        if "${" in text:
            return self._interpolation(text)
        return _quoted(_unescaped(text))

    def _interpolation(self, text: str) -> str:
        pieces = re.split(r"\$\{([^}]*)\}", text)
        slots, arguments = "", []
        for index, piece in enumerate(pieces):
            if index % 2:
                tree = parse(f"var it = {piece}")
                arguments.append(self._expression(tree["variables"]["it"]["value"]))
                slots += f"{{{index // 2}}}"
            else:
                slots += _unescaped(piece).replace("{", "{{").replace("}", "}}")
        return _call("format", [_quoted(slots), *arguments])

    def _function(self, function: Json) -> str:
        parameters = function.get("parameters", {})
        given = [value for value in parameters.values() if value is not None]
        name = re.sub(r"_(\w)", lambda m: m[1].upper(), function["type"])
        if name in ("loadTextContent", "loadJsonContent"):
            text = (self._folder / given[0]).read_text()
            content = text if name == "loadTextContent" else json.loads(text)
            return f"variables('{self._file(content)}')"
        return _call(name, map(self._expression, given))

    def _file(self, content: Json) -> str:
        for name, known in self._files.items():
            if known == content:
                return name
        name = f"$fxv#{len(self._files)}"
        self._files[name] = content
        return name

    def _operator(self, operator: Json) -> str:
        operands = operator["operands"]
        kind = operator["type"]
        if kind == "property_accessor":
            return self._access(operands["operand_1"], _path(operands["operand_2"]))
        if kind == "index_accessor":
            of = self._expression(operands["operand_1"])
            return f"{of}[{self._expression(operands['operand_2'])}]"
        name = {"conditional": "if"}.get(kind, kind)
        if name not in ("if", "equals", "and", "or", "not"):
            raise NotImplementedError(name)
        return _call(name, map(self._expression, operands.values()))

    def _access(self, of: Json, path: list[str]) -> str:
        if not isinstance(of, str) or of not in self._resources:
            return ".".join([self._expression(of), *path])
        if path == ["id"]:
            return self._id(of)
        version = _quoted(self._resources[of]["api_version"])
        if path[0] == "properties":
            called = _call("reference", [self._id(of), version])
            return ".".join([called, *path[1:]])
        called = _call("reference", [self._id(of), version, "'full'"])
        return ".".join([called, *path])


def _path(operand: Json) -> list[str]:
    if isinstance(operand, str):
        return [operand]
    inner = operand["operator"]["operands"]
    return [inner["operand_1"], *_path(inner["operand_2"])]


def _call(name: str, arguments: Iterable[str]) -> str:
    return f"{name}({', '.join(arguments)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _unescaped(text: str) -> str:
    escapes = {"n": "\n", "r": "\r", "t": "\t"}
    return re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[1]), text)


if __name__ == "__main__":
    compiled = json.dumps(compile_file(AZURE / "main.bicep"), indent=2)
    (AZURE / "main.json").write_text(compiled + "\n")
