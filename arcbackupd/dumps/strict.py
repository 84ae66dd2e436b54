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
_NUMBER = rb"(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?+(?![A-Za-z0-9_$\x80-\xff'\"])"
_BITS = rb"[bBxX]'[0-9A-Fa-f]*+'"
_ESCAPED = rb"[eE]'(?:[^'\\]|\\[^\0]|'')*+'(?![ \t\n]*')"
_BODY = rb"(?P<quote>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*+)?\$).*?(?P=quote)"
_OPERATOR = rb"-(?!-)|/(?!\*)|::|:=|:[0-9]++(?![A-Za-z0-9_$\x80-\xff'\"])|[+*<>=~!@#%^&|?.,()\[\]]"
_STRINGS = {True: rb"'[^']*+'", False: rb"'[^'\\]*+'"}
"""By ``standard_conforming_strings``: without them a backslash is an escape in some of them only."""
_OTHERS = (rb"[ \t\n]++", rb'"[^"]*+"', _BITS, _ESCAPED, _NUMBER, _WORD + rb"(?!')", _BODY, _OPERATOR)
_TOKENS = {standard: re.compile(b"|".join((*_OTHERS, string)), re.DOTALL) for standard, string in _STRINGS.items()}
_COPY = re.compile(rb"COPY %(n)s(?:\.%(n)s)?(?: \(%(n)s(?:, %(n)s)*\))? FROM stdin" % {b"n": _NAME})
_BEGIN = re.compile(rb"BEGIN", re.IGNORECASE)
_NO_ROUTINE = re.compile(rb"CREATE (?:(?:UNLOGGED )?TABLE|(?:MATERIALIZED )?VIEW|(?:UNIQUE )?INDEX|TYPE) |[^Cc]")
"""Statements in which psql never looks for the BEGIN of a body."""


def objection(head: bytes, *, standard_strings: bool) -> str | None:
    """Why an old psql must not be given a statement, as it completes "The dump holds …"; ``None`` when it may.

    ``head`` is the statement without its ``;``, from its first byte on, cut at HEAD_LIMIT.
    """
    if len(head) >= HEAD_LIMIT:
        return "a statement of a megabyte"
    token, position = _TOKENS[standard_strings], 0
    begins = False
    while position < len(head):
        found = token.match(head, position)
        if found is None or found.end() == position:
            return f"{_shown(head, position)}, which an old psql may read otherwise"
        begins = begins or _BEGIN.fullmatch(found[0]) is not None
        position = found.end()
    if begins and not _NO_ROUTINE.match(head):
        return "a routine with a body of SQL, whose end an old psql may see elsewhere"
    if head[:4].upper() == b"COPY" and not _COPY.fullmatch(head):
        return "a COPY other than pg_dump writes it"
    return None


def _shown(head: bytes, position: int) -> str:
    """The first two words of a statement; what is odd in it may be hostile, or long."""
    start = b" ".join(head[:position].split()[:2]).decode("ascii", "backslashreplace")
    return f"something odd in a statement {start}".rstrip()
