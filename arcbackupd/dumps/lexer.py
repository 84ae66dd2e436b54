"""Take the text of a plain pg_dump apart as psql would, from blocks cut anywhere.

Outside COPY the rules are those of psql's own lexer (src/fe_utils/psqlscan.l): quoted, ``E''`` and
dollar-quoted strings, quoted identifiers, nested comments, parentheses, ``BEGIN ATOMIC … END`` bodies, backslash
commands. Inside COPY they are those of the text format: ``\\.`` alone on a line ends the data.

Strings and data are skipped by searches in native code; of a token that crosses a border only a bounded piece
is kept, so memory doesn't grow with the dump, nor with its longest row, literal or statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar, Protocol

HEAD_LIMIT = 1 << 20
"""Bytes of a statement that are kept to be understood; a longer one is only skipped over."""
LINE_LIMIT = 4096
"""Bytes kept of a comment line, and the longest backslash command that is read."""
TOKEN_LIMIT = 256
"""Bytes held back at a border for a token that may go on."""
TAG_LIMIT = 64 << 10
"""Bytes of a dollar quote's tag: pg_dump lengthens it for as long as the quoted text holds it."""

_MORE = -1  # what a state returns when it can't decide before the next block

_SPACE = re.compile(rb"[ \t\r\n\f\v]*")
_ODD_SPACE = re.compile(rb"[\r\f\v]")
_SPECIAL = re.compile(rb"""['"$;\\()]|--|/\*""")
_WORD = re.compile(rb"[A-Za-z0-9_$\x80-\xff]*")
_WORD_BYTES = bytes(byte for byte in range(256) if _WORD.fullmatch(bytes([byte])))
_LINE_END = re.compile(rb"[\r\n]")
_IDENTIFIER_START = re.compile(rb"[A-Za-z_\x80-\xff]")
_DOLLAR_TAG = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
_DOLLAR_TAG_BEGUN = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\Z")
_QUOTE_OR_BACKSLASH = re.compile(rb"['\\]")
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
_ROUTINE = re.compile(rb"CREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\s", re.IGNORECASE)
_BLOCK_WORD = re.compile(rb"(?<![A-Za-z0-9_$\x80-\xff])(BEGIN|CASE|END)(?![A-Za-z0-9_$\x80-\xff])", re.IGNORECASE)
_COPY_END = b"\n\\."
_COPY_END_AFTER_LINE = re.compile(re.escape(_COPY_END))
"""In rows the engine of `re` is twice as fast as `bytes.find`."""
_COPY_END_LINE = re.compile(rb"\\\.\r?\n")
_COPY_END_LINE_BEGUN = re.compile(rb"\\(?:\.\r?)?\Z")


class Reader(Protocol):
    """What hears of the pieces, in order."""

    def comment(self, text: bytes) -> None:
        """A ``--`` line between two statements, without its newline, cut at LINE_LIMIT."""

    def command(self, line: bytes) -> bool:
        """A backslash command between statements; answer whether it is content, or a token of this very dump."""

    def statement(self, head: bytes) -> bool:
        """A statement without its ``;``, cut at HEAD_LIMIT; answer whether rows of COPY data follow."""

    def data(self, buffer: bytes, start: int, end: int) -> None:
        """A piece of COPY data, from ``start`` to ``end``; all of them together end with a newline."""

    def end_of_data(self) -> None:
        """The ``\\.`` of the COPY was read."""

    def misplaced(self, what: str) -> None:
        """Something that pg_dump never writes, after which nothing can be told for sure."""

    def content(self, piece: memoryview) -> None:
        """The text itself, piece by piece, without the lines that `command` declared no content."""


class Lexer:
    """Feed it the text with `feed`, then call `finish`; it calls the reader. `place` says where the text stands."""

    def __init__(self, reader: Reader, before_statement: Callable[[], None] | None = None) -> None:
        """``before_statement`` is called wherever one begins, when all that stands before it was handed on.

        With it the reader also hears of what stands between statements and pg_dump doesn't write: comments but for
        lines of ``--``, and white space but for blanks and newlines.
        """
        self._reader = reader
        self._before_statement = before_statement
        self._state: Callable[[bytes, int], int] = self._between
        self._carry = b""
        self._content_from = 0
        self._head = bytearray()
        self._head_from = 0
        self._in_statement = False
        self._parentheses = 0
        self._blocks = 0
        self._is_routine: bool | None = None
        self._dollar_tag = b""
        self._comment_depth = 0
        self._comment_line = bytearray()
        self._gap: bytes = b""
        self._line_start = False
        self.standard_strings = True
        """``standard_conforming_strings``, as the dump set it."""

    @property
    def place(self) -> str | None:
        """What the text so far is in the middle of, in words; ``None`` between two statements."""
        if self._state == self._between:
            return "a line" if self._carry else None
        return _PLACES[self._state.__name__]

    def feed(self, block: bytes) -> None:
        """Read the next block."""
        buffer = self._carry + block if self._carry else block
        position = self._content_from = self._head_from = 0
        while position < len(buffer):
            reached = self._state(buffer, position)
            if reached == _MORE:
                break
            position = reached
        if self._in_statement:
            self._keep_head(buffer, position)
        self._hand_content(buffer, position)
        self._carry = buffer[position:]

    def finish(self) -> None:
        """The text ends here: what was held back is handed on."""
        if self._state == self._copy_data:
            self._reader.data(self._carry, 0, len(self._carry))
        self._reader.content(memoryview(self._carry))

    def _hand_content(self, buffer: bytes, end: int) -> None:
        self._reader.content(memoryview(buffer)[self._content_from : end])
        self._content_from = end

    def _enter(self, state: Callable[[bytes, int], int], position: int) -> int:
        self._state = state
        return position

    # Between statements.

    def _between(self, buffer: bytes, position: int) -> int:
        space = _SPACE.match(buffer, position)
        start = space.end() if space else position
        if start > position:
            if self._before_statement and _ODD_SPACE.search(buffer, position, start):
                self._reader.misplaced("white space of other kinds between statements")
            return start
        two = buffer[start : start + 2]
        if two in (b"-", b"/"):
            return _MORE
        if two == b"--":
            return self._enter(self._comment_between, start)
        if two == b"/*":
            if self._before_statement:
                self._reader.misplaced("a comment of many lines")
            return self._begin_block_comment(start)
        if two[:1] == b"\\":
            return self._command(buffer, start)
        return self._begin_statement(buffer, start)

    def _comment_between(self, buffer: bytes, position: int) -> int:
        end = _LINE_END.search(buffer, position)
        stop = end.start() if end else len(buffer)
        room = LINE_LIMIT - len(self._comment_line)
        self._comment_line += buffer[position : min(stop, position + room)]
        if end is None:
            return stop
        if self._before_statement and end[0] == b"\r":
            self._reader.misplaced("a comment that ends with a carriage return")
        self._reader.comment(bytes(self._comment_line))
        self._comment_line.clear()
        return self._enter(self._between, end.end())

    def _command(self, buffer: bytes, position: int) -> int:
        end = buffer.find(b"\n", position, position + LINE_LIMIT)
        if end < 0 and len(buffer) - position < LINE_LIMIT:
            return _MORE
        if end < 0:
            self._reader.misplaced("a backslash command without an end")
            return self._enter(self._line_comment, position)
        if not self._reader.command(buffer[position:end]):
            self._hand_content(buffer, position)
            self._content_from = end + 1
        return end + 1

    # Statements.

    def _begin_statement(self, buffer: bytes, position: int) -> int:
        if self._before_statement:
            self._hand_content(buffer, position)
            self._before_statement()
        self._head.clear()
        self._head_from = position
        self._in_statement = True
        self._parentheses = self._blocks = 0
        self._is_routine = None
        return self._enter(self._statement, position)

    def _statement(self, buffer: bytes, position: int) -> int:
        found = _SPECIAL.search(buffer, position)
        if found is None:
            end = self._hold_back(buffer, position)
            self._count_blocks(buffer, position, end)
            return end
        self._count_blocks(buffer, position, found.start())
        return self._TOKENS[found[0]](self, buffer, found.start(), position)

    def _hold_back(self, buffer: bytes, position: int) -> int:
        """Consume what can't be the beginning of a token that goes on in the next block."""
        word = self._word_before(buffer, len(buffer), position)
        if len(word) == TOKEN_LIMIT:
            return self._enter(self._long_word, len(buffer))
        end = len(buffer) - len(word)
        if end == len(buffer) and buffer[-1:] in (b"-", b"/"):
            end -= 1
        return end if end > position else _MORE

    def _long_word(self, buffer: bytes, position: int) -> int:
        word = _WORD.match(buffer, position)
        end = word.end() if word else position
        return end if end == len(buffer) else self._enter(self._statement, end)

    def _semicolon(self, buffer: bytes, start: int, _position: int) -> int:
        if self._parentheses or self._blocks:
            return start + 1
        self._keep_head(buffer, start)
        self._in_statement = False
        copy = self._reader.statement(bytes(self._head))
        return self._enter(self._rest_of_copy_line if copy else self._between, start + 1)

    def _keep_head(self, buffer: bytes, end: int) -> None:
        room = max(0, HEAD_LIMIT - len(self._head))
        self._head += buffer[self._head_from : min(end, self._head_from + room)]
        self._head_from = end

    def _count_blocks(self, buffer: bytes, start: int, end: int) -> None:
        """Follow BEGIN and END of an SQL-standard body, in which a ``;`` ends nothing, as psql counts them."""
        if self._parentheses:
            return
        for word in _BLOCK_WORD.finditer(buffer, start, max(start, end + 1)):  # the next byte may belong to it
            if word.end() > end or not self._in_routine(buffer, word.start()):
                continue
            match word[1].upper():
                case b"BEGIN":
                    self._blocks += 1
                case b"CASE" if self._blocks:
                    self._blocks += 1
                case b"END" if self._blocks:
                    self._blocks -= 1

    def _in_routine(self, buffer: bytes, start: int) -> bool:
        """Whether a statement begins as a routine does: settled by what stands before the first such word."""
        if self._is_routine is None:
            self._keep_head(buffer, start)
            self._is_routine = _ROUTINE.match(self._head) is not None
        return self._is_routine

    def _open_parenthesis(self, _buffer: bytes, start: int, _position: int) -> int:
        self._parentheses += 1
        return start + 1

    def _close_parenthesis(self, _buffer: bytes, start: int, _position: int) -> int:
        self._parentheses = max(0, self._parentheses - 1)
        return start + 1

    def _backslash(self, _buffer: bytes, start: int, _position: int) -> int:
        self._reader.misplaced("a backslash command inside a statement")
        return self._enter(self._line_comment, start)

    # Quotes. A doubled quote is read as the end of one string and the beginning of the next.

    def _open_quote(self, buffer: bytes, start: int, position: int) -> int:
        escapes = not self.standard_strings or self._word_before(buffer, start, position) in (b"E", b"e")
        return self._enter(self._escape_string if escapes else self._string, start + 1)

    def _open_identifier(self, _buffer: bytes, start: int, _position: int) -> int:
        return self._enter(self._quoted_identifier, start + 1)

    def _open_dollar(self, buffer: bytes, start: int, position: int) -> int:
        word = self._word_before(buffer, start, position)
        if len(word) == TOKEN_LIMIT or _IDENTIFIER_START.search(word):
            return self._rest_of_identifier(buffer, start, position)
        tag = _DOLLAR_TAG.match(buffer, start)
        if tag is not None and len(tag[0]) <= TAG_LIMIT:
            self._dollar_tag = tag[0]
            return self._enter(self._dollar_string, tag.end())
        begun = tag is None and _DOLLAR_TAG_BEGUN.match(buffer, start)
        if begun and len(buffer) - start <= TAG_LIMIT:
            return start if start > position else _MORE
        if tag or begun:
            self._reader.misplaced("a dollar quote without a bound")
        return start + 1

    def _rest_of_identifier(self, buffer: bytes, start: int, position: int) -> int:
        word = _WORD.match(buffer, start)
        end = word.end() if word else start
        return end if end < len(buffer) else self._hold_back(buffer, position)

    @staticmethod
    def _word_before(buffer: bytes, start: int, position: int) -> bytes:
        text = buffer[max(position, start - TOKEN_LIMIT) : start]
        return text[len(text.rstrip(_WORD_BYTES)) :]

    def _string(self, buffer: bytes, position: int) -> int:
        return self._until(b"'", buffer, position)

    def _quoted_identifier(self, buffer: bytes, position: int) -> int:
        return self._until(b'"', buffer, position)

    def _until(self, quote: bytes, buffer: bytes, position: int) -> int:
        end = buffer.find(quote, position)
        return len(buffer) if end < 0 else self._enter(self._statement, end + 1)

    def _escape_string(self, buffer: bytes, position: int) -> int:
        found = _QUOTE_OR_BACKSLASH.search(buffer, position)
        if found is None:
            return len(buffer)
        start = found.start()
        if found[0] == b"'":
            self._gap = b""
            return self._enter(self._after_escape_string, start + 1)
        if start + 1 == len(buffer):
            return start if start > position else _MORE
        return start + 2

    def _after_escape_string(self, buffer: bytes, position: int) -> int:
        """``''`` is a quote within it, and after white space with a newline in it a quote goes on with it."""
        space = _SPACE.match(buffer, position)
        if space and space[0]:
            self._gap = b"\n" if b"\n" in self._gap + space[0] else b" "
            return space.end()
        if buffer.startswith(b"'", position) and self._gap != b" ":
            return self._enter(self._escape_string, position + 1)
        return self._enter(self._statement, position)

    def _dollar_string(self, buffer: bytes, position: int) -> int:
        end = buffer.find(self._dollar_tag, position)
        if end >= 0:
            return self._enter(self._statement, end + len(self._dollar_tag))
        held = len(buffer) - len(self._dollar_tag) + 1
        return held if held > position else _MORE

    # Comments.

    def _open_line_comment(self, _buffer: bytes, start: int, _position: int) -> int:
        return self._enter(self._line_comment, start)

    def _line_comment(self, buffer: bytes, position: int) -> int:
        end = _LINE_END.search(buffer, position)
        return self._enter(self._outside(), end.end()) if end else len(buffer)

    def _open_block_comment(self, _buffer: bytes, start: int, _position: int) -> int:
        return self._begin_block_comment(start)

    def _begin_block_comment(self, start: int) -> int:
        self._comment_depth = 1
        return self._enter(self._block_comment, start + 2)

    def _block_comment(self, buffer: bytes, position: int) -> int:
        edge = _COMMENT_EDGE.search(buffer, position)
        if edge is None:
            held = len(buffer) - (buffer[-1:] in (b"/", b"*"))
            return held if held > position else _MORE
        self._comment_depth += 1 if edge[0] == b"/*" else -1
        return self._enter(self._block_comment if self._comment_depth else self._outside(), edge.end())

    def _outside(self) -> Callable[[bytes, int], int]:
        return self._statement if self._in_statement else self._between

    # COPY data.

    def _rest_of_copy_line(self, buffer: bytes, position: int) -> int:
        end = buffer.find(b"\n", position)
        rest = buffer[position : len(buffer) if end < 0 else end]
        if rest.strip():
            self._reader.misplaced("text between a COPY and its data")
        if end < 0:
            return len(buffer)
        self._line_start = True
        return self._enter(self._copy_data, end + 1)

    def _copy_data(self, buffer: bytes, position: int) -> int:
        if self._line_start:
            if end := _COPY_END_LINE.match(buffer, position):
                return self._end_of_copy(end[0], end.end())
            if _COPY_END_LINE_BEGUN.match(buffer, position):
                return _MORE
            self._line_start = False
        if end := _COPY_END_AFTER_LINE.search(buffer, position):
            self._reader.data(buffer, position, end.start() + 1)
            self._line_start = True
            return end.start() + 1
        held = len(buffer) - _overlap(buffer, _COPY_END)
        if held <= position:
            return _MORE
        self._reader.data(buffer, position, held)
        return held

    def _end_of_copy(self, line: bytes, position: int) -> int:
        if b"\r" in line:  # psql ends the data here all the same
            self._reader.misplaced("data that end with a carriage return")
        self._reader.end_of_data()
        return self._enter(self._between, position)

    _TOKENS: ClassVar[dict[bytes, Callable[[Lexer, bytes, int, int], int]]] = {
        b"'": _open_quote,
        b'"': _open_identifier,
        b"$": _open_dollar,
        b";": _semicolon,
        b"(": _open_parenthesis,
        b")": _close_parenthesis,
        b"\\": _backslash,
        b"--": _open_line_comment,
        b"/*": _open_block_comment,
    }


def _overlap(buffer: bytes, needle: bytes) -> int:
    """How many bytes at the end of the buffer may be the beginning of the needle."""
    return next((n for n in range(len(needle) - 1, 0, -1) if buffer.endswith(needle[:n])), 0)


_PLACES = {
    "_comment_between": "a comment",
    "_line_comment": "a comment",
    "_block_comment": "a comment",
    "_statement": "a statement",
    "_long_word": "a statement",
    "_string": "a quoted string",
    "_escape_string": "a quoted string",
    "_after_escape_string": "a statement",
    "_quoted_identifier": "a quoted name",
    "_dollar_string": "a dollar-quoted string",
    "_rest_of_copy_line": "a COPY statement",
    "_copy_data": "the rows of a table",
}
