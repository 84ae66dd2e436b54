"""What the engine tells of the backend's container, one JSON document a line; docker's and podman's differ."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

_NANOSECONDS = 1_000_000_000
STARTS = frozenset({"start"})
ENDS = frozenset({"kill", "stop", "die", "died"})
"""Somebody is ending it, or it has ended."""
CHANGES = frozenset({"rename", "destroy", "remove"})
"""The name may mean another container now, or none."""
TOLD = tuple(sorted(STARTS | ENDS | CHANGES))
"""What the engine is asked to tell."""


@dataclass(frozen=True)
class ContainerEvent:
    """What happened to which container, by its full id, and when."""

    action: str
    container: str
    at: datetime


def parse_event(line: bytes) -> ContainerEvent | None:
    """The event of a line; ``None`` when it is none of a container's."""
    try:
        told = json.loads(line)
        action = told.get("Action") or told.get("Status") or told.get("status")
        container = told.get("id") or told.get("ID") or told["Actor"]["ID"]
        return ContainerEvent(str(action), str(container), _time(told))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _time(told: dict[str, Any]) -> datetime:
    nanoseconds = told.get("timeNano") or told.get("TimeNano")
    if nanoseconds:
        seconds, rest = divmod(int(nanoseconds), _NANOSECONDS)
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest // 1000)
    moment = told.get("time") or told["Time"]
    return parse_time(moment) if isinstance(moment, str) else datetime.fromtimestamp(float(moment), UTC)


def parse_time(text: str) -> datetime:
    """A moment as engines write it: ISO 8601 with up to nine digits of a second. Raise ValueError for another.

    Go's own way of writing it, which podman's client has in some places, is understood too.
    """
    words = text.split(" ")
    if len(words) > 2:  # 2026-01-01 12:00:00.123 +0000 UTC
        text = f"{words[0]}T{words[1]}{words[2][:3]}:{words[2][3:]}"
    head, dot, tail = text.partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        text = f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
