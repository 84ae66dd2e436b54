"""What psql may be given of a dump: its SQL and data, and no command of psql's own.

Loading a dump is running a program: ``\\!`` in one runs a shell. psql that knows ``\\restrict`` is told by us, with
a key of our own, to refuse all commands; the dump's own ``\\restrict`` and ``\\unrestrict`` stay out. Any other
command outside COPY data makes the dump refused here already, which is all there is for an older psql.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from arcbackupd.dumps import sqltext
from arcbackupd.dumps.lexer import Lexer
from arcbackupd.dumps.sharing import Share, Shared, Sharing

_OF_SERVER = frozenset({b"CREATE DATABASE", b"DROP DATABASE", b"ALTER DATABASE", b"ALTER SYSTEM"})
"""What ``pg_dump --create --clean`` writes too: with it, loading beside the live database would drop that one."""
HEADER_LIMIT = 64 << 10
"""Bytes at the beginning of a dump in which its header is looked for."""

_RESTRICTING = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
"""First minor release of each major whose psql knows ``\\restrict`` (CVE-2025-8714); later majors all do."""
_NEW_SETTINGS = {"transaction_timeout": 17}
"""Settings in the header of a pg_dump, and the first major that has them; all of them are harmless to leave out."""
_HEADER_LINE = re.compile(rb"(?:--[^\n]*|\\restrict [A-Za-z0-9]+|SELECT pg_catalog\.set_config\([^\n;]*\);)?\r?\n"
                          rb"|SET (\w+) = [^\n;]*;\r?\n")  # fmt: skip
_AMBIGUOUS = frozenset({"sjis", "shiftjis2004", "big5", "gbk", "gb18030", "uhc", "johab", "shiftjis", "mskanji",
                        "win932", "win936", "win949", "win950", "windows932", "windows936", "windows949",
                        "windows950"})  # fmt: skip
"""Client encodings whose characters may have a backslash as their second byte, which the lexer takes for one."""


_TEXT, _ALONE, _ROWS, _END_OF_ROWS = map(Shared, (Share.TEXT, Share.ALONE, Share.ROWS, Share.END_OF_ROWS))
_OF_COPY = (Share.COPY, Share.ROWS, Share.END_OF_ROWS)


class RefusedText(Exception):
    """The dump holds what psql must not be given; the text says what, and completes "The dump holds …"."""


def knows_restrict(version: str) -> bool:
    """Whether a psql of this version (``16.10``) refuses commands after ``\\restrict``."""
    major, minor, *_ = *(int(part) for part in re.findall(r"\d+", version)[:2]), 0, 0
    return minor >= _RESTRICTING[major] if major in _RESTRICTING else major > max(_RESTRICTING)


def adapt_header(text: bytes, server_major: int) -> tuple[bytes, list[str]]:
    """The beginning of a dump without the settings that the server doesn't know yet, and which those were."""
    kept, left_out, position = [], [], 0
    while line := _HEADER_LINE.match(text, position, HEADER_LIMIT):
        name = (line[1] or b"").decode("ascii", "replace")
        if _NEW_SETTINGS.get(name, 0) > server_major:
            left_out.append(name)
        else:
            kept.append(line[0])
        position = line.end()
    return b"".join(kept) + text[position:], left_out


@dataclass
class CopiedTable:
    """Rows of a COPY, and those of them that other sessions were given; ``name`` as the dump quotes it."""

    name: str
    rows: int = 0
    elsewhere: int = 0


@dataclass(frozen=True)
class Piece:
    """A piece of a dump that psql may be given, how it may be shared, the lines before it, and the newlines in it.

    ``table`` is the one that it is about, where that matters, and ``copied`` its COPY.
    """

    text: memoryview
    shared: Shared
    line: int
    lines: int
    table: str = ""
    copied: CopiedTable | None = None


@dataclass
class LoadText:
    """Feed it the dump's text in blocks; it answers with what psql may be given.

    ``restricted``: whether psql refuses commands by itself. ``copies`` are the COPYs so far, in order.
    """

    restricted: bool
    copies: list[CopiedTable] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lexer = Lexer(self)
        self._sharing = Sharing()
        self._pieces: list[Piece] = []
        self._next = _TEXT
        self._line = 0
        self._lines_left_out = 0
        self._lines_of_data = 0
        self._codec = "utf-8"

    @property
    def rows(self) -> int:
        """Rows so far, of all tables."""
        return sum(copy.rows for copy in self.copies)

    def leave_out(self, lines: int) -> None:
        """So many lines of the beginning are not in what is fed."""
        self._lines_left_out += lines

    def feed(self, block: bytes) -> list[Piece]:
        """The pieces that may go on. Raise RefusedText."""
        self._lexer.feed(block)
        return self._taken()

    def finish(self) -> list[Piece]:
        """The last pieces. Raise RefusedText when the text breaks off: what follows would be taken as its end."""
        if place := self._lexer.place:
            raise RefusedText(f"no end: it breaks off inside {place}")
        self._lexer.finish()
        return self._taken()

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces

    # What the lexer hears.

    def comment(self, text: bytes) -> None:
        """Comments say nothing here."""

    def command(self, line: bytes) -> bool:
        """Leave out the dump's own ``\\restrict``; refuse everything else."""
        verb = line.split(maxsplit=1)[0]
        if verb not in (b"\\restrict", b"\\unrestrict"):
            raise RefusedText(f"the psql command {sqltext.decode(verb[:32], self._codec)}")
        self._lines_left_out += 1
        return False

    def statement(self, head: bytes) -> bool:
        """Notice a COPY, and what changes how the text is read."""
        opening = sqltext.opening(head)
        if opening in _OF_SERVER:
            raise RefusedText(f"the statement {opening.decode()}, which changes the server and not one database")
        if setting := sqltext.setting(head):
            self._heed(*setting)
        copy = sqltext.copy_header(head)
        if copy is None and sqltext.is_copy(head):
            raise RefusedText("a COPY of other data than its own, which pg_dump never writes")
        if copy:
            self.copies.append(CopiedTable(sqltext.decode(copy.table, self._codec)))
        self._part(self._sharing.of(head))
        return copy is not None

    def _part(self, shared: Shared) -> None:
        if shared.share is Share.ALONE or self._lexer.part():
            self._next = shared
        else:
            self._next = _ALONE
            if shared.share is Share.EVERYWHERE:  # only the first session will have it
                self._sharing.distrust()

    def data(self, buffer: bytes, start: int, end: int) -> None:
        """Count rows."""
        rows = buffer.count(b"\n", start, end)
        self._lines_of_data += rows
        self.copies[-1].rows += rows

    def end_of_data(self) -> None:
        """The rows of this COPY are counted."""
        if self._next.share is Share.ROWS:
            self._next = _END_OF_ROWS

    def misplaced(self, what: str) -> None:
        """psql might see something else than we do."""
        raise RefusedText(f"{what}, which pg_dump never writes")

    def content(self, piece: memoryview) -> None:
        """This may go on."""
        if piece:
            # What it breaks off in goes on in the next one: nothing may come between.
            shared = _ALONE if self._next is _TEXT and self._lexer.place else self._next
            lines = self._lines_of_data if shared.share is Share.ROWS else bytes(piece).count(b"\n")
            copied = self.copies[-1] if shared.share in _OF_COPY else None
            table = sqltext.decode(shared.table, self._codec)
            self._pieces.append(Piece(piece, shared, self._line, lines, table, copied))
            self._line += lines
            self._lines_of_data = 0
            self._next = _ROWS if shared.share in (Share.COPY, Share.ROWS) else _TEXT
        self._line += self._lines_left_out
        self._lines_left_out = 0

    def _heed(self, name: str, value: str) -> None:
        if name == "standard_conforming_strings":
            self._lexer.standard_strings = value != "off"
        elif name == "client_encoding":
            self._codec = sqltext.python_codec(value)
            if not self.restricted and _plain(value) in _AMBIGUOUS:
                raise RefusedText(f"text in {value}, in which an old psql can't tell commands from characters")


def _plain(encoding: str) -> str:
    """An encoding's name as PostgreSQL compares it."""
    return "".join(filter(str.isalnum, encoding.lower()))


@dataclass
class LoadedRows:
    """Rows per table: those ``expected``, of the manifest or a scan, and those that sessions say they loaded."""

    expected: Mapping[str, int]
    reported: dict[str, int] = field(default_factory=dict)

    def add(self, table: str, rows: int) -> bool:
        """Whether there are no more of a table's than there should be, with these."""
        self.reported[table] = self.reported.get(table, 0) + rows
        return self.reported[table] <= self.expected.get(table, 0)

    def finish(self) -> str | None:
        """What is wrong at the end."""
        tables = {**self.expected, **self.reported}
        differing = (table for table in tables if self.reported.get(table) != self.expected.get(table))
        return next(map(self.problem, differing), None)

    def problem(self, table: str) -> str:
        """How a table differs."""
        reported, expected = self.reported.get(table, 0), self.expected.get(table, 0)
        return f"table {table} has {reported:,} rows, and should have {expected:,}"


class CopyCheck:
    """Holds what a psql says it loaded, ``COPY n``, against what it was given.

    Feed it psql's output as it arrives.
    """

    def __init__(self, given: Sequence[CopiedTable], loaded: LoadedRows) -> None:
        """``given`` may grow."""
        self._given = given
        self._loaded = loaded
        self._rest = b""
        self._count = 0

    def feed(self, answers: bytes) -> str | None:
        """What is wrong, ``None`` while nothing is."""
        *lines, self._rest = (self._rest + answers).split(b"\n")
        reported = (int(line[5:]) for line in lines if line.startswith(b"COPY ") and line[5:].isdigit())
        return next((problem for rows in reported if (problem := self._heard(rows))), None)

    def finish(self) -> str | None:
        """What is wrong at the end of all sessions."""
        if self._count != len(self._given):
            return f"psql loaded {self._count} tables of the {len(self._given)} that it was given"
        return self._loaded.finish()

    def _heard(self, rows: int) -> str | None:
        if self._count == len(self._given):
            return "psql loaded more tables than it was given"
        copy = self._given[self._count]
        self._count += 1
        plausible = self._loaded.add(copy.name, rows)
        return None if plausible and rows == copy.rows - copy.elsewhere else self._loaded.problem(copy.name)
