"""``status`` as text for people. Pure; every text from outside is cleaned here."""

from __future__ import annotations

from collections.abc import Iterator

from arcbackupd.ctl import render_alarms
from arcbackupd.ctl.render import COLORS, Row, Screen, event_line, jobs
from arcbackupd.ctl.render_drill import last as last_drill
from arcbackupd.ctl.render_offhost import destinations
from arcbackupd.ctl.render_restore import RESTORES, kept, last_problem
from arcbackupd.ctl.words import ago, clean, moment, paragraph, size

UNKNOWN = "It is not known whether you are safe."
_SAFE = {
    "ok": "Safe.",
    "warning": "Safe, but something needs attention.",
    "critical": "NOT SAFE.",
    "unknown": UNKNOWN,
}


def status(reply: Row, screen: Screen) -> str:
    """``status``: the answer in the first line, then what to do, then what runs and when."""
    # Of a daemon older than restores and destinations, there are no such fields.
    restores = [last_problem(reply.get("restore"), screen), kept(reply.get("replaced") or (), screen)]
    parts = [
        _first_line(reply, screen),
        *_problems(reply, screen),
        _running(reply),
        *restores,
        last_drill(reply.get("drills"), screen),
        _around(reply, screen),
    ]
    parts.append(destinations(reply.get("destinations") or (), screen))
    if reply.get("alarms"):
        parts.append(render_alarms.alarms(reply["alarms"], screen))
    if reply["jobs"]:
        parts.append(jobs(reply["jobs"], screen))
    return "\n\n".join(part for part in parts if part)


def _first_line(reply: Row, screen: Screen) -> str:
    said = answer(reply)
    text = paragraph(f"{said} {last_good(reply['last_good'])}", screen.width)
    # On a screen so narrow that the answer itself goes over two lines it has no colour.
    return text.replace(said, screen.paint(said, COLORS.get(reply["state"])), 1)


def answer(reply: Row) -> str:
    """Am I safe? In a sentence."""
    if reply["last_good"] is None and reply["state"] in ("ok", "warning"):
        return "Not safe yet."
    return _SAFE.get(reply["state"], clean(reply["state"]))


def last_good(good: Row | None) -> str:
    """Which backup is the last good one, and how old it is."""
    if good is None:
        return "There is no good backup."
    return f"The last good backup is {clean(good['name'])}, {ago(good['age_s'])} ({moment(good['taken_at'])} UTC)."


def _problems(reply: Row, screen: Screen) -> Iterator[str]:
    for problem in reply["problems"]:
        message = paragraph(f"{problem.get('severity', 'warning')}: {problem['message']}", screen.width)
        hint = paragraph(f"hint: {problem['hint']}", screen.width, "  ") if problem["hint"] else ""
        yield screen.paint(message, COLORS.get(problem.get("severity", ""))) + (f"\n{hint}" if hint else "")


def _running(reply: Row) -> str:
    operation = reply["operation"]
    if operation is None:
        return ""
    begun = f", since {moment(operation['started_at'])} UTC" if operation["started_at"] else ""
    line = clean(f"Running now: {operation['kind']} ({operation['state']}{begun})")
    event = operation.get("event")
    follow = "\nTo follow it: arcbackupctl restore --attach" if operation["kind"] in RESTORES else ""
    return line + (f": {event_line(event)}" if event else "") + follow


def _around(reply: Row, screen: Screen) -> str:
    lines = []
    if database := reply.get("database"):
        version, length = database.get("server_version"), database.get("size")
        known = [f"PostgreSQL {version}" if version else "", size(length) if length is not None else ""]
        told = ", ".join(filter(None, [database.get("name"), *known]))
        lines.append(paragraph(f"Database: {told}", screen.width))
    if reply["retention"]["frozen"]:
        lines.append(paragraph(f"Retention holds still: {reply['retention']['frozen']}", screen.width))
    return "\n".join(lines)
