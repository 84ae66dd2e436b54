"""Alarms as text for people. Pure; every text from outside is cleaned here."""

from __future__ import annotations

from collections.abc import Sequence

from arcbackupd.ctl.render import Column, Row, Screen, table
from arcbackupd.ctl.words import clean, moment, paragraph

_COLUMNS = (Column("ALARM"), Column("TYPE", rank=1), Column("LAST TOLD (UTC)"), Column("STATE"))


def alarms(rows: Sequence[Row], screen: Screen) -> str:
    """A line an alarm."""
    if not rows:
        text = "No alarm is configured: nobody is told when backups fail. docs/alarms.md tells how."
        return paragraph(text, screen.width)
    cells = [
        [
            clean(row["name"]),
            clean(row["type"]),
            moment(row["told_at"]) if row["told_at"] else "not yet",
            clean(row["problem"] or "fine"),
        ]
        for row in rows
    ]
    return table(_COLUMNS, cells, ["yellow" if row["problem"] else None for row in rows], screen)


def tests(rows: Sequence[Row], screen: Screen) -> str:
    """How the test of each went."""
    return "\n".join(_test(row, screen) for row in rows)


def _test(row: Row, screen: Screen) -> str:
    name, error = clean(row["name"]), row["error"]
    if error is None:
        return f"{name}: delivered. Look whether it arrived: the last step isn't seen from here."
    told = screen.paint(paragraph(f"{name}: {error['message']}", screen.width), "red")
    hint = paragraph(f"hint: {error['hint']}", screen.width, "  ") if error["hint"] else ""
    return f"{told}\n{hint}" if hint else told
