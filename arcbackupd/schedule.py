"""When a job runs: a schedule as a value. Everything is UTC.

Astronomers live in UTC, and no change of daylight saving time can make a schedule fire twice or never: a local
02:30 comes twice in autumn and not at all in spring.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from statistics import median_low
from typing import TYPE_CHECKING, Any, Self

from cronsim import CronSim, CronSimError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

EXPECTED = 'expected "hourly", "daily", "every 30m" or a cron line of five fields, in UTC'

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EVERY = re.compile(r"every\s+(\d{1,9})\s*([smhd])", re.ASCII | re.IGNORECASE)
_UNITS = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_NAMED = {
    "hourly": (timedelta(hours=1), timedelta(minutes=5)),
    "daily": (timedelta(days=1), timedelta(hours=1)),
}
_LONGEST_EVERY = timedelta(days=366)
_LONGEST_TEXT = 200
_GAPS_SAMPLED = 50
# A name moves on to the next free second when it is taken, so a fresh backup may be named just after now.
_FRESH = timedelta(minutes=1)


@dataclass(frozen=True)
class Schedule:
    """Moments at which a job runs. Compares by text and the host's jitter; ``str()`` is the text it came from."""

    text: str
    _interval: timedelta | None = field(repr=False)
    """Distance of an even schedule; ``None`` for a cron line."""
    _jitter_limit: timedelta = field(default=timedelta(0), repr=False)
    _jitter: timedelta = field(default=timedelta(0), repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Given the text of a setting, return its schedule. Raise ValueError with the reason (never the text)."""
        words = text.strip()
        if len(words) > _LONGEST_TEXT:
            raise ValueError(f"too long; {EXPECTED}")
        if named := _NAMED.get(words.lower()):
            return cls(text, *named)
        if words.lower().startswith("every"):
            return cls(text, _parse_every(words))
        _check_cron(words)
        return cls(text, None)

    def on_host(self, host_id: str) -> Self:
        """The same schedule with this host's own jitter, so that not all observatories start at once.

        "hourly" moves by less than 5 minutes, "daily" by less than an hour, in whole seconds; always the same for
        one ``host_id``. "every" and cron lines stay exact.
        """
        seconds = int(self._jitter_limit.total_seconds())
        if not seconds:
            return self
        digest = hashlib.sha256(f"{self.text}\0{host_id}".encode()).digest()
        return replace(self, _jitter=timedelta(seconds=int.from_bytes(digest[:8]) % seconds))

    def next_after(self, moment: datetime) -> datetime:
        """The first run strictly after an aware moment; in UTC."""
        moment = moment.astimezone(UTC)
        if self._interval is None:
            return _next_cron(self.text, moment)
        start = _EPOCH + self._jitter
        return start + ((moment - start) // self._interval + 1) * self._interval

    def period(self) -> timedelta:
        """The typical distance of two runs: the median of many, for a cron line."""
        return self._interval if self._interval is not None else _typical_gap(self.text)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A pydantic field that takes the text, or a schedule. Imported here: schedules don't need pydantic."""
        del source, handler
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise ValueError(f"not a text; {EXPECTED}")  # noqa: TRY004 - pydantic reports ValueErrors only
        return cls.parse(value)


def overdue(schedule: Schedule, newest_good: datetime | None, now: datetime) -> bool:
    """Whether a run was missed, told by the newest good result alone.

    So it is when there is none, or when it is older than one period and a run has been due since (a cron line that
    rests at night isn't overdue at night). One in the future tells nothing: the clock was wrong then or is now.
    """
    if newest_good is None or newest_good > now + _FRESH:
        return True
    return now - newest_good > schedule.period() and schedule.next_after(newest_good) <= now


def _parse_every(words: str) -> timedelta:
    match = _EVERY.fullmatch(words)
    if match is None:
        raise ValueError('"every" takes a number and a unit: "every 30m", "every 6h" (s, m, h or d)')
    number, unit = int(match[1]), _UNITS[match[2].lower()]
    if not timedelta(0) < number * unit <= _LONGEST_EVERY:
        raise ValueError('"every" takes from 1s to 366d')
    return number * unit


def _check_cron(words: str) -> None:
    # CronSim also takes six fields, with seconds first; cron doesn't.
    if len(words.split()) != 5:
        raise ValueError(EXPECTED)
    try:
        next(CronSim(words, _EPOCH))
    except CronSimError as error:
        raise ValueError(f"in the cron line: {_reason(error)}") from None
    except StopIteration:
        raise ValueError("the cron line names a day that never comes") from None


def _reason(error: CronSimError) -> str:
    return str(error).lower() + " field" if str(error).startswith("Bad ") else str(error).lower()


def _next_cron(text: str, moment: datetime) -> datetime:
    # cronsim is untyped to us; it leaves UTC alone and counts from whole seconds.
    found: datetime = next(CronSim(text.strip(), moment))
    return found


@lru_cache
def _typical_gap(text: str) -> timedelta:
    line = CronSim(text.strip(), _EPOCH)
    runs = [next(line) for _ in range(_GAPS_SAMPLED + 1)]
    return median_low(later - earlier for earlier, later in pairwise(runs))
