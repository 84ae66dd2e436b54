"""The settings, as config.example.toml explains them and jobs and destinations define them, in reStructuredText."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import EntryPoint, entry_points
from pathlib import PurePath
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from arcbackupd.jobs import Job, JobSettings

_HEADING = re.compile(r"#?\[([a-z.]+)\]")
_ASSIGNMENT = re.compile(r"#([a-z_]+ = .+)")
_NOT_SET = "  # not set by default"


def described(example: str) -> str:
    """Every table with its settings: what the comments say, and the value by default."""
    return "\n\n".join(_block(block) for block in _blocks(example))


def _blocks(example: str) -> Iterator[list[str]]:
    """What stands between empty lines; the head of the file, which is about the file, is left out."""
    _, *rest = re.split(r"\n\s*\n", example)
    for block in rest:
        lines = [line for line in block.splitlines() if line.strip()]
        if lines and not lines[0].startswith("# Durations"):
            yield lines


def _block(lines: list[str]) -> str:
    """Comments are paragraphs; settings below them are listed with their defaults; a heading begins a part."""
    parts: list[str] = []
    text: list[str] = []
    for line in lines:
        if heading := _HEADING.fullmatch(line):
            parts += [f"[{heading[1]}]\n{'~' * (len(heading[1]) + 2)}", *_paragraph(text)]
            text = []
        elif setting := _ASSIGNMENT.fullmatch(line):
            parts += [*_paragraph(text), _setting(setting[1])]
            text = []
        else:
            text.append(line)
    return "\n\n".join([*parts, *_paragraph(text)])


def _paragraph(lines: list[str]) -> list[str]:
    """Lines of comment; what is indented in them is an example."""
    told = [line.removeprefix("#").removeprefix(" ") for line in lines]
    found = re.split(r"\n\n", "\n".join(told))
    return [_escaped(each) if not each.startswith("  ") else f"::\n\n{each}" for each in found if each.strip()]


def _setting(text: str) -> str:
    value = text.removesuffix(_NOT_SET)
    note = "not set by default; for example " if text != value else ""
    name, _, shown = value.partition(" = ")
    return f"**{name}**\n  {note}``{shown}``"


def of_destinations() -> str:
    """The settings of each built-in type of destination."""
    return _types("arcbackupd.destinations")


def of_alarms() -> str:
    """The settings of each built-in type of alarm."""
    return _types("arcbackupd.alarms")


def of_jobs() -> str:
    """The built-in jobs: when they run by default, what they do, and the settings that no other has."""
    return "\n\n".join(_job(point.name, point.load()) for point in _built_in("arcbackupd.jobs"))


def _built_in(group: str) -> list[EntryPoint]:
    found = sorted(entry_points(group=group), key=lambda point: point.name)
    return [point for point in found if point.module.startswith("arcbackupd.")]


def _types(group: str) -> str:
    return "\n\n".join(_type(point.name, point.load().Settings) for point in _built_in(group))


def _type(name: str, settings: type[BaseModel]) -> str:
    title = f'type = "{name}"'
    texts = _docstrings(settings)
    rows = [_row(key, field, texts.get(key, "")) for key, field in settings.model_fields.items()]
    return "\n\n".join([f"{title}\n{'~' * len(title)}", *_introduction(settings), *rows])


def _introduction(settings: type[BaseModel]) -> list[str]:
    """What the classes say of several keys at once; the first line of most says only whose table it is."""
    told = [inspect.cleandoc(each.__doc__ or "") for each in settings.__mro__ if _is_ours(each)]
    return [text for text in told if "``" in text and not re.match(r"(What|The table) ``\[", text)]


def _is_ours(model: type) -> bool:
    return issubclass(model, BaseModel) and model.__module__.startswith("arcbackupd.")


def _job(name: str, job: type[Job[Any]]) -> str:
    title = f"[jobs.{name}]"
    texts = _docstrings(job.Settings)
    own = {key: field for key, field in job.Settings.model_fields.items() if key not in JobSettings.model_fields}
    first, *_ = inspect.cleandoc(job.__doc__ or "").split("\n\n")
    schedule = f"**schedule**\n  ``{_toml(job.default_schedule)}`` by default"
    rows = [_row(key, field, texts.get(key, "")) for key, field in own.items()]
    return "\n\n".join([f"{title}\n{'~' * len(title)}", _escaped(first), schedule, *rows])


def _row(key: str, field: Any, text: str) -> str:
    kind = _needed(field)
    told = "\n".join(f"  {line}" for line in [kind, *([""] if text else []), *text.splitlines()])
    return f"**{key}**\n{told}"


def _needed(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "*required*"
    if field.default is None:
        return "not set by default"
    choices = [arg for arg in get_args(field.annotation) if isinstance(arg, str)]
    among = f"; one of {', '.join(f'``{_toml(each)}``' for each in choices)}" if choices else ""
    return f"``{_toml(field.default)}`` by default{among}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        seconds = int(value.total_seconds())
        size, unit = next(each for each in ((3600, "h"), (60, "m"), (1, "s")) if seconds % each[0] == 0)
        return f'"{seconds // size}{unit}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str | PurePath) else str(value)


def _docstrings(settings: type[BaseModel]) -> dict[str, str]:
    """What stands below each attribute of a class and of those that it derives from."""
    found: dict[str, str] = {}
    for model in filter(_is_ours, reversed(settings.__mro__)):
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
        assert isinstance(body, ast.ClassDef)
        for statement, below in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                found[statement.target.id] = _docstring(below)
    return found


def _docstring(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


def _escaped(text: str) -> str:
    """Text without meaning to reStructuredText, but for what is marked as code."""
    return re.sub(r"([\\*|_])", r"\\\1", re.sub(r"`([^`]*)`", r"\"\1\"", text)).replace('\\"', '"')
