"""Every error code that the source can raise, with its disposition.

The codes come from the source's syntax trees, because no test can raise all errors. A
code is a string that matches CODE, or the class's own code if a call that creates an
error has no `code=`. For a composed code, such as `f"token.{kind}"`, the values of
`kind` are its assignments in the module and the arguments of calls.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from skragent import errors
from skragent.errors import AgentError, Disposition
from skragent.transport import failures as transport_failures

SKRAGENT = Path(errors.__file__).parent
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, AgentError)
}
ROOTS = {kind.code.partition(".")[0] for kind in CLASSES.values()} | {
    *("client", "command", "emulator"),
}
CODE = re.compile(rf"({'|'.join(sorted(ROOTS))})(\.[a-z_]+)+")
# Names of a job's steps match CODE and are not codes.
_STEPS = re.compile(r"\.step\(\s*\"([a-z_.]+)\"")


@functools.cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    """Return the text and the tree of each module, except the emulator's modules."""
    texts = [
        path.read_text()
        for path in sorted(SKRAGENT.rglob("*.py"))
        if path.relative_to(SKRAGENT).parts[0] != "emulator"
        and path.name != "error_catalog.py"  # raises no error
    ]
    return tuple((text, ast.parse(text)) for text in texts)


def _strings(tree: ast.Module) -> set[str]:
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@functools.cache
def raised() -> set[str]:
    """Every code."""
    found: set[str] = set()
    for text, tree in trees():
        steps = set(_STEPS.findall(text))
        found |= {c for c in _strings(tree) if CODE.fullmatch(c)} - steps
        found |= {code for code in _composed(tree) if CODE.fullmatch(code)}
    found |= {f"transport.{kind}" for _, kind, _ in transport_failures._KINDS}
    for path in SKRAGENT.glob("emulator/**/*.py"):
        found |= set(re.findall(r'"(emulator\.[a-z_]+)"', path.read_text()))
    return found | {code for code, _ in dispositions()}


def _composed(tree: ast.Module) -> set[str]:
    """Return every `code=f"STEM{...}"` of a module with all possible values."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":
            match node.value:
                case ast.JoinedStr(
                    values=[ast.Constant(value=str(stem)), ast.FormattedValue() as rest]
                ):
                    found |= {stem + w for w in _strings_of(rest.value, tree, set())}
    return found


def _strings_of(expression: ast.expr, tree: ast.Module, seen: set[str]) -> set[str]:
    """Return the strings that an expression can have, as far as its module shows."""
    found: set[str] = set()
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.Name) and node.id not in seen:
            seen |= {node.id}
            for value in _values(node.id, tree):
                found |= _strings_of(value, tree, seen)
    return found


def _values(name: str, tree: ast.Module) -> Iterator[ast.expr]:
    """Yield the values that statements and calls assign to a name of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == name:
                    yield node.value
                elif isinstance(target, ast.Tuple) and isinstance(
                    node.value, ast.Tuple
                ):
                    for one, value in zip(target.elts, node.value.elts, strict=True):
                        if isinstance(one, ast.Name) and one.id == name:
                            yield value
        elif isinstance(node, ast.FunctionDef):
            yield from _arguments(name, node, tree)


def _arguments(
    name: str, function: ast.FunctionDef, tree: ast.Module
) -> Iterator[ast.expr]:
    parameters = [argument.arg for argument in function.args.args]
    if name not in parameters:
        return
    place = parameters.index(name)
    defaults = dict(zip(parameters[::-1], function.args.defaults[::-1], strict=False))
    if name in defaults:
        yield defaults[name]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=called)) if called == function.name:
                yield from node.args[place : place + 1]
                yield from (k.value for k in node.keywords if k.arg == name)


@functools.cache
def dispositions() -> set[tuple[str, Disposition | None]]:
    """Return each error code that a call creates, with the disposition of the call."""
    found: set[tuple[str, Disposition | None]] = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                kind = CLASSES.get(node.func.id)
                if kind is not None:
                    found |= _created(node, kind)
    return found


def _created(
    call: ast.Call, kind: type[AgentError]
) -> set[tuple[str, Disposition | None]]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    code, value = given.get("code"), given.get("disposition")
    disposition: Disposition | None = None
    if isinstance(value, ast.Attribute):
        disposition = getattr(Disposition, value.attr, None)
    if code is None:
        return {(kind.code, disposition)}
    if isinstance(code, ast.Constant) and isinstance(code.value, str):
        return {(code.value, disposition)}
    return set()
