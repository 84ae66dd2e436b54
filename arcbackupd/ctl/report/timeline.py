"""Retention as it is and as it will be: which of the backups that are there now are there later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from arcbackupd.ctl.render import Row
from arcbackupd.ctl.report.chart import day
from arcbackupd.ctl.report.markup import Markup, element
from arcbackupd.ctl.words import parsed, plural

_WIDTH, _LINE = 640, 58
LATER = (("now", 0), ("in a day", 1), ("in a week", 7), ("in two weeks", 14), ("in a month", 30))


def remaining(rows: Sequence[Row], goes: Mapping[str, str], moment: datetime) -> list[datetime]:
    """When those were taken that are still there at a moment, by what retention is to do until then."""
    left = (row for row in rows if not (gone := parsed(goes.get(row["name"]))) or gone > moment)
    return [taken for row in left if (taken := parsed(row["taken_at"]))]


def timeline(rows: Sequence[Row], goes: Mapping[str, str], now: datetime) -> Markup:
    """A line for now and some later days; a stroke for each backup that is still there."""
    taken = [when for row in rows if (when := parsed(row["taken_at"]))]
    if not taken:
        return element("p", "There are no backups yet.")
    oldest = min(taken)
    parts: list[Markup] = []
    for number, (label, days) in enumerate(LATER):
        left = remaining(rows, goes, now + timedelta(days=days)) if days else taken
        parts.append(
            _line(number, f"{label}: {plural(len(left), 'backup')}", [_place(when, oldest, now) for when in left])
        )
    height = _LINE * len(LATER) + 26
    parts += [
        element("text", day(oldest, now), x=0, y=height - 6),
        element("text", "today", x=_WIDTH, y=height - 6, text_anchor="end"),
    ]
    words = "Which of the backups of now are there later. New ones, which take their places, aren't drawn."
    drawing = element(
        "svg", element("title", words), *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=words
    )
    return element("figure", element("figcaption", words), drawing, class_="timeline")


def _place(when: datetime, oldest: datetime, now: datetime) -> float:
    span = max(now - oldest, timedelta(seconds=1))
    return _WIDTH * min(max((when - oldest) / span, 0), 1)


def _line(number: int, label: str, places: list[float]) -> Markup:
    top = number * _LINE
    strokes = "".join(f"M{place:.1f} {top + 30}v18" for place in places)
    base = element("line", x1=0, x2=_WIDTH, y1=top + 48, y2=top + 48, class_="grid")
    text = element("text", label, x=0, y=top + 22)
    return element("g", text, base, element("path", d=strokes, class_="strokes") if strokes else None)
