"""An operation's events as they come: live on a terminal (with rich, imported only then), else a line a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from arcbackupd.ctl.render import event_line
from arcbackupd.ctl.words import clean

Replies = Iterator[dict[str, Any]]
Say = Callable[[str], None]


def follow(replies: Replies, say: Say, *, live: bool, colored: bool) -> dict[str, Any]:
    """Show the events of a stream; return its last reply, which has none."""
    return _live(replies, colored=colored) if live else _lines(replies, say)


def _lines(replies: Replies, say: Say) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for last in replies:
        if line := _told(last.get("event")):
            say(line)
    return last


def _told(event: dict[str, Any] | None) -> str:
    """The line that stays of an event: of a step or a notice; nothing stays of progress."""
    if not event or event.get("type") == "progress":
        return ""
    text, hint = event_line(event), clean(event.get("hint") or "")
    return f"{text}\n  hint: {hint}" if hint else text


def _live(replies: Replies, *, colored: bool) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    last: dict[str, Any] = {}
    columns = SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=Console(highlight=False, no_color=not colored), transient=True) as progress:
        task = progress.add_task("…", total=None)
        for last in replies:
            event = last.get("event")
            if line := _told(event):
                progress.console.print(Text(line))
            elif event:
                progress.update(task, description=event_line(event) + _share(event))
    return last


def _share(event: dict[str, Any]) -> str:
    done, total = event.get("bytes"), event.get("total_bytes")
    return f", {min(done * 100 // total, 100)} %" if done is not None and total else ""
