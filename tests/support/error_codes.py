"""Every error code that the source can raise, with what is done about it.

Read from the source's syntax trees, for no test could raise them all. A code is a
string that looks like one; or the class's own where a call that makes an error has no
`code=`. Codes that are put together, `f"token.{kind}"`, are found by following `kind`
through the module: what it is assigned, and what calls give for it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from skragent import errors
from skragent.denials import DENIALS
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
# What looks like a code and is not: names of a job's steps.
_STEPS = re.compile(r"\.step\(\s*\"([a-z_.]+)\"")


@functools.cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    """The text and the tree of each module, but the emulator's package."""
    texts = [
        path.read_text()
        for path in sorted(SKRAGENT.rglob("*.py"))
        if path.relative_to(SKRAGENT).parts[0] != "emulator"
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
        found |= {code for code in _put_together(tree) if CODE.fullmatch(code)}
    found |= {f"transport.{kind}" for _, kind, _ in transport_failures._KINDS}
    for path in SKRAGENT.glob("emulator/**/*.py"):
        found |= set(re.findall(r'"(emulator\.[a-z_]+)"', path.read_text()))
    return found | {code for code, _ in dispositions()}


def _put_together(tree: ast.Module) -> set[str]:
    """Every `code=f"STEM{...}"` of a module, with all that may stand in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":
            match node.value:
                case ast.JoinedStr(
                    values=[ast.Constant(value=str(stem)), ast.FormattedValue() as rest]
                ):
                    found |= {stem + w for w in _words(rest.value, tree, set())}
    return found


def _words(expression: ast.expr, tree: ast.Module, seen: set[str]) -> set[str]:
    """The strings that an expression may be, as far as its module tells."""
    found: set[str] = set()
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.Name) and node.id not in seen:
            seen |= {node.id}
            for value in _values(node.id, tree):
                found |= _words(value, tree, seen)
    return found


def _values(name: str, tree: ast.Module) -> Iterator[ast.expr]:
    """What a name of a module is assigned, by statements and by calls."""
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


def listed_codes() -> set[str]:
    """What the docstrings of `errors.py` list; `.dns` goes on with `transport.`."""
    found: set[str] = set()
    for kind in CLASSES.values():
        doc = inspect.cleandoc(kind.__doc__ or "")
        _, _, listed = doc.partition("Codes")
        root = kind.code.partition(".")[0]
        found |= {match.group() for match in CODE.finditer(listed)}
        found |= {root + word for word in re.findall(r" (\.[a-z_]+)", listed)}
    return found


@functools.cache
def dispositions() -> set[tuple[str, Disposition | None]]:
    """Each code that a call makes an error with; None where it is not said there."""
    found: set[tuple[str, Disposition | None]] = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                kind = CLASSES.get(node.func.id)
                if kind is not None:
                    found |= _made(node, kind)
    return found


def _made(
    call: ast.Call, kind: type[AgentError]
) -> set[tuple[str, Disposition | None]]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    code, disposition = given.get("code"), given.get("disposition")
    said: Disposition | None = kind.disposition
    if disposition is not None:
        said = None
        if isinstance(disposition, ast.Attribute):
            said = getattr(Disposition, disposition.attr, None)
    if code is None:
        return {(kind.code, _by_code(kind.code, said))}
    if isinstance(code, ast.Constant) and isinstance(code.value, str):
        return {(code.value, _by_code(code.value, said))}
    return set()


def _by_code(code: str, said: Disposition | None) -> Disposition | None:
    """A denial is one by its code, whatever the call says."""
    return Disposition.DENIED if code in DENIALS else said
