"""What an old psql may be given: statements of which it can't see anything else than we do.

A psql that doesn't know ``\\restrict`` runs whatever it takes for a command. How it tells one, in
src/fe_utils/psqlscan.l, has many corners, which differ between majors. Nothing is gained by going round each of
them: what pg_dump writes stays away from all, but for routines with bodies of SQL, and everything else is refused.
"""

from __future__ import annotations

import re

from arcbackupd.dumps.lexer import HEAD_LIMIT

_WORD = rb"[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+"
_NAME = rb'(?:"(?:[^"]|"")++"|%s)' % _WORD
_END = rb"(?![A-Za-z0-9_$\x80-\xff'\"])"
_NUMBER = rb"(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+" + _END
_BITS = rb"[bBxX]'[0-9A-Fa-f]*+'"
_ESCAPED = rb"[eE]'(?:[^'\\]|\\[^\0]|'')*+'(?![ \t\n]*')"
_BODY = rb"(?P<quote>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$).*?(?P=quote)"
_COLON = rb"::|:=|:[0-9]++" + _END + rb"|:(?=[ \t\n(\]])"
"""Not one that a variable of psql's could begin with."""
_OPERATOR = rb"-(?!-)|/(?!\*)|[+*<>=~!@#%^&|?`.,;()\[\]]|\$[0-9]++" + _END + b"|" + _COLON
_STRINGS = {True: rb"'[^']*+'", False: rb"'[^'\\]*+'"}
"""By ``standard_conforming_strings``: without them a backslash is an escape in some of them only."""
_BARE = rb"(?![uU]&['\"])" + _WORD + rb"(?!')"
_OTHERS = (rb"[ \t\n]++", rb'"[^"]*+"', _BITS, _ESCAPED, _NUMBER, _BARE, _BODY, _OPERATOR)
_TOKENS = {standard: re.compile(b"|".join((*_OTHERS, string)), re.DOTALL) for standard, string in _STRINGS.items()}
_ANY_WORD = re.compile(_WORD)
_COPY = re.compile(rb"COPY %(n)s(?:\.%(n)s)?(?: \(%(n)s(?:, %(n)s)*\)| )? FROM stdin" % {b"n": _NAME})
_HEAD_OF_ROUTINE = (b"create", b"or", b"replace", b"function", b"procedure")


def objection(head: bytes, *, standard_strings: bool) -> str | None:
    """Why an old psql must not be given a statement, as it completes "The dump holds …"; ``None`` when it may.

    ``head`` is the statement without its ``;``, from its first byte on, cut at HEAD_LIMIT.
    """
    if len(head) >= HEAD_LIMIT:
        return "a statement of a megabyte"
    token, position = _TOKENS[standard_strings], 0
    routine = _Routine()
    while position < len(head):
        found = token.match(head, position)
        if found is None:
            return f"{_shown(head, position)}, which an old psql may read otherwise"
        routine.see(found[0])
        position = found.end()
    if routine.has_body:
        return "a routine with a body of SQL, whose end an old psql may see elsewhere"
    if head[:4].upper() == b"COPY" and not _COPY.fullmatch(head):
        return "a COPY other than pg_dump writes it"
    return None


class _Routine:
    """Whether a statement is one in which psql counts BEGIN and END, and has a BEGIN, as psql goes by."""

    def __init__(self) -> None:
        self._words = 0
        self._head: list[bytes] = []
        self._depth = 0
        self.has_body = False

    def see(self, token: bytes) -> None:
        """The next token."""
        if token in (b"(", b")"):
            self._depth += 1 if token == b"(" else -1
        elif _ANY_WORD.fullmatch(token):
            self._see_word(token.lower())

    def _see_word(self, word: bytes) -> None:
        if len(self._head) == self._words and word in _HEAD_OF_ROUTINE:
            self._head.append(word[:1])
        self._words += 1
        first = b"".join(self._head)
        in_routine = first.startswith((b"cf", b"cp", b"corf", b"corp"))
        self.has_body = self.has_body or (in_routine and word == b"begin" and self._depth <= 0)


def _shown(head: bytes, position: int) -> str:
    """The first two words of a statement; what is odd in it may be hostile, or long."""
    start = b" ".join(head[:position].split()[:2]).decode("ascii", "backslashreplace")
    return f"something odd in a statement {start}".rstrip()
