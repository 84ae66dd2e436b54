"""The dump scanner: the same verdict wherever the text is cut, and bounded memory while it reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from arcbackupd.dumps import lexer
from arcbackupd.dumps.scan import MIGRATIONS_LIMIT, Scan, Scanner
from tests.fuzz.cuts import pieces
from tests.fuzz.pump import pumped

HELD_BACK = lexer.TAG_LIMIT + lexer.LINE_LIMIT
"""Bytes of text that may wait for the next block."""


def one(data: bytes) -> None:
    """Scan a text whole and in pieces."""
    text = pumped(data)
    whole = scan([text])
    assert whole == scan(pieces(text))
    assert whole.length == len(text)
    assert whole.sha256 == hashlib.sha256(text).hexdigest()
    assert whole.problem is None or whole.problem.isprintable() or "\\x" in ascii(whole.problem)
    if whole.problem is None:
        proved(whole, text)


def scan(blocks: Iterable[bytes]) -> Scan:
    """What the scanner says, held to its limits after each block."""
    scanner = Scanner()
    for block in blocks:
        scanner.feed(block)
        within_limits(scanner, len(block))
    return scanner.finish()


def within_limits(scanner: Scanner, block: int) -> None:
    """Hold what is kept between two blocks against what may be."""
    reading = scanner._lexer
    assert len(reading._carry) <= min(block, HELD_BACK) + HELD_BACK
    assert len(reading._head) <= lexer.HEAD_LIMIT
    assert len(reading._comment_line) <= lexer.LINE_LIMIT
    assert len(scanner._migration_data or b"") <= MIGRATIONS_LIMIT


def proved(scanned: Scan, text: bytes) -> None:
    """A dump that is proved can't be cut short and still be proved, but for the empty lines at its end."""
    end = text.rstrip(b"\r\n \t\v\f")
    assert scan([end[:-1]]).problem is not None
    assert sum(scanned.rows.values()) <= text.count(b"\n")
