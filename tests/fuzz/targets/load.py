"""What psql is given of a dump: no command of psql's own, nothing else left out, wherever the text is cut."""

from __future__ import annotations

import re
from collections.abc import Iterable

from arcbackupd.dumps.loading import CopyCheck, LoadText, RefusedText, adapt_header
from arcbackupd.dumps.scan import Scanner
from tests.fuzz.cuts import pieces
from tests.fuzz.pump import pumped

_OWN_COMMAND = re.compile(rb"\\(?:un)?restrict(?![^\s])[^\n]*\n")


class DumpAlone(LoadText):
    """Without the lines of ours in between."""

    def insert(self, text: bytes) -> None:
        """Leave it out."""


def one(data: bytes) -> None:
    """Filter a text for a new psql and for an old one."""
    text = pumped(data)
    restricted = filtered(text, restricted=True)
    old = filtered(text, restricted=False)
    if old is not None:
        assert restricted is not None, "refused for the psql that protects itself, and not for the other"
        assert rows(old) == rows(restricted)
    if restricted is not None:
        assert sums(restricted) == scanned_rows(text)
    header(text)
    answers(text, restricted)


def filtered(text: bytes, *, restricted: bool) -> LoadText | None:
    """The filter after the whole text, or ``None`` when it refuses it."""
    whole, accepted = passed([text], restricted=restricted)
    cut, accepted_cut = passed(pieces(text), restricted=restricted)
    assert (accepted is None) == (accepted_cut is None), "the verdict depends on where the text is cut"
    if accepted is not None:
        assert whole == cut
        assert is_without_own_commands(whole, text)
    return accepted


def passed(blocks: Iterable[bytes], *, restricted: bool) -> tuple[bytes, LoadText | None]:
    """What was let through, and the filter if it accepted all of it."""
    reading, taken = DumpAlone(restricted=restricted), list[memoryview]()
    try:
        for block in blocks:
            taken += reading.feed(block)
        taken += reading.finish()
    except RefusedText:
        return b"".join(taken), None
    return b"".join(taken), reading


def is_without_own_commands(passed_on: bytes, text: bytes) -> bool:
    """Whether it is the text less lines of ``\\restrict`` and ``\\unrestrict``."""
    position = 0
    for kept in _between_commands(passed_on, text):
        position += len(kept)
    return position == len(passed_on)


def _between_commands(passed_on: bytes, text: bytes) -> Iterable[bytes]:
    begun = at = 0
    for command in _OWN_COMMAND.finditer(text):
        if command.start() < begun or not passed_on.startswith(text[begun : command.start()], at):
            continue
        after = at + command.start() - begun
        if not passed_on.startswith(command[0], after):
            yield text[begun : command.start()]
            at, begun = after, command.end()
    if passed_on[at:] == text[begun:]:
        yield text[begun:]


def rows(reading: LoadText) -> list[tuple[str, int]]:
    """Rows per COPY, in order."""
    return [(copy.name, copy.rows) for copy in reading.copies]


def sums(reading: LoadText) -> dict[str, int]:
    """Rows per table."""
    totals: dict[str, int] = {}
    for name, count in rows(reading):
        totals[name] = totals.get(name, 0) + count
    return totals


def scanned_rows(text: bytes) -> dict[str, int]:
    """Rows per table, as the scanner counts them."""
    scanner = Scanner()
    scanner.feed(text)
    return scanner.finish().rows


def header(text: bytes) -> None:
    """Only settings that are too new are left out, and doing so again changes nothing."""
    for major in (13, 17):
        adapted, left_out = adapt_header(text, major)
        assert adapt_header(adapted, major) == (adapted, [])
        assert (adapted == text) == (not left_out)
        assert set(left_out) <= {"transaction_timeout"}


def answers(text: bytes, reading: LoadText | None) -> None:
    """What psql prints may be anything too."""
    verdicts = []
    for blocks in ([text], pieces(text)):
        check = CopyCheck(reading or LoadText(restricted=True), {})
        verdicts.append(next(filter(None, map(check.feed, blocks)), None) or check.finish())
        assert len(check._line) <= 64
    assert verdicts[0] == verdicts[1]
