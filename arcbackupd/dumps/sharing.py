"""What several sessions may load of a dump at the same time, and what must wait for its turn.

A dump is a program for one session. Another one may help with the rows of a table, with indexes, and with keys, for
as long as the text is what pg_dump writes: its statements leave nothing in the session but settings, which all of
them get. The rest, and all of it after anything else, is for one session, in order.

Within a run of one kind no two sessions wait for each other in a circle: an index takes a SHARE lock of its table,
a primary or unique key an exclusive one of its table alone, the validation of a foreign key none that conflicts
with that of another table's (https://www.postgresql.org/docs/current/explicit-locking.html).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from arcbackupd.dumps import sqltext


class Share(Enum):
    """Who may be given a piece of a dump, and when."""

    TEXT = auto()
    """The first session, at any time: white space and comments."""
    ALONE = auto()
    """The first session, when all before it is done; nothing after it before it is."""
    EVERYWHERE = auto()
    """Every session: a setting."""
    COPY = auto()
    """Every session that helps with the rows that follow: the statement before them."""
    ROWS = auto()
    """Any of these, whole lines."""
    END_OF_ROWS = auto()
    """All of these."""
    INDEX = auto()
    """Any session, beside others of this kind."""
    KEY = auto()
    """Any session, beside others of this kind."""
    FOREIGN_KEY = auto()
    """The first session; its validation any session, beside others of this kind."""


@dataclass(frozen=True)
class Shared:
    """How a statement may be shared, and the table that it is about, as the dump quotes it, with its schema.

    For a foreign key ``unvalidated`` adds it without looking at the rows, and ``validation`` looks at them.
    """

    share: Share
    table: bytes = b""
    unvalidated: bytes = b""
    validation: bytes = b""


_TABLE = rb"(%(i)s\.%(i)s)" % {b"i": sqltext.IDENTIFIER}
_INDEX = re.compile(rb"CREATE (?:UNIQUE )?INDEX %s ON (?:ONLY )?%s " % (sqltext.IDENTIFIER, _TABLE))
_ADD = rb"ALTER TABLE ONLY %s\s+ADD CONSTRAINT (%s) " % (_TABLE, sqltext.IDENTIFIER)
_KEY = re.compile(_ADD + rb"(?:PRIMARY KEY|UNIQUE)\b")
_COLUMNS = rb'(?:[^()"]|"[^"]*")*+'
_FOREIGN_KEY = re.compile(_ADD + rb"FOREIGN KEY \(%s\) REFERENCES %s\(%s\)"
                          rb"(?: ON (?:UPDATE|DELETE) (?:CASCADE|RESTRICT|SET NULL|SET DEFAULT))*"
                          rb"(?: DEFERRABLE)?(?: INITIALLY DEFERRED)?\Z"
                          % (_COLUMNS, _TABLE, _COLUMNS))  # fmt: skip
_RELATED = re.compile(rb"\b(?:PARTITION|INHERITS?)\b")
"""Tables with parents: what is done to one may lock the other. In a name or text it only costs the sharing."""
_CARELESS = frozenset({b"ALTER", b"COMMENT", b"COPY", b"CREATE", b"DROP", b"GRANT", b"REFRESH", b"REVOKE",
                       b"SECURITY"})  # fmt: skip
"""First words of what leaves nothing in the session."""
_ARGUMENTS = rb"\((?:[^()']|'[^']*')*+\)\Z"
_FUNCTIONS = re.compile(rb"SELECT pg_catalog\.(?:setval|lo_\w+|lowrite)" + _ARGUMENTS)
_SETTINGS = re.compile(rb"SET \w+ = [^;]*\Z|SELECT pg_catalog\.set_config" + _ARGUMENTS)
_TABLES = frozenset({b"CREATE TABLE", b"CREATE UNLOGGED", b"CREATE FOREIGN", b"ALTER TABLE", b"ALTER FOREIGN"})
_PASSING = frozenset({b"CREATE TEMP", b"CREATE TEMPORARY", b"CREATE LOCAL", b"CREATE GLOBAL"})
_QUALIFIED = re.compile(_TABLE)
_HARMLESS_NAME = re.compile(rb"[^'\\\n]+")


class Sharing:
    """Feed it the statements in order; it tells how each may be shared."""

    def __init__(self) -> None:
        self._trusted = True
        self._in_transaction = False
        self._related = False

    def distrust(self) -> None:
        """Share nothing from here on."""
        self._trusted = False

    def of(self, head: bytes) -> Shared:
        """How a statement may be shared; ``head`` as in `lexer.Reader.statement`."""
        verb = sqltext.opening(head)
        if self._in_transaction or verb == b"BEGIN" or not self._trusted:
            self._follow_transaction(verb, head)
            return _ALONE
        if _SETTINGS.match(head):
            return Shared(Share.EVERYWHERE)
        word = verb.partition(b" ")[0]
        if (word not in _CARELESS and not _FUNCTIONS.match(head)) or verb in _PASSING:
            self.distrust()
        elif copy := sqltext.copy_header(head):
            return _of_table(Share.COPY, copy.table)
        elif verb in _TABLES:
            self._related = self._related or _RELATED.search(head) is not None
            return _ALONE if self._related else _constraint(head)
        elif index := _INDEX.match(head):
            return _of_table(Share.INDEX, index[1])
        return _ALONE

    def _follow_transaction(self, verb: bytes, head: bytes) -> None:
        """Follow one of the dump's own, as pg_dump writes it around a large object."""
        self._in_transaction = verb != b"COMMIT"
        if self._in_transaction and verb != b"BEGIN" and not _FUNCTIONS.match(head):
            self.distrust()


_ALONE = Shared(Share.ALONE)


def _of_table(share: Share, table: bytes) -> Shared:
    return Shared(share, table) if _QUALIFIED.fullmatch(table) and _HARMLESS_NAME.fullmatch(table) else _ALONE


def _constraint(head: bytes) -> Shared:
    if key := _KEY.match(head):
        return _of_table(Share.KEY, key[1])
    if foreign := _FOREIGN_KEY.match(head):
        validation = b"ALTER TABLE ONLY %s VALIDATE CONSTRAINT %s;\n" % foreign.group(1, 2)
        return Shared(Share.FOREIGN_KEY, foreign[1], head + b" NOT VALID;\n", validation)
    return _ALONE
