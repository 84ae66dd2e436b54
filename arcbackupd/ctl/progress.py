"""An operation's events as they come: live on a terminal (with rich, imported only then), else a line a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arcbackupd.ctl.render import event_line
from arcbackupd.ctl.session import Session
from arcbackupd.ctl.words import clean

Replies = Iterator[dict[str, Any]]


def follow(session: Session, replies: Replies) -> dict[str, Any]:
    """Show the events of a stream, but none with ``--json``; return its last reply, which has none."""
    if session.json:
        *_, last = replies
        return last
    return _live(session, replies) if session.on_terminal else _lines(session, replies)


def _lines(session: Session, replies: Replies) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for last in replies:
        if line := _told(last.get("event")):
            session.say(line)
    return last


def _told(event: dict[str, Any] | None) -> str:
    """The line that stays of an event: of a step or a notice; nothing stays of progress."""
    if not event or event.get("type") == "progress":
        return ""
    text, hint = event_line(event), clean(event.get("hint") or "")
    return f"{text}\n  hint: {hint}" if hint else text


def _live(session: Session, replies: Replies) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    last: dict[str, Any] = {}
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    console = Console(highlight=False, no_color=not session.colored)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("…", total=None)
        for last in replies:
            event = last.get("event")
            if line := _told(event):
                progress.console.print(Text(line))
            elif event:
                progress.update(task, description=event_line(event))
    return last
