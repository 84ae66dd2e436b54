"""The calendar: a row a day, a column an hour (UTC), and in it what was taken in that hour."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple

from arcbackupd.ctl.render import Row
from arcbackupd.ctl.report.markup import Markup, element
from arcbackupd.ctl.words import parsed, plural

DAYS = 35
_Hour = tuple[date, int]


class Cell(NamedTuple):
    """What an hour looks like: a class of the style sheet, a sign that needs no colour, and words."""

    kind: str
    sign: str
    words: str


_LEGEND = (
    Cell("good", "●", "a good backup"),
    Cell("safety", "◆", "a safety backup before a restore"),
    Cell("doubt", "?", "not scanned yet, or flagged for what it lost"),
    Cell("broken", "✕", "a broken one"),
    Cell("none", "·", "none"),
)


def calendar(rows: Sequence[Row], now: datetime) -> Markup:
    """The last five weeks, or as far as the backups go back."""
    hours = by_hour(rows)
    if not hours:
        return element("p", "There are no backups yet.")
    first = max(min(day for day, _ in hours), now.date() - timedelta(days=DAYS - 1))
    days = [now.date() - timedelta(days=back) for back in range((now.date() - first).days + 1)]
    head = element(
        "tr", element("th", "UTC", scope="col"), *(element("th", f"{h:02}", scope="col") for h in range(24))
    )
    lines = (_line(day, hours, now) for day in days)
    caption = element("caption", f"Backups of {plural(len(days), 'day')}, hour by hour")
    whole = element("table", caption, element("thead", head), element("tbody", *lines), class_="calendar")
    shown = element("div", whole, class_="scroll", tabindex=0, role="region", aria_label="Calendar of backups")
    return Markup(shown + _legend())


def by_hour(rows: Sequence[Row]) -> dict[_Hour, list[Row]]:
    """The backups of each hour that has any."""
    hours: dict[_Hour, list[Row]] = defaultdict(list)
    for row in rows:
        if when := parsed(row["taken_at"]):
            hours[when.date(), when.hour].append(row)
    return hours


def cell(backups: Sequence[Row]) -> Cell:
    """What an hour looks like that has these backups: the worst of them shows."""
    if not backups:
        return Cell("none", "·", "none")
    names = ", ".join(row["name"] for row in backups)
    if any(row["status"] == "broken" for row in backups):
        return Cell("broken", "✕", f"broken: {names}")
    if any(_doubtful(row) for row in backups):
        return Cell("doubt", "?", f"not scanned yet, or flagged: {names}")
    if all(row["kind"] == "pre-restore" for row in backups):
        return Cell("safety", "◆", names)
    return Cell("good", "●", names)


def _doubtful(row: Row) -> bool:
    # What a restore replaced has every right to lack something.
    return row["problem"] == "not scanned yet" or (row["kind"] == "backup" and bool(row.get("anomalies")))


def _line(day: date, hours: Mapping[_Hour, Sequence[Row]], now: datetime) -> Markup:
    label = element("time", f"{day:%a %d %b}", datetime=day.isoformat())
    cells = (
        _shown(cell(hours.get((day, hour), ())), to_come=(day, hour) > (now.date(), now.hour)) for hour in range(24)
    )
    return element("tr", element("th", label, scope="row"), *cells)


def _shown(what: Cell, *, to_come: bool) -> Markup:
    if to_come and what.kind == "none":
        return element("td", class_="later")
    words = element("span", what.words, class_="words")
    sign = element("span", what.sign, aria_hidden="true")
    return element("td", sign, words, class_=what.kind, title=what.words)


def _legend() -> Markup:
    items = (
        element(
            "li", element("span", entry.sign, class_=f"sign {entry.kind}", aria_hidden="true"), " ", entry.words
        )
        for entry in _LEGEND
    )
    return element("ul", *items, class_="legend")
