"""The psql sessions that load one dump together: who is given which piece of it, and when.

The first gets all that has to stay in order; the others help with what may be shared, where it is worth it. Each is
fed through a pipe of its own, so that they work at the same time; a question whose answer comes back tells when one
has done all that it was given.
"""

from __future__ import annotations

import secrets
import select
from collections.abc import Mapping, Sequence

from arcbackupd.dumps.loading import CopiedTable, CopyCheck, LoadedRows, LoadText, Piece
from arcbackupd.dumps.sharing import Share
from arcbackupd.postgres import SEND_AUTOVACUUM_AWAY
from arcbackupd.stack.process import Dialogue, InputClosed

PATIENCE = f"{SEND_AUTOVACUUM_AWAY};\n".encode()
LARGE_ROWS = 50_000
"""Rows of a table from which on it is worth to share the work on it."""
_TAIL = 64 << 10
_HELD = 1000
"""Statements of a run that may be held back."""
_IS_PLAIN = (
    b"SELECT pg_catalog.bool_or(relkind = 'r' AND NOT relhasindex AND NOT relhastriggers AND NOT relhasrules)"
    b" FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass('%s')"
)
"""Whether rows can go into a table without anybody's waiting for another session's."""


class LoadProblem(Exception):
    """What a session loaded isn't what it was given; the text says what."""


class SessionEnded(Exception):
    """A session ended before it had all; `Session.psql` tells how."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session


class Session:
    """One psql: what it was given, and what it says."""

    def __init__(self, psql: Dialogue, given: Sequence[CopiedTable], loaded: LoadedRows) -> None:
        self.psql = psql
        self.check = CopyCheck(given, loaded)
        self.done = True
        """Whether it is known to have done all that it was given."""
        self._answer = b""
        self._token = b""
        self._said = b""
        self._line = 0
        self._origins: list[tuple[int, int]] = []

    def write(self, text: bytes | memoryview, *, origin: int, lines: int) -> None:
        """Give it a piece of the dump, that begins behind so many lines of it, with so many newlines.

        Raise SessionEnded, LoadProblem.
        """
        if not self._origins or self._origins[-1][1] - self._origins[-1][0] != origin - self._line:
            self._origins.append((self._line, origin))
        self.write_rows(text, lines)

    def write_rows(self, text: bytes | memoryview, lines: int) -> None:
        """Give it rows, whole lines or not, wherever they stand in the dump."""
        self._token = b""
        self._hand_over(text, lines)

    def ask(self, question: bytes = b"SELECT true") -> None:
        """Ask it something in SQL; it answers `t` or something else, when it has done what it was given before."""
        self._token = secrets.token_hex(16).encode()
        self._answer = self._said = b""
        # Behind rows and an empty statement a psql of 18 answers nothing any more: none may stand before it.
        answer = b"'%s ' || coalesce((%s)::pg_catalog.text, 'unknown')" % (self._token, question)
        self._hand_over(b"\nSELECT %s;\n" % answer, 2)

    def _hand_over(self, text: bytes | memoryview, lines: int) -> None:
        self._line += lines
        self.done = False
        try:
            self._heed(self.psql.write(text))
        except InputClosed:
            raise SessionEnded(self) from None

    def hear(self) -> None:
        """Wait for some of what it says. Raise SessionEnded at its end, LoadProblem."""
        if not (heard := self.psql.read()):
            raise SessionEnded(self)
        self._heed(heard)

    @property
    def asked(self) -> bool:
        """Whether it was asked last of all, and hasn't answered yet."""
        return self._token != b""

    @property
    def agreed(self) -> bool:
        """Whether its last answer was yes."""
        return self._answer.startswith(b"t")

    def line_of_dump(self, line: int) -> int:
        """The line of the dump that it counts as such a line of its own input."""
        own, origin = next((pair for pair in reversed(self._origins) if pair[0] < line), (0, 0))
        return line - own + origin

    def _heed(self, heard: bytes) -> None:
        if problem := self.check.feed(heard):
            raise LoadProblem(problem)
        if self._token and heard:
            self._said += heard
            _, token, answer = self._said.rpartition(self._token)
            if token and b"\n" in answer:
                self._answer, self._token, self.done = answer.strip(), b"", True
            else:
                self._said = self._said[-4 * len(self._token) :]


class Sessions:
    """All of them. Every method may raise SessionEnded and LoadProblem."""

    def __init__(self, psqls: Sequence[Dialogue], text: LoadText, expected: Mapping[str, int]) -> None:
        """``text`` is what they will be given, ``expected`` the rows per table."""
        self._expected = expected
        self._loaded = LoadedRows(expected)
        self._copies: list[list[CopiedTable]] = [text.copies, *([] for _ in psqls[1:])]
        self.all = [Session(psql, given, self._loaded) for psql, given in zip(psqls, self._copies, strict=True)]
        self._first, *self._helpers = self.all
        self._copying = [0]
        self._turn = 0
        self._run: Share | None = None
        self._held: list[Piece] = []

    def begin(self, *, restricted: bool) -> None:
        """Let them refuse all commands of psql's own, if they can, and not wait for autovacuum."""
        for session in self.all:
            if restricted:
                session.write_rows(b"\\restrict %s\n" % secrets.token_hex(16).encode(), 1)
            session.write_rows(PATIENCE, PATIENCE.count(b"\n"))

    def give(self, piece: Piece) -> None:
        """Hand over the next piece of the dump."""
        match piece.shared.share:
            case Share.TEXT:
                self._write(0, piece)
            case Share.EVERYWHERE:
                self._end_run()
                for number in range(len(self.all)):
                    self._write(number, piece)
            case Share.ALONE:
                self._in_order(piece)
            case Share.COPY:
                self._begin_rows(piece)
            case Share.ROWS:
                self._give_rows(piece)
            case Share.END_OF_ROWS:
                for number in self._copying:
                    self._write(number, piece)
            case share:
                self._give_statement(piece, share)

    def finish(self) -> None:
        """There is nothing more to hand over."""
        self._end_run()
        for session in self.all:
            session.ask()
            session.psql.end_input()

    def problem(self) -> str | None:
        """What is wrong when all have ended."""
        if not all(session.done for session in self.all):
            return "psql ended before it had loaded the last of it"
        return next(filter(None, (session.check.finish() for session in self.all)), None)

    def _write(self, number: int, piece: Piece) -> None:
        self.all[number].write(piece.text, origin=piece.line, lines=piece.lines)

    def _in_order(self, piece: Piece) -> None:
        self._end_run()
        self._wait(self._helpers)
        self._write(0, piece)

    def _is_large(self, table: str) -> bool:
        return bool(self._helpers) and self._expected.get(table, 0) >= LARGE_ROWS

    # Rows, from one newline to another, to the session that has least to do.

    def _begin_rows(self, piece: Piece) -> None:
        assert piece.copied is not None
        self._copying = [0]
        if self._is_large(piece.table):
            self._end_run()
            self._wait(self.all)
            helper = self._helpers[0]
            helper.ask(_IS_PLAIN % piece.shared.table)
            self._wait([helper])
            if helper.agreed:
                self._copying = [*range(len(self.all))]
        if len(self._copying) == 1:
            self._in_order(piece)
            return
        self._turn = 0
        for copies in self._copies[1:]:
            copies.append(CopiedTable(piece.copied.name))
        for number in self._copying:
            self._write(number, piece)

    def _give_rows(self, piece: Piece) -> None:
        if len(self._copying) == 1:
            self._write(0, piece)
        elif end := _after_last_newline(piece.text):
            self._note_rows(piece)
            self.all[self._turn].write_rows(piece.text[:end], piece.lines)
            self._turn = min(self._copying, key=lambda number: self.all[number].psql.backlog)
            self.all[self._turn].write_rows(piece.text[end:], 0)
        else:
            self.all[self._turn].write_rows(piece.text, 0)

    def _note_rows(self, piece: Piece) -> None:
        assert piece.copied is not None
        if self._turn:
            self._copies[self._turn][-1].rows += piece.lines
            piece.copied.elsewhere += piece.lines

    # Runs of statements that any session may be given: those of the largest tables first, so that none comes last.

    def _give_statement(self, piece: Piece, share: Share) -> None:
        large = self._is_large(piece.table)
        if self._run is not share and not large:
            self._in_order(piece)
            return
        if self._run is not share:
            self._end_run()
            self._wait(self.all)
            self._run = share
        if not large:
            self._write(0, piece)
            return
        if share is Share.FOREIGN_KEY:
            self._first.write(piece.shared.unvalidated, origin=piece.line, lines=piece.lines)
        self._held.append(piece)
        if len(self._held) == _HELD:
            self._end_run()

    def _end_run(self) -> None:
        """Begin what was held back; it need not be done yet."""
        if self._held and self._run is Share.FOREIGN_KEY:
            self._wait([self._first])
        for piece in sorted(self._held, key=lambda piece: -self._expected[piece.table]):
            self._hand_out(piece.shared.validation or piece.text, piece)
        self._held.clear()
        self._run = None

    def _hand_out(self, statement: bytes | memoryview, piece: Piece) -> None:
        """Give a statement to a session that has time."""
        while not (free := [session for session in self.all if not session.asked]):
            self._hear(self.all)
        free[-1].write(statement, origin=piece.line, lines=bytes(statement).count(b"\n"))
        free[-1].ask()

    def _wait(self, sessions: Sequence[Session]) -> None:
        """Wait until sessions have done all that they were given."""
        waiting = [session for session in sessions if not session.done]
        for session in waiting:
            if not session.asked:
                session.ask()
        while waiting := [session for session in waiting if not session.done]:
            self._hear(waiting)

    def _hear(self, sessions: Sequence[Session]) -> None:
        """Wait until one of them says something."""
        poll = select.poll()
        by_descriptor = {session.psql.fileno(): session for session in sessions}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll():
            by_descriptor[descriptor].hear()


def _after_last_newline(text: memoryview) -> int:
    """Where the last line begins; most are short."""
    near = max(0, len(text) - _TAIL)
    found = bytes(text[near:]).rfind(b"\n") + 1
    return near + found if found or not near else bytes(text).rfind(b"\n") + 1
