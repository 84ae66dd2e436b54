"""A command's answer again and again, in place on a terminal, until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from math import ceil

import click

from arcbackupd.ctl.session import Session
from arcbackupd.ctl.words import clean
from arcbackupd.errors import DaemonUnreachable

_SECONDS = 2.0
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


def watch(session: Session, ask: Callable[[], str]) -> None:
    """Show what ``ask`` returns every two seconds; where no cursor can be moved, only what is new.

    A daemon that isn't there is waited for. Ends by KeyboardInterrupt only, and by what else ``ask`` raises.
    """
    shown = ""
    first = True
    while True:
        try:
            text = ask()
        except DaemonUnreachable as error:
            text = clean(error.message)
        if session.on_terminal and not session.on_dumb_terminal and not session.json:
            click.echo(_in_place(text, first=first), nl=False, color=True)  # moving the cursor is no colour
        elif text != shown:
            session.say(text)
        shown, first = text, False
        time.sleep(_SECONDS)


def _in_place(text: str, *, first: bool) -> str:
    """Over what stood there before; what a screen has no room for is left out, or it would scroll away."""
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    lines = fitting(text.splitlines(), columns or 80, rows - 1)
    screen = "".join(f"{line}{_REST_OF_LINE}\n" for line in lines)
    return (f"{_HOME}{_REST_OF_SCREEN}" if first else _HOME) + screen + _REST_OF_SCREEN


def fitting(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """As many of the lines, at least the first, as fit: a terminal goes on with a long one in its next row."""
    ends = accumulate(max(ceil(len(click.unstyle(line)) / columns), 1) for line in lines)
    return [line for number, (line, end) in enumerate(zip(lines, ends, strict=True)) if end <= rows or not number]
