"""The page: what the daemon told, in the order in which somebody in a hurry asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from typing import NamedTuple

from arcbackupd import __version__
from arcbackupd.ctl.render import Row, badge
from arcbackupd.ctl.render_status import answer, last_good
from arcbackupd.ctl.report.calendar import calendar
from arcbackupd.ctl.report.chart import Point, chart
from arcbackupd.ctl.report.markup import Markup, element, table, together
from arcbackupd.ctl.report.timeline import timeline
from arcbackupd.ctl.words import duration, moment, parsed, plural, since, size

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_GAP_DAYS = 14
_THOUSANDS = ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, ""))


class Told(NamedTuple):
    """The daemon's replies to Status, List and PlanRetention (with ``outlook``)."""

    status: Row
    listed: Row
    retention: Row


def page(told: Told, now: datetime) -> str:
    """A whole HTML document. Raise LookupError or TypeError for replies that aren't what this client expects."""
    title = "Backups of the observatory"
    head = together(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{answer(told.status)} {title}"),
        element("style", Markup(files(__package__).joinpath("style.css").read_text("utf-8"))),
    )
    written = element("p", f"As of {now:%A %d %B %Y, %H:%M} UTC", class_="when")
    main = element("main", _verdict(told.status), *_sections(told, now))
    header = element("header", element("h1", title), written)
    footer = element("footer", f"Written by arcbackupctl {__version__}. All times are UTC.")
    body = element("body", header, main, footer)
    return f"<!DOCTYPE html>\n{element('html', element('head', head), body, lang='en')}\n"


def _sections(told: Told, now: datetime) -> Iterator[Markup]:
    rows = told.listed["backups"]
    yield _section("At a glance", _facts(told, now))
    yield _section("Calendar", calendar(rows, now))
    yield _section("Growth", element("div", *_charts(rows, now), class_="charts"))
    yield _section("Retention", timeline(rows, told.retention.get("outlook") or {}, now), _frozen(told))
    if told.status.get("destinations"):
        yield _section("Copies off this host", _destinations(told.status["destinations"], now))
    yield _section("Jobs", _jobs(told.status["jobs"]))
    yield _section("All backups", _backups(told, now))


def _section(title: str, *children: object) -> Markup:
    return element("section", element("h2", title), *children)


def _verdict(status: Row) -> Markup:
    problems = (
        element(
            "li",
            element("strong", f"{problem['severity']}: "),
            problem["message"],
            element("p", problem["hint"], class_="hint") if problem["hint"] else None,
        )
        for problem in status["problems"]
    )
    state = status["state"] if status["state"] in ("ok", "warning", "critical") else "unknown"
    sign = {"ok": "✓", "warning": "!", "critical": "✕"}.get(state, "?")
    words = element(
        "p", element("span", sign, class_="sign", aria_hidden="true"), element("strong", answer(status))
    )
    good = element("p", last_good(status["last_good"]))
    listed = element("ul", *problems) if status["problems"] else None
    return element("section", words, good, listed, class_=f"verdict {state}", aria_label="Verdict")


def _facts(told: Told, now: datetime) -> Markup:
    here = [row for row in told.listed["backups"] if "local" in row["stored"]]
    good = [row for row in here if row["status"] != "broken"]
    facts = [
        ("Backups here", f"{len(here):,}", size(sum(row["size"] for row in here))),
        ("Oldest to go back to", since(good[-1]["taken_at"], now), moment(good[-1]["taken_at"])) if good else None,
        _gap(good, now),
        _proved((told.status.get("drills") or {}).get("proved"), now),
        _database(told.status.get("database")),
    ]
    cards = (
        element("div", element("dt", name), element("dd", value, element("small", note)))
        for name, value, note in filter(None, facts)
    )
    return element("dl", *cards, class_="facts")


def _proved(drill: Row | None, now: datetime) -> tuple[str, str, str]:
    if drill is None:
        return ("Proved restorable", "never", "no restore drill has proved a backup yet")
    took = duration(drill["load_s"] or drill["duration_s"])
    return ("Proved restorable", since(drill["drilled_at"], now), f"loaded in {took}")


def _gap(good: Sequence[Row], now: datetime) -> tuple[str, str, str] | None:
    """The most that a loss of the database could have cost in the last days, at its worst moment."""
    times = [when for row in good if (when := parsed(row["taken_at"]))]
    gap = longest_gap(times, now)
    return (
        ("Longest without a backup", duration(gap.total_seconds()), f"in the last {_GAP_DAYS} days")
        if gap
        else None
    )


def longest_gap(times: Sequence[datetime], now: datetime) -> timedelta | None:
    """The longest time between two backups, or since the last, that ended in the last days; None without any."""
    ordered = sorted(when for when in times if when <= now)
    if not ordered:
        return None
    ends = [*ordered[1:], now]
    recent = now - timedelta(days=_GAP_DAYS)
    return max(end - begin for begin, end in zip(ordered, ends, strict=True) if end >= recent)


def _database(database: Row | None) -> tuple[str, str, str] | None:
    if not database or database.get("size") is None:
        return None
    return ("The database", size(database["size"]), f"PostgreSQL {database.get('server_version') or '?'}")


def _charts(rows: Sequence[Row], now: datetime) -> Iterator[Markup]:
    yield chart("Size of a backup", _points(rows, "size", now), size)
    yield chart("Rows in a backup", _points(rows, "total_rows", now), _count)


def _count(number: float) -> str:
    unit, letter = next((unit, letter) for unit, letter in _THOUSANDS if number >= unit or unit == 1)
    return f"{number / unit:.3g}{letter}"


def _points(rows: Sequence[Row], field: str, now: datetime) -> list[Point]:
    ordinary = (row for row in rows if row["kind"] == "backup" and row["status"] != "broken")
    known = (row for row in ordinary if row.get(field) is not None)
    # One whose name lies in the future would press all others together at the edge.
    return sorted((when, float(row[field])) for row in known if (when := parsed(row["taken_at"])) and when <= now)


def _frozen(told: Told) -> Markup | None:
    frozen = told.status["retention"]["frozen"]
    return element("p", f"Retention holds still: {frozen}") if frozen else None


def _destinations(rows: Sequence[Row], now: datetime) -> Markup:
    titles = ["Destination", "Where", "What", "Dumps", "Complete", "Problem"]
    return table("Destinations", titles, [_destination(row, now) for row in rows])


def _destination(row: Row, now: datetime) -> list[object]:
    done = since(row["done_at"], now) if row["done_at"] else "never"
    return [
        row["name"],
        row["location"] or "?",
        ", ".join(row["streams"]),
        row["dumps"],
        done,
        row["problem"] or "none",
    ]


def _jobs(rows: Sequence[Row]) -> Markup:
    titles = ["Job", "Schedule", "State", "Last run", "Next run", "Outcome"]
    return table("Jobs", titles, [_job(row) for row in rows])


def _job(row: Row) -> list[object]:
    last, following = (moment(row[key]) if row[key] else "-" for key in ("last_run", "next_run"))
    outcome = row["last_error"] or row["last_outcome"] or "never ran"
    return [row["name"], row["schedule"] or "-", row["state"], last, following, outcome]


def _backups(told: Told, now: datetime) -> Markup:
    why = {verdict["name"]: verdict for verdict in told.retention["verdicts"]}
    goes = told.retention.get("outlook") or {}
    rows = [_backup(row, why.get(row["name"]), goes, now) for row in told.listed["backups"]]
    titles = ["Name", "Age", "Size", "Rows", "Reason", "State", "Proved", "Stored", "Kept because", "Goes"]
    whole = table("Every backup, newest first", titles, rows, class_="backups")
    return element("details", element("summary", f"Show {plural(len(rows), 'backup')}"), whole)


def _backup(row: Row, verdict: Row | None, goes: Mapping[str, str], now: datetime) -> list[object]:
    gone = parsed(goes.get(row["name"]))
    rows = row.get("total_rows")
    return [
        row["name"],
        since(row["taken_at"], now),
        size(row["size"]),
        "?" if rows is None else f"{rows:,}",
        row["reason"],
        badge(row),
        since(row["proved_at"], now) if row.get("proved_at") else "-",
        ", ".join(row["stored"]),
        verdict["why"] if verdict else "-",
        f"{gone:%d %b %Y}" if gone else "not soon" if verdict else "-",
    ]
