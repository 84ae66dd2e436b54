"""Prove from its text that a plain pg_dump is whole, and tell what it holds.

An exit status, ``gzip -t``, a checksum and even ``psql -1 -v ON_ERROR_STOP=1`` accept a dump that was cut short;
only the text can tell. It ends with ``-- PostgreSQL database dump complete`` and, from pg_dump 13.22, 14.19,
15.14, 16.10 and 17.6 on, with an ``\\unrestrict`` that has the key of the ``\\restrict`` near its top
(src/bin/pg_dump/pg_backup_archiver.c, RestoreArchive). Either can also stand inside data, strings, function
bodies or comments, which is why the text is read by a lexer.

See docs/architecture.md, "The proof".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container
from dataclasses import dataclass, field

from arcbackupd.dumps import sqltext
from arcbackupd.dumps.lexer import Lexer

MIGRATIONS_TABLE = b"public.django_migrations"
MIGRATIONS_LIMIT = 4 << 20
"""Bytes of ``django_migrations`` that are read; ten times what a long-lived Django project has."""
NAMES_LIMIT = 48 << 20
"""Characters of all names that are kept, a few more for each; their list must also fit behind the dump's data."""
_WITH_NAME = 16

_VERSION = re.compile(rb"-- Dumped (from database|by pg_dump) version (\S+)")
_KEY = re.compile(rb"[A-Za-z0-9]+")
_CONNECT = re.compile(rb'\\connect(?: +(?:[A-Za-z0-9_.=-]|"(?:[^"]|"")*+")+)*+')
_TRAILER = (b"--", b"-- PostgreSQL database dump complete", b"--")


@dataclass(frozen=True)
class Scan:
    """What the text of a dump says.

    ``problem`` is ``None`` when the dump is proved complete, else why it isn't. ``length`` is in bytes. ``rows``
    counts by the table's name as the dump quotes it. ``migrations`` are ``app.name`` in recorded order, ``None``
    when the dump has no ``public.django_migrations``. ``roles`` are the names that must exist to restore it.
    ``content_sha256`` leaves out the lines with the random ``\\restrict`` key.
    """

    problem: str | None
    length: int
    sha256: str
    content_sha256: str
    rows: dict[str, int] = field(default_factory=dict)
    migrations: tuple[str, ...] | None = None
    roles: tuple[str, ...] = ()
    server_version: str | None = None
    pg_dump_version: str | None = None


class Scanner:
    """Feed it the dump's text in order, in blocks cut anywhere, then `finish` once."""

    def __init__(self) -> None:
        self._lexer = Lexer(self)
        self._length = 0
        self._sql = hashlib.sha256()
        self._content = hashlib.sha256()
        self._problem: str | None = None
        self._codec = "utf-8"
        self._versions: dict[bytes, str] = {}
        self._roles: set[str] = set()
        self._rows: dict[str, int] = {}
        self._copying: sqltext.CopyHeader | None = None
        self._table = ""
        self._names = 0
        self._migration_data: bytearray | None = None
        self._migrations: tuple[str, ...] | None = None
        self._statements = 0
        self._key: bytes | None = None
        self._last_comments: tuple[bytes, ...] = ()
        self._ended = False

    @property
    def length(self) -> int:
        """Bytes of SQL read so far."""
        return self._length

    @property
    def table(self) -> str | None:
        """The table whose rows are being read, while they are."""
        return self._table if self._copying else None

    @property
    def rows_read(self) -> int:
        """Rows read so far of the table whose rows are being read."""
        return self._rows[self._table] if self._copying else 0

    def feed(self, block: bytes) -> None:
        """Read the next block of the text."""
        self._length += len(block)
        self._sql.update(block)
        self._lexer.feed(block)

    def finish(self) -> Scan:
        """Say what was read; the text ends here."""
        self._lexer.finish()
        return Scan(
            problem=self._problem or self._incompleteness(),
            length=self._length,
            sha256=self._sql.hexdigest(),
            content_sha256=self._content.hexdigest(),
            rows=self._rows,
            migrations=self._migrations,
            roles=tuple(sorted(self._roles)),
            server_version=self._versions.get(b"from database"),
            pg_dump_version=self._versions.get(b"by pg_dump"),
        )

    def _incompleteness(self) -> str | None:
        if not self._length:
            return "it is empty"
        if self._copying:
            return f"cut short: it ends after {self.rows_read} rows of table {self.table}"
        if place := self._lexer.place:
            return f"cut short: it ends inside {place}"
        if not self._ended:
            return "cut short: the line that ends every pg_dump is missing"
        if self._key is not None:
            return "cut short: the \\unrestrict that ends it is missing"
        return None

    # What the lexer hears.

    def comment(self, text: bytes) -> None:
        """Notice the versions at the top and the line that ends the dump."""
        self._last_comments = (*self._last_comments[-2:], text)
        if self._last_comments == _TRAILER:
            self._ended = True
        if not self._statements and (version := _VERSION.match(text)):
            self._versions.setdefault(version[1], version[2].decode("ascii", "backslashreplace"))

    def command(self, line: bytes) -> bool:
        """Follow the ``\\restrict`` key; any other command but ``\\connect`` makes the dump unprovable."""
        line = line.rstrip(b"\r")
        verb, _, argument = line.partition(b" ")
        if verb == b"\\restrict" and self._key is None and _KEY.fullmatch(argument):
            self._key = argument
            return False
        if verb == b"\\unrestrict" and argument == self._key:
            self._key = None
            return False
        if not _CONNECT.fullmatch(line):  # also one with another command, or a shell's, behind it
            self.misplaced(f"the psql command {sqltext.decode(line.split()[0][:32], self._codec)}")
        self._not_the_end()
        return True

    def statement(self, head: bytes) -> bool:
        """Learn from a statement; a COPY's rows are counted from here on."""
        self._statements += 1
        self._not_the_end()
        for role in sqltext.roles_named(head):
            self._roles.add(self._counted(role, self._roles))
        if setting := sqltext.setting(head):
            self._heed(*setting)
        self._copying = sqltext.copy_header(head)
        if self._copying is None:
            return False
        self._table = self._counted(self._copying.table, self._rows)
        self._rows.setdefault(self._table, 0)
        if self._copying.table == MIGRATIONS_TABLE:
            self._migration_data = bytearray()
        return True

    def data(self, buffer: bytes, start: int, end: int) -> None:
        """Count rows; keep those of ``django_migrations``."""
        self._rows[self._table] += buffer.count(b"\n", start, end)
        if self._migration_data is not None:
            self._migration_data += buffer[start : min(end, start + MIGRATIONS_LIMIT - len(self._migration_data))]

    def end_of_data(self) -> None:
        """Read the migrations out of their table's rows."""
        if self._migration_data is not None and self._copying is not None:
            self._migrations = _migrations(self._copying.columns, bytes(self._migration_data), self._codec)
        self._migration_data = None
        self._copying = None

    def misplaced(self, what: str) -> None:
        """Give up the proof: what follows can't be told for sure."""
        self._problem = self._problem or f"no plain pg_dump: it holds {what}, which pg_dump never writes"

    def content(self, piece: memoryview) -> None:
        """Hash the text without the lines of the random key."""
        self._content.update(piece)

    def _counted(self, raw: bytes, known: Container[str]) -> str:
        """A name to be kept. When there are too many, all are let go: the dump is no proved one any more."""
        name = sqltext.decode(raw, self._codec)
        self._names += 0 if name in known else len(name) + _WITH_NAME
        if self._names > NAMES_LIMIT:
            self.misplaced("more names of tables and roles than can be kept")
            self._rows.clear()
            self._roles.clear()
            self._names = 0
        return name

    def _heed(self, name: str, value: str) -> None:
        if name == "client_encoding":
            self._codec = sqltext.python_codec(value)
        elif name == "standard_conforming_strings":
            self._lexer.standard_strings = value != "off"

    def _not_the_end(self) -> None:
        self._last_comments = ()
        if self._ended:
            self.misplaced("more text after the line that ends a dump")


def _migrations(columns: tuple[bytes, ...], data: bytes, codec: str) -> tuple[str, ...] | None:
    """``app.name`` of every row, or ``None`` when the columns or the amount aren't those of Django."""
    if b"app" not in columns or b"name" not in columns or len(data) >= MIGRATIONS_LIMIT:
        return None
    app, name = columns.index(b"app"), columns.index(b"name")
    rows = (line.split(b"\t") for line in data.split(b"\n"))
    return tuple(f"{_text(row[app], codec)}.{_text(row[name], codec)}" for row in rows if len(row) == len(columns))


def _text(value: bytes, codec: str) -> str:
    return sqltext.decode(sqltext.copy_value(value) or b"", codec)
