"""Restore drills as text for people. Pure; every text from outside is cleaned here."""

from __future__ import annotations

from arcbackupd.ctl.render import Row, Screen
from arcbackupd.ctl.words import clean, duration, paragraph, since, size

_PLACES = {"database": "beside the live database", "container": "in a throwaway container"}


def verified(drill: Row, screen: Screen) -> str:
    """``verify``: how it ended."""
    name, place = clean(drill["name"]), _PLACES.get(drill["place"], clean(drill["place"]))
    if drill["outcome"] == "proved":
        text = f"{name} is proved restorable in {duration(drill['duration_s'])}"
        load = f" ({size(drill['bytes'])} of SQL, loaded in {duration(drill['load_s'])}), {place}."
        return screen.paint(paragraph(text + load, screen.width), "green")
    what = "failed its restore drill" if drill["outcome"] == "failed" else "could not be drilled"
    lines = [screen.paint(paragraph(f"{name} {what}, {place}: {drill['problem']}", screen.width), "red")]
    if drill["hint"]:
        lines.append(paragraph(f"hint: {drill['hint']}", screen.width, "  "))
    return "\n".join(lines)


def last(drills: Row | None, screen: Screen) -> str:
    """Of ``status``: what a restore takes, as the last good drill measured it. Problems tell of a failed one."""
    proved = drills and drills["proved"]
    if not proved:
        return ""
    text = (
        f"Proved restorable: {proved['name']}, {since(proved['drilled_at'], screen.now)}, in "
        f"{duration(proved['duration_s'])} (of which a restore takes {duration(proved['load_s'])} to load)."
    )
    return paragraph(text, screen.width)
