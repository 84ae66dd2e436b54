"""Read a ``.env`` file as Docker Compose reads it.

The rules are those of compose-go's ``dotenv`` and ``template`` packages (https://github.com/compose-spec/compose-go):
``export``, ``KEY: value``, quotes over several lines, escapes in double quotes, comments after `` #``, and
``$NAME``, ``${NAME}``, ``${NAME:-default}``, ``${NAME:+replacement}``, ``${NAME:?error}`` everywhere but in single
quotes, with ``$$`` for a dollar sign. Names are looked up in the given environment first, then among those that
the file set before. Keep in mind that an error must never show a value: the file is full of passwords.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SPACE = " \t\v\f\r\x85\xa0"
_EXPORT = re.compile(r"export[ \t\v\f\r]+")
_KEY = re.compile(r"[^\n=:]*")
_KEY_CHARACTERS = re.compile(r"[\w.\-\[\]]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ESCAPES = re.compile(r"\\(?:[abcfnrtv$\"\\]|0\d{0,3})")
_ESCAPED = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    '"': '"',
    "\\": "\\",
    "$": "$$",
}
_BRACE = re.compile(r"[{}]")
_DEEPEST = 50
"""Braces inside braces; each level reads again what stands inside."""
_SUBSTITUTED_LIMIT = 4 << 20
"""Characters that all substitutions of a file may bring in: a value that doubles the one before it knows no end.

It is more than Linux lets a program have in its environment.
"""
_OPERATORS = (":-", ":+", ":?", "-", "+", "?")


class DotenvError(ValueError):
    """The file breaks the rules; the text names the line and never a value."""


def parse_dotenv(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a ``.env`` file sets, in its order. Raise DotenvError with the line where it is wrong."""
    return _Parser(text.removeprefix("\ufeff"), environment).parse()


class _Parser:
    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        self._text = text
        self._environment = environment
        self._values: dict[str, str] = {}
        self._position = 0
        self._substituted = 0

    def parse(self) -> dict[str, str]:
        while self._to_next_statement():
            key, has_value = self._key()
            if has_value:
                self._values[key] = self._value()
            elif key in self._environment:
                self._values[key] = self._environment[key]
        return self._values

    def _error(self, what: str) -> DotenvError:
        line = self._text.count("\n", 0, self._position) + 1
        return DotenvError(f"line {line}: {what}")

    def _to_next_statement(self) -> bool:
        while self._position < len(self._text):
            if self._text[self._position].isspace():
                self._position += 1
            elif self._text[self._position] == "#":
                self._position = self._end_of_line()
            else:
                return True
        return False

    def _end_of_line(self) -> int:
        end = self._text.find("\n", self._position)
        return len(self._text) if end < 0 else end

    def _key(self) -> tuple[str, bool]:
        if export := _EXPORT.match(self._text, self._position):
            self._position = export.end()
        match = _KEY.match(self._text, self._position)
        assert match is not None  # it matches the empty string
        key = match[0].rstrip()
        if not _KEY_CHARACTERS.fullmatch(key):
            raise self._error("what stands before the = is no name of a variable")
        separator = self._text[match.end() : match.end() + 1]
        self._position = min(match.end() + 1, len(self._text))
        return key, separator in ("=", ":")

    def _value(self) -> str:
        while self._text[self._position : self._position + 1] in tuple(_SPACE):
            self._position += 1
        match self._text[self._position : self._position + 1]:
            case "'":
                return self._quoted("'")
            case '"':
                return self._expand(_ESCAPES.sub(_unescape, self._quoted('"')))
            case _:
                end = self._end_of_line()
                raw = self._text[self._position : end].partition(" #")[0].rstrip()
                value = self._expand(raw)
                self._position = end
                return value

    def _quoted(self, quote: str) -> str:
        """A quoted value; only an escaped quote loses its backslash here."""
        pattern = re.compile(rf"{quote}((?:[^\\{quote}]|\\.)*+){quote}", re.DOTALL)
        match = pattern.match(self._text, self._position)
        if match is None:
            raise self._error(f"a value begins with {quote} and doesn't end with it")
        self._position = match.end()
        return match[1].replace("\\" + quote, quote)

    def _expand(self, text: str) -> str:
        pieces: list[str] = []
        position = 0
        while (dollar := text.find("$", position)) >= 0:
            pieces.append(text[position:dollar])
            piece, position = self._substitution(text, dollar + 1)
            pieces.append(piece)
        return "".join(pieces) + text[position:]

    def _substitution(self, text: str, position: int) -> tuple[str, int]:
        if text.startswith("$", position):
            return "$", position + 1
        if text.startswith("{", position):
            end = self._closing_brace(text, position)
            return self._braced(text[position + 1 : end]), end + 1
        name = _NAME.match(text, position)
        if name is None:
            return "$", position
        return self._lookup(name[0]) or "", name.end()

    def _braced(self, expression: str) -> str:
        name = _NAME.match(expression)
        if name is None:
            raise self._error("a ${…} without the name of a variable (write $$ for a dollar sign)")
        rest = expression[name.end() :]
        value = self._lookup(name[0])
        operator = next((o for o in _OPERATORS if rest.startswith(o)), None)
        if operator is None:
            if rest:
                raise self._error("a ${…} that isn't understood (write $$ for a dollar sign)")
            return value or ""
        given = bool(value) if operator.startswith(":") else value is not None
        return self._operate(operator[-1], given, value or "", rest[len(operator) :], name[0])

    def _closing_brace(self, text: str, position: int) -> int:
        depth = 0
        for brace in _BRACE.finditer(text, position):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                return brace.start()
            if depth > _DEEPEST:
                raise self._error("a ${…} inside others, too many of them")
        raise self._error("a ${ without its } (write $$ for a dollar sign)")

    def _operate(self, operator: str, given: bool, value: str, argument: str, name: str) -> str:
        if operator == "+":
            return self._expand(argument) if given else ""
        if given:
            return value
        if operator == "?":
            raise self._error(f"the required variable {name} is missing")
        return self._expand(argument)

    def _lookup(self, name: str) -> str | None:
        value = self._environment.get(name, self._values.get(name))
        self._substituted += len(value or "")
        if self._substituted > _SUBSTITUTED_LIMIT:
            raise self._error("the values that are put in for $… are too long")
        return value


def _unescape(match: re.Match[str]) -> str:
    escape = match[0][1:]
    if escape.startswith("0"):
        return chr(int(escape, 8)) if escape.strip("01234567") == "" else match[0]
    return _ESCAPED.get(escape, match[0])
