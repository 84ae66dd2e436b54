"""Every code that an error, a refusal or a problem of `status` can have, found in the source without running it.

    codes()  ->  {"disk-full": ["arcbackupd/operations/backups_dir.py:104", ...], ...}

A code is what is given for a parameter named ``code``, whatever the function or class is called: those of the
errors, and the helpers that make them. What passes on the code of another error (``error.code``) brings no new
one. A code that can't be told raises, so that none goes unseen.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "arcbackupd"
DEMO = PACKAGE / "demo"
"""Not the operator's: it makes a throwaway database and no backup."""

PARAMETER = "code"


@dataclass
class Source:
    """A module: its tree, and what its own names stand for."""

    path: Path
    tree: ast.Module
    constants: dict[str, str] = field(default_factory=dict)
    functions: list[ast.FunctionDef] = field(default_factory=list)

    def named(self, name: str) -> str:
        """Return a name as all modules know it: a private one is this module's alone."""
        return f"{self.path}:{name}" if name.startswith("_") else name

    def at(self, node: ast.expr) -> str:
        """Return where that is."""
        return f"{self.path.relative_to(PACKAGE.parent)}:{node.lineno}"


def codes() -> dict[str, list[str]]:
    """Return each code with the places where it is given."""
    sources = list(_sources())
    positions = _positions(sources)
    constants = {name: value for source in sources for name, value in source.constants.items()}
    found: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        for node, value in _given(source, positions, constants):
            found[value].append(source.at(node))
    return found


def _sources() -> Iterator[Source]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if DEMO in path.parents:
            continue
        source = Source(path, ast.parse(path.read_text(encoding="utf-8")))
        source.functions = [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef)]
        for node in source.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                source.constants |= {name: node.value.value for name in names if isinstance(node.value.value, str)}
        yield source


def _positions(sources: list[Source]) -> dict[str, int]:
    """Which argument of which callable is the code; a class without a constructor of its own has its base's."""
    positions: dict[str, int] = {}
    bases: dict[str, list[str]] = {}
    for source in sources:
        for function in source.functions:
            if not function.name.startswith("__") and (place := _place(function)) is not None:
                positions[source.named(function.name)] = place
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                own = any(isinstance(child, ast.FunctionDef) and child.name == "__init__" for child in node.body)
                names = [source.named(base.id) for base in node.bases if isinstance(base, ast.Name)]
                bases[source.named(node.name)] = [] if own else names
                if (place := _place_in(node)) is not None:
                    positions[source.named(node.name)] = place
    while inherited := {
        name: positions[base]
        for name, names in bases.items()
        for base in names
        if name not in positions and base in positions
    }:
        positions |= inherited
    return positions


def _place(function: ast.FunctionDef) -> int | None:
    if function.returns is not None and ast.unparse(function.returns) == "str":
        return None  # a code of another kind, of a colour say
    names = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
    keywords = [argument.arg for argument in function.args.kwonlyargs]
    if PARAMETER in names:
        return names.index(PARAMETER)
    return len(names) if PARAMETER in keywords else None


def _place_in(node: ast.ClassDef) -> int | None:
    """The place in a class's constructor, its own or the one that a dataclass makes of its fields."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            return _place(child)
    fields = [child.target.id for child in node.body if _is_field(child) and isinstance(child.target, ast.Name)]  # type: ignore[attr-defined]
    return fields.index(PARAMETER) if node.decorator_list and PARAMETER in fields else None


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign)


def _given(source: Source, positions: dict[str, int], constants: dict[str, str]) -> Iterator[tuple[ast.expr, str]]:
    for function in [*source.functions, source.tree]:
        for node in _own(function):
            if isinstance(node, ast.Call) and (given := _argument(node, positions, source)) is not None:
                for value in _values(given, function, source, constants):
                    yield node, value
        if isinstance(function, ast.FunctionDef):
            yield from _defaults(function)


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """What is in a function, but not in those within it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, ast.FunctionDef):
            yield from _own(child)


def _argument(call: ast.Call, positions: dict[str, int], source: Source) -> ast.expr | None:
    name = source.named(call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", ""))
    if name not in positions:
        return None
    by_name = (keyword.value for keyword in call.keywords if keyword.arg == PARAMETER)
    by_place = (each for each in call.args[positions[name] : positions[name] + 1])
    return next(by_name, None) or next(by_place, None)


def _values(given: ast.expr, function: ast.AST, source: Source, constants: dict[str, str]) -> Iterator[str]:
    if isinstance(given, ast.Constant) and isinstance(given.value, str):
        yield given.value
    elif isinstance(given, ast.IfExp):
        yield from _values(given.body, function, source, constants)
        yield from _values(given.orelse, function, source, constants)
    elif isinstance(given, ast.BoolOp):
        for value in given.values:
            yield from _values(value, function, source, constants)
    elif isinstance(given, ast.Name):
        yield from _named(given, function, source, constants)
    elif not _passed_on(given):
        raise AssertionError(f"{source.at(given)}: can't tell what code this is: {ast.unparse(given)}")


def _passed_on(given: ast.expr) -> bool:
    """Whether it is the code of another error, of a reply, or of a table whose rows were looked at already."""
    text = ast.unparse(given)
    return text.endswith(f".{PARAMETER}") or f"'{PARAMETER}'" in text


def _named(given: ast.Name, function: ast.AST, source: Source, constants: dict[str, str]) -> Iterator[str]:
    assigned = list(_assigned(given.id, function, source))
    if assigned:
        yield from assigned
    elif given.id in constants:
        yield constants[given.id]
    elif given.id != PARAMETER:  # a helper's own parameter: told where it is called
        raise AssertionError(f"{source.at(given)}: can't tell what code {given.id} is")


def _assigned(name: str, function: ast.AST, source: Source) -> Iterator[str]:
    """Codes that a function got from another one of its module: ``code, hint = meaning(error)``."""
    for node in _own(function):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)):
            continue
        first, *_ = node.targets[0].elts
        if isinstance(first, ast.Name) and first.id == name and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            yield from _returned(next((each for each in source.functions if each.name == called), None))


def _returned(function: ast.FunctionDef | None) -> Iterator[str]:
    for node in ast.walk(function) if function else ():
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            first = node.value.elts[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _defaults(function: ast.FunctionDef) -> Iterator[tuple[ast.expr, str]]:
    arguments = function.args
    given = zip(arguments.args[::-1], arguments.defaults[::-1], strict=False)
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for argument, default in [*given, *keywords]:
        if argument.arg == PARAMETER and isinstance(default, ast.Constant) and isinstance(default.value, str):
            yield default, default.value
