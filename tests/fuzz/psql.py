"""How a real psql reads a text, beside the lexer: the oracle of `load`, too slow to sit under the fuzzer."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.dumps.loading import LoadText, RefusedText
from arcbackupd.dumps.sqltext import _end_of_comment
from tests.harness.agreeing_server import AgreeingServer

_RESTRICT = b"\\restrict OurOwnKey\n"
_COMPLAINT = b"backslash commands are restricted"
"""What psql says for each command that it would have run."""
_OURS = re.compile(rb"SET client_encoding TO '|SET standard_conforming_strings TO o")
_END_OF_ROWS = re.compile(rb"^\\\.\n\Z", re.MULTILINE)
"""A psql before 18 hands it on too."""
_EMPTY_LINES = re.compile(rb"\n+")


class Psql:
    """A psql that reads texts, and the server that agrees to all of them."""

    def __init__(self, program: Path, server: AgreeingServer, directory: Path) -> None:
        self._command = [str(program), "-X", "-q", "-h", str(directory), "-U", "nobody", "-d", "nothing", "-f", "-"]
        self._environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(directory)}
        self._server = server

    def read(self, text: bytes) -> Reading:
        """Let it read a text that it may run no command of."""
        given = _RESTRICT + text
        done = subprocess.run(self._command, input=given, capture_output=True, env=self._environment, timeout=120)
        heard = self._server.heard
        return Reading(done.stderr.count(_COMPLAINT), heard.statements, heard.data)


@dataclass(frozen=True)
class Reading:
    """What psql made of a text: how many commands it would have run, the statements, the rows of each COPY."""

    commands: int
    statements: list[bytes]
    data: list[bytes]


class Recorded(LoadText):
    """The filter, which keeps the statements and the rows as the lexer takes them apart."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.statements: list[bytes] = []
        self.rows_of: list[bytes] = []

    def statement(self, head: bytes) -> bool:
        """Note it."""
        self.statements.append(head)
        copy = super().statement(head)
        self.rows_of += [b""] if copy else []
        return copy

    def data(self, buffer: bytes, start: int, end: int) -> None:
        """Note the rows."""
        self.rows_of[-1] += buffer[start:end]
        super().data(buffer, start, end)


def accepted(text: bytes, *, restricted: bool) -> tuple[bytes, Recorded] | None:
    """What of a text goes to psql, and how the filter read it; ``None`` when it is refused."""
    reading = Recorded(restricted=restricted)
    try:
        return b"".join([*reading.feed(text), *reading.finish()]), reading
    except RefusedText:
        return None


def difference(psql: Psql, given: bytes, ours: Recorded) -> str | None:
    """What psql sees otherwise than the filter in what that let through; ``None`` when they agree."""
    theirs = psql.read(given)
    if theirs.commands:
        return f"psql would have run {theirs.commands} commands"
    statements = comparable(theirs.statements, without=None if ours.restricted else _OURS)
    expected = comparable(ours.statements, without=None if ours.restricted else _OURS)
    if statements != expected:
        pairs = zip([*statements, b""], [*expected, b""], strict=False)
        return f"psql sees {next(pair for pair in pairs if pair[0] != pair[1])}"
    rows = [_END_OF_ROWS.sub(b"", data) for data in theirs.data]
    return None if rows == ours.rows_of else f"psql sees the rows {rows}, and not {ours.rows_of}"


def comparable(statements: Sequence[bytes], *, without: re.Pattern[bytes] | None) -> list[bytes]:
    """Statements less what psql leaves out of them (comments before them, empty lines) and the ``;`` it keeps."""
    bare = (_bare(statement) for statement in statements)
    return [statement for statement in bare if statement and not (without and without.match(statement))]


def _bare(statement: bytes) -> bytes:
    statement = _EMPTY_LINES.sub(b"\n", statement).strip(b" \t\n\f\v;")
    if statement.startswith(b"/*"):
        return _bare(statement[_end_of_comment(statement, 2) :])
    if statement.startswith(b"--"):
        return _bare(statement.partition(b"\n")[2])
    return statement


def variations(texts: Sequence[bytes], words: Sequence[bytes], chance: random.Random) -> Iterator[bytes]:
    """Texts with some words, and pieces of others, put in or taken out; without end."""
    while True:
        varied = bytearray(chance.choice(texts))
        for _ in range(chance.randrange(1, 6)):
            start = chance.randrange(len(varied) + 1)
            end = chance.choice((start, start + chance.randrange(30)))
            varied[start:end] = chance.choice((b"", chance.choice(words), _piece(chance.choice(texts), chance)))
        yield bytes(varied)


def _piece(text: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(text) + 1)
    return text[start : start + chance.randrange(60)]
