"""What psql may be given of a dump: its SQL and data, and no command of psql's own.

Loading a dump is running a program: ``\\!`` in one runs a shell. psql that knows ``\\restrict`` is told by us, with
a key of our own, to refuse all commands; the dump's own ``\\restrict`` and ``\\unrestrict`` stay out. Any other
command outside COPY data makes the dump refused here already, which is all there is for an older psql.

How psql reads a line depends on two settings of its session, which all that a dump runs may change, its functions
too. So an older psql is told them anew before each statement, and given only what can't be misread (see `strict`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from arcbackupd.dumps import sqltext
from arcbackupd.dumps.lexer import HEAD_LIMIT, Lexer
from arcbackupd.dumps.strict import objection

_OF_SERVER = frozenset({b"CREATE DATABASE", b"DROP DATABASE", b"ALTER DATABASE", b"ALTER SYSTEM"})
"""What ``pg_dump --create --clean`` writes too: with it, loading beside the live database would drop that one."""
_ADDS_CONSTRAINT = frozenset({b"ALTER TABLE", b"ALTER DOMAIN", b"ALTER FOREIGN"})
_UNCHECKED = re.compile(rb"\bNOT VALID\s*\Z")
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

_READING = re.compile(rb"client_encoding|standard_conforming_strings", re.IGNORECASE)
"""What changes how psql reads a line."""
_PLAIN_SETTING = re.compile(rb"SET (?:client_encoding = '[A-Za-z0-9_-]+'|standard_conforming_strings = (?:on|off))")
COPIES_LIMIT = 1_000_000
"""COPYs that are remembered: one a table is what pg_dump writes."""
_SHIFTS = 100_000
"""Lines of ours that are remembered: more than psql can be behind, in what fits into a pipe."""

_UNTIL_TOLD = "sql_ascii"
"""The encoding before a dump sets one: text goes as it is, as it would in the database's own."""
_COPIED = re.compile(rb"COPY \d{1,19}")
_ANSWER_LIMIT = 64
"""Bytes that are kept of a line that goes on: a dump may print much, and what matters is short."""


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
    """Rows that were handed to psql for a COPY; ``name`` as the dump quotes it."""

    name: str
    rows: int = 0


@dataclass
class LoadText:
    """Feed it the dump's text in blocks; it answers with what psql may be given.

    ``restricted``: whether psql refuses commands by itself. ``copies`` are the COPYs so far, in order.
    """

    restricted: bool
    copies: list[CopiedTable] = field(default_factory=list)
    not_valid: int = 0
    """Constraints that the dump makes without having their rows checked, as they were where it comes from."""

    def __post_init__(self) -> None:
        self._lexer = Lexer(self, None if self.restricted else self._before_statement)
        self._pieces: list[memoryview] = []
        self._encoding = ""
        self._codec = "utf-8"
        self._begun = False
        self._unchecked: int | None = None
        self._lines = 0
        self._left_out = False
        self._shift = 0
        self._shifts: deque[tuple[int, int]] = deque(maxlen=_SHIFTS)

    @property
    def rows(self) -> int:
        """Rows so far, of all tables."""
        return sum(copy.rows for copy in self.copies)

    def insert(self, text: bytes) -> None:
        """Whole lines that psql is given here and that are not the dump's."""
        self._pieces.append(memoryview(text))
        lines = text.count(b"\n")
        self._lines += lines
        self._shift_by(-lines)

    def leave_out(self, lines: int) -> None:
        """So many lines of the dump that psql isn't given."""
        self._shift_by(lines)

    def line_of_dump(self, line: int) -> int:
        """The line of the dump that psql counts as such a line of its input."""
        return line + next((shift for after, shift in reversed(self._shifts) if after < line), 0)

    def feed(self, block: bytes) -> list[memoryview]:
        """The pieces that may go on. Raise RefusedText."""
        if not self.restricted and b"\0" in block:
            raise RefusedText("zero bytes, behind which an old psql doesn't read")
        if not self._begun and not self.restricted:
            self._tell_settings()
        self._begun = True
        self._lexer.feed(block)
        return self._taken()

    def finish(self) -> list[memoryview]:
        """The last pieces. Raise RefusedText when the text breaks off: what follows would be taken as its end."""
        if place := self._lexer.place:
            raise RefusedText(f"no end: it breaks off inside {place}")
        self._lexer.finish()
        return self._taken()

    def _taken(self) -> list[memoryview]:
        """What may go on: for an old psql nothing of a statement before all of it was looked at."""
        ready = len(self._pieces) if self._unchecked is None else self._unchecked
        taken, self._pieces = self._pieces[:ready], self._pieces[ready:]
        self._unchecked = None if self._unchecked is None else 0
        if sum(map(len, self._pieces)) > HEAD_LIMIT:
            raise RefusedText("a statement of a megabyte")
        return taken

    # What the lexer hears.

    def comment(self, text: bytes) -> None:
        """Comments say nothing here."""

    def command(self, line: bytes) -> bool:
        """Leave out the dump's own ``\\restrict``; refuse everything else."""
        verb = line.split(maxsplit=1)[0]
        if verb not in (b"\\restrict", b"\\unrestrict"):
            raise RefusedText(f"the psql command {sqltext.decode(verb[:32], self._codec)}")
        self._left_out = True
        return False

    def statement(self, head: bytes) -> bool:
        """Notice a COPY, and what changes how the text is read."""
        opening = sqltext.opening(head)
        if len(head) >= HEAD_LIMIT and b" " not in opening:
            raise RefusedText("a statement that begins with a megabyte of comments")
        if opening in _OF_SERVER:
            raise RefusedText(f"the statement {opening.decode()}, which changes the server and not one database")
        if not self.restricted:
            self._check_for_old_psql(opening, head)
        if setting := sqltext.setting(head):
            self._heed(*setting)
        if opening in _ADDS_CONSTRAINT and _UNCHECKED.search(head):
            self.not_valid += 1
        copy = sqltext.copy_header(head)
        if copy is None and sqltext.is_copy(head):
            raise RefusedText("a COPY of other data than its own, which pg_dump never writes")
        if copy and len(self.copies) == COPIES_LIMIT:
            raise RefusedText(f"more than {COPIES_LIMIT:,} tables")
        if copy:
            self.copies.append(CopiedTable(sqltext.decode(copy.table, self._codec)))
        return copy is not None

    def _check_for_old_psql(self, opening: bytes, head: bytes) -> None:
        if why := objection(head, standard_strings=self._lexer.standard_strings):
            raise RefusedText(why)
        if _sets_reading(opening, head) and not _PLAIN_SETTING.fullmatch(head):
            raise RefusedText("a setting of how text is read, made as pg_dump never makes it")
        self._unchecked = None

    def data(self, buffer: bytes, start: int, end: int) -> None:
        """Count rows."""
        self.copies[-1].rows += buffer.count(b"\n", start, end)

    def end_of_data(self) -> None:
        """The rows of this COPY are counted."""

    def misplaced(self, what: str) -> None:
        """psql might see something else than we do."""
        raise RefusedText(f"{what}, which pg_dump never writes")

    def content(self, piece: memoryview) -> None:
        """This may go on."""
        self._pieces.append(piece)
        self._lines += bytes(piece).count(b"\n")
        if self._left_out:
            self._left_out = False
            self.leave_out(1)

    def _shift_by(self, lines: int) -> None:
        self._shift += lines
        self._shifts.append((self._lines, self._shift))

    def _tell_settings(self) -> None:
        """Whatever ran before, psql reads the next line as the lexer does: it looks at both for each line anew.

        SET can't be replaced by something of the dump's, as a function could.
        """
        encoding = f"SET client_encoding TO '{self._encoding or _UNTIL_TOLD}'"
        strings = "on" if self._lexer.standard_strings else "off"
        self.insert(f"{encoding};SET standard_conforming_strings TO {strings};\n".encode())

    def _before_statement(self) -> None:
        self._tell_settings()
        self._unchecked = len(self._pieces)

    def _heed(self, name: str, value: str) -> None:
        if name == "standard_conforming_strings":
            self._lexer.standard_strings = value != "off"
        elif name == "client_encoding":
            self._encoding = value
            self._codec = sqltext.python_codec(value)
            if not self.restricted and _plain(value) in _AMBIGUOUS:
                raise RefusedText(f"text in {value}, in which an old psql can't tell commands from characters")


def _sets_reading(opening: bytes, head: bytes) -> bool:
    """Whether a statement may set by which rules psql reads."""
    if opening == b"SET NAMES":
        return True
    return opening.startswith((b"SET ", b"SELECT ")) and _READING.search(head) is not None


def _plain(encoding: str) -> str:
    """An encoding's name as PostgreSQL compares it."""
    return "".join(filter(str.isalnum, encoding.lower()))


class CopyCheck:
    """Holds what psql says it loaded, ``COPY n``, against what it was given and what the manifest says.

    Feed it psql's output as it arrives.
    """

    def __init__(self, text: LoadText, expected: Mapping[str, int]) -> None:
        """``expected``: rows per table, of the manifest or a scan."""
        self._text = text
        self._expected = expected
        self._line = b""
        self._count = 0
        self._loaded: dict[str, int] = {}

    def feed(self, answers: bytes) -> str | None:
        """What is wrong, ``None`` while nothing is."""
        *lines, line = (self._line + answers).split(b"\n")
        self._line = line[:_ANSWER_LIMIT]
        reported = (int(line[5:]) for line in lines if _COPIED.fullmatch(line))
        return next((problem for rows in reported if (problem := self._heard(rows))), None)

    def finish(self) -> str | None:
        """What is wrong at the end."""
        if self._count != len(self._text.copies):
            return f"psql loaded {self._count} tables of the {len(self._text.copies)} that it was given"
        tables = {**self._expected, **self._loaded}
        differing = (table for table in tables if self._loaded.get(table) != self._expected.get(table))
        return next(map(self._problem, differing), None)

    def _heard(self, rows: int) -> str | None:
        if self._count == len(self._text.copies):
            return "psql loaded more tables than it was given"
        copy = self._text.copies[self._count]
        self._count += 1
        self._loaded[copy.name] = total = self._loaded.get(copy.name, 0) + rows
        return None if rows == copy.rows and total <= self._expected.get(copy.name, 0) else self._problem(copy.name)

    def _problem(self, table: str) -> str:
        loaded, expected = self._loaded.get(table, 0), self._expected.get(table, 0)
        return f"table {table} has {loaded:,} rows, and should have {expected:,}"
