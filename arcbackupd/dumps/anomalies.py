"""Which backups lost much against their history: a pure function of values.

A backup is measured against the healthy ones before it, of the same host and database. What lost most of its rows,
a table that is gone, or SQL that shrank is an *anomaly*, and the backup *flagged*. It is no history for those after
it, which are flagged too until what it lost is back, or until a `Baseline` says that history begins anew.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from arcbackupd.dumps.history import Course, Facts, History, Limits

_BACK = 0.9
"""Share of what was lost that must be there again: new rows, half as many, don't bring the lost ones back."""
_MUCH_MORE = 2
"""Times what was lost: rows that were moved don't become so many."""
_MIN_SQL = 1_000_000
"""Bytes of SQL below which its length is mostly that of the schema."""
_TOLD = 10
_SQL = ""
"""Stands for the length of the SQL among the names of tables."""
_NUMBER = re.compile(r"[0-9]+")
_ALWAYS = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Baseline:
    """A moment from which on history begins anew.

    Either the first backup from then on was ``accepted`` by somebody, and with it the flagged ones just before; or
    something else was put in the place of the database.
    """

    at: datetime
    accepted: bool
    origin: str | None = None
    """Of which backups; ``None``: of all."""


@dataclass(frozen=True)
class Judgement:
    """``anomalies`` and what is ``explained``, by what else has changed, as sentences without a stop."""

    anomalies: tuple[str, ...] = ()
    explained: tuple[str, ...] = ()
    accepted: bool = False
    suspects: frozenset[str] = field(default=frozenset(), repr=False)
    """The tables in question."""

    @property
    def flagged(self) -> bool:
        """Whether it has anomalies that nobody has accepted."""
        return bool(self.anomalies) and not self.accepted


HEALTHY = Judgement()
"""Of a backup that lost nothing, and of one of which nothing is known."""


def judge(backups: Iterable[Facts], limits: Limits, baselines: Iterable[Baseline] = ()) -> dict[str, Judgement]:
    """Given all complete backups that there are, in any order, return what is to be said of each, by name."""
    begins = sorted(baselines, key=lambda baseline: (baseline.at, baseline.accepted))
    by_origin: dict[str, list[Facts]] = defaultdict(list)
    for facts in sorted(backups, key=lambda facts: (facts.taken_at, facts.snapshot, facts.name)):
        by_origin[facts.origin].append(facts)
    judged: dict[str, Judgement] = {}
    for origin, several in by_origin.items():
        series = _Series(limits, (baseline for baseline in begins if baseline.origin in (None, origin)))
        for facts in several:
            series.add(facts)
        judged |= series.judged
    return judged


class _Series:
    """The backups of one origin, one after another, oldest first."""

    def __init__(self, limits: Limits, baselines: Iterable[Baseline]) -> None:
        self._limits = limits
        self._baselines = deque(baselines)
        self._healthy: list[Facts] = []
        self._every: list[Facts] = []
        self._flagged: list[Facts] = []
        """Since the newest healthy one."""
        self._sql_since = _ALWAYS
        self._history: History | None = None
        self.judged: dict[str, Judgement] = {}

    def add(self, facts: Facts) -> None:
        """Judge the next one."""
        accepted = self._pass_baselines(facts)
        judgement = self._judge(facts)
        if accepted:
            judgement = replace(judgement, accepted=bool(judgement.anomalies))
            self._begin_anew()
        self.judged[facts.name] = judgement
        if judgement.flagged:
            self._flagged.append(facts)
        else:
            self._learn(facts, sql_too=not judgement.explained)

    def _judge(self, facts: Facts) -> Judgement:
        if self._history is None:
            return HEALTHY
        suspects = self.judged[self._flagged[-1].name].suspects if self._flagged else frozenset()
        return _Comparison(facts, self._history, suspects, self._limits).judgement()

    def _pass_baselines(self, facts: Facts) -> bool:
        """Heed those that lie before a backup; whether it is one that was accepted."""
        accepted = False
        while self._baselines and _lies_before(self._baselines[0], facts):
            accepted = self._baselines.popleft().accepted
            if accepted:
                for flagged in self._flagged:
                    self.judged[flagged.name] = replace(self.judged[flagged.name], accepted=True)
            else:
                self._begin_anew()
        return accepted

    def _begin_anew(self) -> None:
        self._healthy.clear()
        self._every.clear()
        self._flagged.clear()
        self._sql_since = _ALWAYS
        self._history = None

    def _learn(self, facts: Facts, *, sql_too: bool) -> None:
        """Make a healthy one the newest of the history; whether it shrank by a migration, ``sql_too`` tells."""
        self._every += [*self._flagged, facts]
        self._flagged.clear()
        self._healthy.append(facts)
        if not sql_too:
            self._sql_since = facts.taken_at
        for course in (self._healthy, self._every):
            while facts.taken_at - course[0].taken_at > self._limits.history:
                del course[0]
        self._history = History(tuple(self._healthy), tuple(self._every), self._sql_since, self._limits)


def _lies_before(baseline: Baseline, facts: Facts) -> bool:
    """A backup's name has no fractions of a second; a snapshot is of what was there before."""
    at = baseline.at.replace(microsecond=0)
    return at < facts.taken_at or (at == facts.taken_at and (baseline.accepted or not facts.snapshot))


@dataclass(frozen=True)
class _Comparison:
    """A backup beside its history. ``suspects`` are the tables that the flagged one just before it had lost."""

    facts: Facts
    history: History
    suspects: frozenset[str]
    limits: Limits

    def judgement(self) -> Judgement:
        lost = [table for table in self._lost() if not self.history.comes_and_goes(table)]
        reasons = self._reasons(lost)
        suspects = [table for table in lost if table not in reasons]
        told = _told(suspects, self._text)
        told_why = [table for table in lost if table in reasons]
        explained = _told(told_why, lambda table: f"{self._text(table)}: {reasons[table]}")
        if shrunk := self._shrunk():
            if self._new_migrations and not suspects and _SQL not in self.suspects:
                explained.append(f"{shrunk}: migrations came since")
            else:
                told.append(shrunk)
                suspects.append(_SQL)
        return Judgement(tuple(told), tuple(explained), suspects=frozenset(suspects))

    @property
    def _new_migrations(self) -> frozenset[str]:
        return self.facts.migrations - self.history.newest.migrations

    def _lost(self) -> Iterator[str]:
        """The tables that are gone or lost too much, the largest loss first; what didn't fall lately is fine."""
        before, now = self.history.newest.rows, self.facts.rows
        fallen = {table: rows - now.get(table, 0) for table, rows in before.items() - now.items()}
        for table in sorted(fallen, key=lambda table: (-fallen[table], table)):
            if fallen[table] <= 0 or self.limits.ignored(table):
                continue
            if table not in now or self._has_lost(table):
                yield table

    def _has_lost(self, table: str) -> bool:
        rows = self.facts.rows[table]
        if table in self.suspects:
            return rows < _BACK * self.history.newest.rows[table]
        course = self.history.course(table)
        return course.high >= self.limits.min_rows and rows < course.high * self.limits.rest

    def _text(self, table: str) -> str:
        if table not in self.facts.rows:
            return f"the table {table} is gone, which had {_rows(self.history.newest.rows[table])}"
        return f"{table} has {_rows(self.facts.rows[table])}, after {self._before(self.history.course(table))}"

    def _before(self, course: Course) -> str:
        if course.backups == 1:
            return f"{course.high:,} in the backup before"
        rows = f"{course.high:,}" if course.low == course.high else f"{course.low:,} to {course.high:,}"
        return f"{rows} in the backups of the {_span(self.facts.taken_at - course.since)} before"

    def _reasons(self, lost: Sequence[str]) -> dict[str, str]:
        """Why tables may well have lost what they had. What comes later is no reason for a flag that stands."""
        fresh = [table for table in lost if table not in self.suspects]
        gone = [table for table in fresh if table not in self.facts.rows]
        reasons = self._rotated(gone) | {table: why for table in gone if (why := self._removed(table))}
        return reasons | self._moved([table for table in fresh if table not in reasons])

    def _removed(self, table: str) -> str | None:
        """A table that is gone, if migrations of its app came since."""
        bare = table.rpartition(".")[2].strip('"')
        apps = {name.partition(".")[0] for name in self._new_migrations}
        app = next((app for app in sorted(apps) if bare.startswith(f"{app}_")), None)
        return f"migrations of {app} came since" if app else None

    def _rotated(self, gone: Sequence[str]) -> dict[str, str]:
        """Tables that are gone as the oldest of their kind, of which others stay, if as many came as went."""
        oldest, newest, now = (
            _by_kind(facts.rows) for facts in (self.history.oldest, self.history.newest, self.facts)
        )
        reasons: dict[str, str] = {}
        for kind, tables in _by_kind(gone).items():
            went, came = (oldest[kind] | newest[kind]) - now[kind], now[kind] - oldest[kind]
            stay = newest[kind] & now[kind]
            if stay and len(went) <= len(came) and max(map(_numbers, went)) < min(map(_numbers, now[kind])):
                why = f"the oldest of its kind made way for {max(came, key=_numbers)}"
                reasons |= dict.fromkeys(tables, why)
        return reasons

    def _moved(self, lost: Sequence[str]) -> dict[str, str]:
        """Tables whose rows are in others now, each row counted once.

        After migrations, all counts that other tables have gained, where that is more than usual; if it is much
        more than was lost, it came from elsewhere, and explains none that is still there. Without any migration, a
        table counts that is new and has about as many: tables that fill up hide no loss.
        """
        if not lost:
            return {}
        before, now = self.history.newest.rows, self.facts.rows
        fallen = {table: before[table] - now.get(table, 0) for table in lost}
        others = now.keys() - fallen.keys()
        partitions = _by_kind(before)
        new = {table: now[table] for table in others - before.keys() if not self._fills_up(table, partitions)}
        if self.facts.migrations == self.history.newest.migrations:
            return _copied(fallen, new)
        gained, moved = sum(new.values()) + sum(map(self._unusual_rise, others & before.keys())), {}
        from_elsewhere = gained > _MUCH_MORE * sum(fallen.values())
        for table, rows in fallen.items():
            if rows * _BACK <= gained and not (from_elsewhere and table in now):
                gained -= rows
                moved[table] = "migrations came since, and other tables have as many rows more"
        return moved

    def _fills_up(self, new: str, partitions: Mapping[str, Collection[str]]) -> bool:
        """Whether rows that a new table has are nothing special, as those of a further partition."""
        return _kind(new) in partitions or self.history.unwatched(new)

    def _unusual_rise(self, table: str) -> int:
        """The rows that it has gained beyond what is usual; 0 where chance may have added them."""
        rise = self.facts.rows[table] - self.history.newest.rows[table]
        if rise < self.limits.min_rows or self.history.unwatched(table):
            return 0
        usual = self.history.usual_rise(table, self.facts.taken_at - self.history.newest.taken_at)
        return rise - usual if rise >= 2 * usual else 0

    def _shrunk(self) -> str | None:
        """What became of the SQL's length, where that says something: not of rows that nobody watches."""
        length, largest = self.facts.sql_length, self.history.largest
        limit = largest.sql_length * self.limits.rest
        if _SQL in self.suspects:
            limit = max(limit, self.history.newest.sql_length * _BACK)
        if length >= limit or largest.sql_length < _MIN_SQL or self._unwatched_fell(largest):
            return None
        share = 100 * length // largest.sql_length or "less than 1"
        return f"its SQL is {share} % of what it was: {length:,} bytes, after {largest.sql_length:,}"

    def _unwatched_fell(self, largest: Facts) -> bool:
        now, rest = self.facts.rows, self.limits.rest
        fallen = (
            table
            for table, rows in largest.rows.items()
            if rows >= self.limits.min_rows and now.get(table, 0) < rows * rest
        )
        return any(self.history.unwatched(table) for table in fallen)


def _copied(fallen: Mapping[str, int], new: Mapping[str, int]) -> dict[str, str]:
    """Of tables with the rows that they lost, those of which a new table has about as many, each new one once."""
    left, copied = sorted((rows, name) for name, rows in new.items()), {}
    for table, rows in fallen.items():
        at = bisect_left(left, (rows * _BACK, ""))
        if at < len(left) and left[at][0] <= rows / _BACK:
            copied[table] = f"the new table {left.pop(at)[1]} has as many"
    return copied


def _by_kind(tables: Iterable[str]) -> Mapping[str, set[str]]:
    """Those that have a number, by what they share with all that differ from them in their numbers alone."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for table in tables:
        if (kind := _kind(table)) != table:
            kinds[kind].add(table)
    return kinds


def _kind(table: str) -> str:
    """The same for tables that differ in their numbers alone, as partitions do."""
    return _NUMBER.sub("#", table)


def _numbers(table: str) -> list[tuple[int, str]]:
    """To compare by: Python makes no number of as many digits as a hostile dump may give to a name."""
    digits = (number.lstrip("0") for number in _NUMBER.findall(table))
    return [(len(number), number) for number in digits]


def _told(tables: Sequence[str], text: Callable[[str], str]) -> list[str]:
    """A sentence for each of so many as somebody reads."""
    if len(tables) <= _TOLD:
        return [text(table) for table in tables]
    return [*map(text, tables[: _TOLD - 1]), f"and {len(tables) - _TOLD + 1} more tables lost as much"]


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _span(span: timedelta) -> str:
    hours = max(round(span / timedelta(hours=1)), 1)
    return f"{round(hours / 24)} days" if hours >= 48 else "hour" if hours == 1 else f"{hours} hours"
