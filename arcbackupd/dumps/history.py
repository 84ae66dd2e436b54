"""What earlier backups of the same database held: what the next one is measured against. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, cached_property
from itertools import pairwise
from math import ceil

_HABIT = 2
"""A table that fell, and rose again by itself, this often has rows that come and go."""


@dataclass(frozen=True)
class Limits:
    """What is an anomaly: more than a share lost, of a table of so many rows. ``ignore``: patterns of names."""

    max_loss: float = 0.5
    min_rows: int = 100
    history: timedelta = timedelta(days=14)
    """How long before the newest healthy backup its history begins."""
    ignore: tuple[str, ...] = ()

    @property
    def rest(self) -> float:
        """The share that must be left."""
        return 1 - self.max_loss

    def ignored(self, table: str) -> bool:
        """Whether nobody minds what becomes of a table."""
        return any(fnmatch.fnmatchcase(table, pattern) for pattern in self.ignore)


@dataclass(frozen=True)
class Facts:
    """One complete backup, as far as this is concerned. ``rows`` per table, as the dump quotes it."""

    name: str
    taken_at: datetime
    origin: str
    """The same for backups that can be compared: of one database of one host."""
    rows: Mapping[str, int]
    sql_length: int
    migrations: frozenset[str] = frozenset()
    snapshot: bool = False
    """Of what a restore replaced, and so from before it."""


@dataclass(frozen=True)
class Course:
    """A table's rows since it had most of them: the most, the fewest since, since when, in how many backups."""

    high: int
    low: int
    since: datetime
    backups: int


class History:
    """The backups before one, oldest first: the ``healthy`` ones, at least one of them, and ``every`` one."""

    def __init__(
        self, healthy: tuple[Facts, ...], every: tuple[Facts, ...], sql_since: datetime, limits: Limits
    ) -> None:
        """``sql_since``: from when on the length of the SQL says something."""
        self._healthy = healthy
        self._every = every
        self._sql_since = sql_since
        self._limits = limits
        self.oldest, self.newest = healthy[0], healthy[-1]
        self.course: Callable[[str], Course] = cache(self._course)
        """Of a table that the newest one has, since it came into being."""
        self.comes_and_goes: Callable[[str], bool] = cache(self._comes_and_goes)
        """Whether to fall deep and to rise again is a table's habit."""
        self.usual_rise: Callable[[str, timedelta], int] = cache(self._usual_rise)
        """The most rows that a table has gained from one to the next, in a span as often as it holds such."""

    @cached_property
    def largest(self) -> Facts:
        """The one with the most SQL."""
        counted = [facts for facts in self._healthy if facts.taken_at >= self._sql_since]
        return max(counted or [self.newest], key=lambda facts: facts.sql_length)

    def unwatched(self, table: str) -> bool:
        """Whether losing rows is nothing special for a table."""
        return self._limits.ignored(table) or self.comes_and_goes(table)

    def _course(self, table: str) -> Course:
        high, low, since, backups = -1, 0, self.newest.taken_at, 0
        fewest = self.newest.rows[table]
        for number, facts in enumerate(reversed(self._healthy), 1):
            rows = facts.rows.get(table)
            if rows is None:
                break
            fewest = min(fewest, rows)
            if rows >= high:
                high, low, since, backups = rows, fewest, facts.taken_at, number
        return Course(high, low, since, backups)

    def _usual_rise(self, table: str, span: timedelta) -> int:
        known = [facts for facts in self._healthy if table in facts.rows]
        most = max((after.rows[table] - before.rows[table] for before, after in pairwise(known)), default=0)
        covered = known[-1].taken_at - known[0].taken_at if most > 0 else timedelta()
        times = span * (len(known) - 1) / covered if covered else 1
        return ceil(max(most, 0) * max(times, 1))

    def _comes_and_goes(self, table: str) -> bool:
        peak, low, returns = 0, False, 0
        for facts in self._every:
            rows = facts.rows.get(table, 0)
            if low and rows >= peak * self._limits.rest:
                returns += 1
            low = rows < peak * self._limits.rest
            peak = max(peak, rows)
        return returns >= _HABIT
