"""An operation's events on a terminal, for what runs in the foreground without a client."""

from __future__ import annotations

import sys

import click

from arcbackupd.operations.events import Event, Notice, Progress, Step

_MEGA = 1_000_000


class Teller:
    """Lines for steps and notices; of progress one line that changes, where there is a terminal."""

    def __init__(self) -> None:
        self._changing = False
        self._terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Print a sentence to stdout."""
        self.end()
        click.echo(_clean(text))

    def tell(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Progress):
            self._progress(event)
            return
        self.end()
        if isinstance(event, Step):
            click.echo(_clean(event.text), err=True)
        elif isinstance(event, Notice):
            click.echo(_clean(event.text) + (f"\n  hint: {_clean(event.hint)}" if event.hint else ""), err=True)

    def end(self) -> None:
        """Leave the line that changes."""
        if self._changing:
            click.echo("\r\033[K", nl=False, err=True)
            self._changing = False

    def _progress(self, progress: Progress) -> None:
        if not self._terminal:
            return
        of = f" of {progress.total_bytes / _MEGA:,.0f}" if progress.total_bytes else ""
        table = f", {progress.table}" if progress.table else ""
        click.echo(f"\r\033[K  {progress.bytes / _MEGA:,.0f}{of} MB{table}", nl=False, err=True)
        self._changing = True


def _clean(text: str) -> str:
    """A text in which names from elsewhere may stand, fit for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
