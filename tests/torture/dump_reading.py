"""Whether a file is a whole dump, read by nobody who wrote it: the standard library alone, line by line.

Good for the dumps of tests, whose text outside COPY never looks like a command. The daemon's own lexer isn't used.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_COPY = re.compile(rb"COPY (\S+) (?:\(.*\) )?FROM stdin;\n")
_KEYED = re.compile(rb"\\(restrict|unrestrict) (\S+)\n")
_COMPLETE = b"-- PostgreSQL database dump complete\n"


@dataclass
class Reading:
    """What a file holds: `rows` per table as the dump names it, and why it isn't whole, if it isn't."""

    problem: str | None = None
    rows: dict[str, int] = field(default_factory=dict)
    sha256: str = ""


def read_dump(path: Path) -> Reading:
    """Read a gzipped dump whole. Anything wrong with it is the reading's `problem`."""
    reading = Reading()
    try:
        with gzip.open(path) as lines:
            reading.problem = _read(lines, reading)
    except (OSError, EOFError, zlib.error) as error:
        reading.problem = f"not whole as gzip: {error}"
    return reading


def _read(lines: Iterable[bytes], reading: Reading) -> str | None:
    digest = hashlib.sha256()
    keys: dict[bytes, bytes] = {}
    table, complete = "", False
    for line in lines:
        digest.update(line)
        if table:
            if line == b"\\.\n":
                table = ""
            else:
                reading.rows[table] += 1
        elif copy := _COPY.fullmatch(line):
            table = copy[1].decode()
            reading.rows[table] = 0
        elif keyed := _KEYED.fullmatch(line):
            keys[keyed[1]] = keyed[2]
        complete = complete or (not table and line == _COMPLETE)
    reading.sha256 = digest.hexdigest()
    return _problem(table, complete, keys)


def _problem(table: str, complete: bool, keys: dict[bytes, bytes]) -> str | None:
    if table:
        return f"it ends inside the rows of {table}"
    if not complete:
        return "pg_dump's closing line is missing"
    if keys.get(b"restrict") != keys.get(b"unrestrict"):
        return "its \\unrestrict isn't that of its \\restrict"
    return None
