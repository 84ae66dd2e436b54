"""Values in words, and hostile text made harmless. Pure; the standard library only."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_AGES = ((86400 * 365.25, "year"), (86400 * 30.44, "month"), (86400 * 7, "week"))


def clean(value: object) -> str:
    """A text from a dump or the daemon, fit for a terminal: nothing in it moves the cursor, colours or reorders."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def paragraph(value: object, width: int, indent: str = "") -> str:
    """A text as lines of at most ``width``; line breaks and runs of spaces in it don't count."""
    return "\n".join(indent + line for line in wrapped(" ".join(str(value).split()), max(width, 20) - len(indent)))


def wrapped(value: object, width: int, **how: Any) -> list[str]:
    """A text in lines. Names, paths and options keep their hyphens, for they are there to be copied."""
    return textwrap.wrap(clean(value), width, break_on_hyphens=False, **how)


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(count: float | None) -> str:
    """Bytes in the unit that fits."""
    if count is None:
        return "?"
    number, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if abs(number) < 999.5 or unit == _UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """A length of time, short."""
    if seconds is None:
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days {hours % 24} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def ago(seconds: float) -> str:
    """How long ago that was."""
    if seconds < -60:
        return "in the future"
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min ago"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h ago"
    # From two of a unit on: "1 week" of what is nearly two would tell half of the truth about a backup.
    length, noun = next((unit for unit in _AGES if seconds >= 2 * unit[0]), (86400, "day"))
    return plural(int(seconds // length), noun) + " ago"


def parsed(text: object) -> datetime | None:
    """A moment from its ISO 8601 text; None when it isn't one. Without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def moment(text: object) -> str:
    """A moment as ``2026-01-31 12:00:00``, in UTC; what is no moment is shown as it came."""
    when = parsed(text)
    return clean(text) if when is None else when.strftime("%Y-%m-%d %H:%M:%S")


def since(text: object, now: datetime) -> str:
    """How long ago a moment was; ``?`` when it is none."""
    when = parsed(text)
    return "?" if when is None else ago((now - when).total_seconds())
