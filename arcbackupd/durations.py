"""Durations as operators write them: ``90s``, ``10m``, ``1h30m``, ``14d``."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PART = re.compile(r"\s*(\d+)\s*(ms|s|m|h|d|w)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+\s*", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Read a duration such as ``1h30m``. Raise ValueError when it isn't one, or is too long to reckon with."""
    if not _WHOLE.fullmatch(text):
        raise ValueError('not a duration such as "90s", "10m", "1h30m" or "14d"')
    try:
        return sum((timedelta(**{_UNITS[part[2]]: int(part[1])}) for part in _PART.finditer(text)), timedelta())
    except OverflowError as error:
        raise ValueError("a duration that long can't be reckoned with") from error
