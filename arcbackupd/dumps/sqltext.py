"""What single statements of a pg_dump say: COPY headers, roles, settings, values of the COPY text format."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

IDENTIFIER = rb'(?:"(?:[^"]|"")*+"|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+)'
_NAME = rb"%(i)s(?:\s*\.\s*%(i)s)*" % {b"i": IDENTIFIER}
_LIST = rb"%(i)s(?:\s*,\s*%(i)s)*" % {b"i": IDENTIFIER}
_IDENTIFIER = re.compile(IDENTIFIER)
_COMMENT_OR_NAME = re.compile(rb'"(?:[^"]|"")*+"|--[^\r\n]*+|/\*')
_COMMENT_EDGE = re.compile(rb"/\*|\*/")
_COPY = re.compile(rb"COPY\s*(%s)\s*(?:\(\s*(%s)\s*\)\s*)?FROM\s+STDIN\b" % (_NAME, _LIST), re.IGNORECASE)
_COPY_WORD = re.compile(rb"COPY(?![A-Za-z0-9_$\x80-\xff])", re.IGNORECASE)
_SETTING = re.compile(rb"SET\s+(\w+)\s*(?:=|\bTO\b)\s*'?([A-Za-z0-9_-]+)", re.IGNORECASE)
_QUOTED_IDENTIFIER = re.compile(rb'"(?:[^"]|"")*+"')
_MASKED = re.compile(rb'"(\d+)"')
_ROLE_CLAUSES = {
    b"ALTER": re.compile(rb".*\bOWNER\s+TO\s+(%s)\s*\Z|ALTER\s+DEFAULT\s+PRIVILEGES\s+FOR\s+(?:ROLE|USER)\s+(%s)"
                         % (IDENTIFIER, _LIST), re.IGNORECASE | re.DOTALL),
    b"GRANT": re.compile(rb".*\bTO\s+(%s)" % _LIST, re.IGNORECASE | re.DOTALL),
    b"REVOKE": re.compile(rb".*\bFROM\s+(%s)" % _LIST, re.IGNORECASE | re.DOTALL),
    b"CREATE": re.compile(rb"CREATE\s+(?:POLICY\s+%s\s+ON\s+%s(?:\s+AS\s+\w+)?(?:\s+FOR\s+\w+)?\s+TO\s+(%s)"
                          rb"|USER\s+MAPPING\s+FOR\s+(%s)\s+SERVER)"
                          % (IDENTIFIER, _NAME, _LIST, IDENTIFIER), re.IGNORECASE),
    b"SET": re.compile(rb"SET\s+(?:SESSION\s+AUTHORIZATION|ROLE)\s+(%s)" % IDENTIFIER, re.IGNORECASE),
}  # fmt: skip
_NOT_ROLES = frozenset({b"public", b"current_user", b"session_user", b"current_role", b"default", b"none"})
_DEFAULT_PRIVILEGES = re.compile(rb"ALTER\s+DEFAULT\s+PRIVILEGES\b.*\b(?:TO|FROM)\s+(%s)" % _LIST,
                                 re.IGNORECASE | re.DOTALL)  # fmt: skip
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_ESCAPED = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
# Names PostgreSQL gives to encodings whose Python names differ: https://www.postgresql.org/docs/current/multibyte.html
_CODECS = {
    "sql_ascii": "utf-8", "euc_cn": "gb2312", "euc_tw": "utf-8", "mule_internal": "utf-8", "uhc": "cp949",
    "latin10": "iso8859-16", "latin9": "iso8859-15", "latin8": "iso8859-14", "latin7": "iso8859-13",
    "latin6": "iso8859-10", "latin5": "iso8859-9", "koi8r": "koi8-r", "koi8u": "koi8-u",
    "win866": "cp866", "win874": "cp874", "shift_jis_2004": "shift_jis_2004", "euc_jis_2004": "euc_jis_2004",
}  # fmt: skip


@dataclass(frozen=True)
class CopyHeader:
    """``COPY table (columns) FROM stdin``: the table as the dump quotes it, the columns without quotes."""

    table: bytes
    columns: tuple[bytes, ...]


def is_copy(head: bytes) -> bool:
    """Whether a statement is a COPY of any kind."""
    return _COPY_WORD.match(head) is not None


def copy_header(head: bytes) -> CopyHeader | None:
    """Understand a statement as a COPY whose data follow; ``None`` for any other statement."""
    if not is_copy(head):
        return None
    match = _COPY.match(_without_comments(head))
    if match is None:
        return None
    table = b".".join(_IDENTIFIER.findall(match[1]))
    return CopyHeader(table, tuple(map(_unquote, _IDENTIFIER.findall(match[2] or b""))))


def opening(head: bytes) -> bytes:
    """The first two words of a statement, in capitals, without comments."""
    return b" ".join(_without_comments(head).split(None, 2)[:2]).upper()


def setting(head: bytes) -> tuple[str, str] | None:
    """``SET name = value`` as (name, value) in lower case; ``None`` for any other statement."""
    if head[:3].upper() != b"SET":
        return None
    match = _SETTING.match(head)
    return (match[1].decode("ascii", "replace").lower(), match[2].decode("ascii").lower()) if match else None


def roles_named(head: bytes) -> set[bytes]:
    """The roles that a statement needs to exist: owners, grantees, those of policies and user mappings."""
    pattern = _ROLE_CLAUSES.get(head.split(None, 1)[0].upper()) if head else None
    if pattern is None:
        return set()
    names: list[bytes] = []  # quoted ones are put aside: they may hold the very words that are looked for

    def put_aside(match: re.Match[bytes]) -> bytes:
        names.append(match[0])
        return b'"%d"' % (len(names) - 1)

    head = _QUOTED_IDENTIFIER.sub(put_aside, head)
    groups = [group for match in (pattern.match(head), _DEFAULT_PRIVILEGES.match(head)) if match
              for group in match.groups() if group]  # fmt: skip
    idents = [ident for group in groups for ident in _IDENTIFIER.findall(group)]
    unmasked = (_MASKED.sub(lambda match: names[int(match[1])], ident) for ident in idents)
    return {role for role in map(_unquote, unmasked) if role.lower() not in _NOT_ROLES}


def _without_comments(head: bytes) -> bytes:
    """Each comment as a blank."""
    kept, position = [], 0
    while found := _COMMENT_OR_NAME.search(head, position):
        is_name = found[0].startswith(b'"')
        kept += [head[position : found.end()]] if is_name else [head[position : found.start()], b" "]
        position = _end_of_comment(head, found.end()) if found[0] == b"/*" else found.end()
    return b"".join([*kept, head[position:]])


def _end_of_comment(head: bytes, position: int) -> int:
    """Where a comment that begins before a position ends; they nest."""
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(head, position)):
        depth += 1 if edge[0] == b"/*" else -1
        position = edge.end()
    return len(head) if depth else position


def copy_value(field: bytes) -> bytes | None:
    """A field of the COPY text format, its escapes undone; ``None`` for ``\\N``."""
    if field == b"\\N":
        return None
    return _ESCAPE.sub(_unescape, field) if b"\\" in field else field


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, character = match.groups()
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    return _ESCAPED.get(character, character)


def python_codec(encoding: str) -> str:
    """The Python codec for a PostgreSQL encoding's name; UTF-8 for one that Python doesn't know."""
    name = encoding.lower()
    name = _CODECS.get(name, name.replace("win", "cp") if name.startswith("win") else name)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "utf-8"


def decode(raw: bytes, codec: str) -> str:
    """Text of the dump; what isn't valid in its encoding shows as ``\\xNN``."""
    return raw.decode(codec, "backslashreplace")


def _unquote(identifier: bytes) -> bytes:
    return identifier[1:-1].replace(b'""', b'"') if identifier.startswith(b'"') else identifier
