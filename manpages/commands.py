"""The commands and options of a program, as its own command line knows them, in reStructuredText."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

_SHARED = ("--json", "--socket", "--no-color", "--help")
"""Options of every command of the client: told once."""
_WIDTH = 2
_LITERAL = re.compile(r'(?<![\w`"])(--[a-z][a-z-]*)')


def described(program: click.Group, name: str) -> str:
    """All commands of a program, each with its usage, its text and its own options."""
    return "\n\n".join(_described(command, way) for command, way in _all(program, name))


def options(program: click.Group) -> str:
    """The options that stand before a command, or by themselves."""
    context = click.Context(program, **program.context_settings)
    return _options(program.get_params(context))


def _all(group: click.Group, way: str) -> Iterator[tuple[click.Command, str]]:
    for name, command in group.commands.items():
        yield command, f"{way} {name}"
        if isinstance(command, click.Group):
            yield from _all(command, f"{way} {name}")


def _described(command: click.Command, way: str) -> str:
    # With the names that it has below its program: click remembers them for good.
    context = click.Context(command, info_name=way, help_option_names=["-h", "--help"])
    own = [each for each in command.params if not set(each.opts) & set(_SHARED)]
    arguments = _arguments(command, context)
    usage = f"**{way}** {arguments}" if arguments else ""
    parts = [f"{way}\n{'~' * len(way)}", usage, _text(command.help or ""), _options(own)]
    return "\n\n".join(part for part in parts if part)


def _arguments(command: click.Command, context: click.Context) -> str:
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    own = [each for each in command.params if isinstance(each, click.Option) and not set(each.opts) & set(_SHARED)]
    optional = [f"[{_called(each)}]" for each in own]
    return " ".join(_escaped(piece) for piece in [*optional, *pieces])


def _text(help_text: str) -> str:
    """A help text: paragraphs that click leaves as they are stay so."""
    paragraphs = inspect.cleandoc(help_text).split("\n\n")
    return "\n\n".join(_paragraph(paragraph) for paragraph in paragraphs)


def _paragraph(text: str) -> str:
    if text.startswith("\b\n"):
        return "\n".join(f"| {_escaped(line)}" for line in text.removeprefix("\b\n").split("\n"))
    return _LITERAL.sub(r"``\1``", _escaped(text))


def _options(parameters: list[click.Parameter]) -> str:
    found = [each for each in parameters if isinstance(each, click.Option)]
    return "\n".join(f"{_called(each)}\n{' ' * _WIDTH}{_escaped(each.help or '')}" for each in found)


def _called(option: click.Option) -> str:
    value = "" if option.is_flag or option.count else f" {option.metavar or _kind(option)}"
    return ", ".join(f"{name}{value}" for name in sorted(option.opts, key=len))


def _kind(option: click.Option) -> str:
    return {"path": "FILE", "text": "TEXT"}.get(option.type.name, option.type.name.upper())


def _escaped(text: str) -> str:
    """Text without meaning to reStructuredText."""
    return re.sub(r"([\\*|_`])", r"\\\1", text)
