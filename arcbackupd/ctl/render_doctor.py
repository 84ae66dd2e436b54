"""``doctor`` as text for people. Pure; every text from outside is cleaned here."""

from __future__ import annotations

from collections.abc import Sequence

from arcbackupd.ctl.render import Row, Screen
from arcbackupd.ctl.words import clean, paragraph, plural

_COLORS = {"ok": "green", "warning": "yellow", "failed": "red"}
_STATE_WIDTH = len("skipped")


def finding(row: Row, screen: Screen) -> str:
    """A check in a line, and below it what to do."""
    state = clean(row["state"])
    indent = " " * (_STATE_WIDTH + 2)
    text = paragraph(f"{row['title']}: {row['message']}", screen.width, indent)
    lines = [screen.paint(state, _COLORS.get(state)) + " " * (len(indent) - len(state)) + text[len(indent) :]]
    if row["hint"]:
        lines.append(paragraph(f"hint: {row['hint']}", screen.width, f"{indent}  "))
    return "\n".join(lines)


def conclusion(rows: Sequence[Row]) -> str:
    """The last line: how many are not as they should be."""
    count = {state: sum(row["state"] == state for row in rows) for state in ("failed", "warning")}
    if not any(count.values()):
        return "All is well."
    told = []
    if count["failed"]:
        told.append(f"{plural(count['failed'], 'check')} failed")
    if count["warning"]:
        told.append(plural(count["warning"], "warning"))
    return f"{', '.join(told)}: the hints above tell what to do."
