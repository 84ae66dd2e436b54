"""Which backups stay and which go: a pure function of values, which can only return what it was given.

Age counts from the *anchor*, the newest good backup, and not from the clock: while backups fail nothing grows
older, so nothing is lost. What is doubtful (not scanned, in use, named in the future) stays.

A *flagged* backup (see `anomalies`) is a good one that may lack what healthy ones hold: it takes the place of none
of them, and they don't age by it. Flagged ones age by the newest good one of either sort, so that they can't fill
the disk for as long as nobody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True)
class Candidate:
    """One backup, as far as retention is concerned. Times are aware; names are unique."""

    name: str
    taken_at: datetime
    """From its name, UTC."""
    counts_from: datetime
    """Where its age begins: ``taken_at`` for this host's own, the time of arrival for any other."""
    good: bool | None
    """Proved complete; ``None`` when it hasn't been scanned yet."""
    content: str | None = None
    """Hash of what it holds. Without one it counts as unlike every other."""
    in_use: bool = False
    """Being uploaded or restored at this moment."""
    flagged: bool = False
    """Whether it lost much against its history, and nobody has accepted that."""

    ours: bool = True
    """Taken by this host."""

    @property
    def healthy(self) -> bool:
        """Whether it can take the place of older ones."""
        return bool(self.good) and not self.flagged


@dataclass(frozen=True)
class Policy:
    """How much to keep; the union of all its rules stays. The ``keep_hourly`` to ``keep_yearly`` as in restic."""

    keep_days: int = 14
    keep_last: int = 3
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0


@dataclass(frozen=True)
class Verdict:
    """What becomes of one backup, and why, in words for an operator."""

    name: str
    keep: bool
    why: str


@dataclass(frozen=True)
class Plan:
    """A verdict for each candidate, newest first; ``frozen`` says why nothing is pruned and what to do.

    ``held`` says why no healthy one grows older.
    """

    verdicts: tuple[Verdict, ...]
    frozen: str | None = None
    held: str | None = None

    @property
    def pruned(self) -> tuple[str, ...]:
        """The names that go, newest first."""
        return tuple(verdict.name for verdict in self.verdicts if not verdict.keep)


def plan_retention(
    candidates: Iterable[Candidate], policy: Policy, now: datetime, clock_doubt: str | None = None
) -> Plan:
    """Given all backups of a directory, return a verdict for each.

    ``clock_doubt`` is the sentence that says why the clock can't be trusted: then nothing is pruned.
    """
    ordered = sorted(candidates, key=lambda c: (c.taken_at, c.name), reverse=True)
    good = [c for c in ordered if c.good and c.taken_at <= now]
    healthy = _healthy(good)
    frozen = _why_frozen(ordered, good, policy, now, clock_doubt)
    reasons = _reasons_of_healthy(healthy, policy)
    # Their own age can be more than nothing: they may have arrived here long before the time in their names.
    for newest, why in ((good[:1], "newest good backup"), (healthy[:1], "newest that isn't flagged")):
        reasons.update({c.name: why for c in newest if c.name not in reasons})
    ages = _Ages(good[0].taken_at if good else now, healthy[0] if healthy else None)
    verdicts = [_judge(c, reasons.get(c.name), policy, ages, now) for c in ordered]
    stopped = {c.name for c in ordered if frozen is not None or (c.healthy and _is_old(healthy, policy, now))}
    verdicts = [_kept(verdict) if verdict.name in stopped else verdict for verdict in verdicts]
    return Plan(tuple(verdicts), frozen, _why_held(good, healthy))


def _healthy(good: Sequence[Candidate]) -> list[Candidate]:
    """Those that take the place of older ones, newest first, of the ``good`` ones.

    While this host's newest is flagged, what others took since its newest healthy one is none of them: they are
    measured against their own history, and may lack the same.
    """
    healthy = [c for c in good if c.healthy]
    own = [c for c in good if c.ours]
    if not own or own[0].healthy:
        return healthy
    since = next((c.taken_at for c in own if c.healthy), own[-1].taken_at)
    return [c for c in healthy if c.ours or c.taken_at <= since]


@dataclass(frozen=True)
class _Ages:
    """From when ages count: from the ``newest`` good one, and for healthy ones from the newest of their own."""

    newest: datetime
    healthy: Candidate | None

    def of(self, candidate: Candidate) -> timedelta:
        return self._anchor(candidate) - candidate.counts_from

    def held(self, candidate: Candidate) -> bool:
        """Whether it is younger by this than it would be if none were flagged."""
        return self._anchor(candidate) < self.newest

    def _anchor(self, candidate: Candidate) -> datetime:
        return self.healthy.taken_at if self.healthy and candidate.healthy else self.newest


def _is_old(newest_first: Sequence[Candidate], policy: Policy, now: datetime) -> bool:
    """Whether no backup of a sort was taken in the window, so that none of the sort may go."""
    return bool(newest_first) and now - newest_first[0].taken_at > timedelta(days=policy.keep_days)


def _kept(verdict: Verdict) -> Verdict:
    return verdict if verdict.keep else Verdict(verdict.name, keep=True, why="retention is frozen")


def _why_held(good: Sequence[Candidate], healthy: Sequence[Candidate]) -> str | None:
    if not healthy or good[0] is healthy[0]:
        return None
    newest = next(c.name for c in good if c.flagged)
    return (
        f"The newest good backup is flagged for what may be missing in it: until that is settled, the others stay"
        f" as if {healthy[0].name} were the newest. `arcbackupctl inspect {newest}` tells what is missing;"
        f" `arcbackupctl accept {newest}` settles it if it is right so."
    )


def _why_frozen(
    every: Sequence[Candidate], good: Sequence[Candidate], policy: Policy, now: datetime, clock_doubt: str | None
) -> str | None:
    if clock_doubt is not None:
        return clock_doubt
    if not every:
        return None
    if not good:
        return _why_none_is_good(every)
    if not _is_old(good, policy, now):
        return None
    return (
        f"The newest good backup is {_days(now - good[0].taken_at)} old, and no other succeeded in the last"
        f" {_count(policy.keep_days, 'day')}: nothing is pruned until one does. `arcbackupctl status` says what is"
        " wrong, `arcbackupctl backup` takes one now."
    )


def _why_none_is_good(every: Sequence[Candidate]) -> str:
    if any(c.good for c in every):
        return (
            "Every good backup has a name in the future: nothing is pruned until there is one of today."
            " Check the clock with `timedatectl`, then take one with `arcbackupctl backup`."
        )
    if any(c.good is None for c in every):
        return (
            "No backup has been proved good yet: nothing is pruned until one has. Those not scanned yet are read"
            " in the background; `arcbackupctl list` shows how far that is."
        )
    return (
        "There is no good backup: nothing is pruned until there is one. Take one with `arcbackupctl backup`;"
        " `arcbackupctl list` says what is wrong with the others."
    )


_PERIODS: tuple[tuple[str, str, Callable[[datetime], Hashable]], ...] = (
    ("keep_hourly", "hour", lambda t: (t.date(), t.hour)),
    ("keep_daily", "day", lambda t: t.date()),
    ("keep_weekly", "week", lambda t: t.isocalendar()[:2]),
    ("keep_monthly", "month", lambda t: (t.year, t.month)),
    ("keep_yearly", "year", lambda t: t.year),
)


def _reasons_of_healthy(healthy: Sequence[Candidate], policy: Policy) -> dict[str, str]:
    """Why a healthy backup stays whatever its age, by name; ``healthy`` comes newest first."""
    reasons: dict[str, str] = {}
    for name in _newest_contents(healthy, policy.keep_last):
        reasons[name] = f"newest {_count(policy.keep_last, 'good backup')}"
    for field, period, key in _PERIODS:
        for name in _newest_of_periods(healthy, getattr(policy, field), key):
            reasons.setdefault(name, f"newest of its {period}")
    return reasons


def _newest_contents(good: Sequence[Candidate], count: int) -> list[str]:
    newest: dict[object, str] = {}
    for candidate in good:
        if len(newest) >= count:
            break
        key = ("name", candidate.name) if candidate.content is None else ("content", candidate.content)
        newest.setdefault(key, candidate.name)
    return list(newest.values())


def _newest_of_periods(good: Sequence[Candidate], count: int, key: Callable[[datetime], Hashable]) -> list[str]:
    newest: dict[Hashable, str] = {}
    for candidate in good:
        newest.setdefault(key(candidate.taken_at.astimezone(UTC)), candidate.name)
    return list(newest.values())[: max(count, 0)]


def _judge(candidate: Candidate, reason: str | None, policy: Policy, ages: _Ages, now: datetime) -> Verdict:
    kept = reason or _why_untouched(candidate, now)
    if kept is not None:
        return Verdict(candidate.name, keep=True, why=kept)
    age = ages.of(candidate)
    limit = _count(policy.keep_days, "day")
    if age <= timedelta(days=policy.keep_days):
        beside = " before the newest that isn't flagged" if ages.held(candidate) else ""
        return Verdict(candidate.name, keep=True, why=f"younger than {limit}{beside}")
    since = "" if candidate.counts_from == candidate.taken_at else " since it arrived"
    return Verdict(candidate.name, keep=False, why=f"older than {limit}: age {_days(age)}{since}")


def _why_untouched(candidate: Candidate, now: datetime) -> str | None:
    """What keeps a backup that no rule of the policy keeps: somebody needs it, or we don't know it well."""
    if candidate.in_use:
        return "being restored or uploaded"
    if candidate.taken_at > now:
        return "its name lies in the future"
    if candidate.good is None:
        return "not scanned yet"
    return None


def _days(span: timedelta) -> str:
    days = f"{span / timedelta(days=1):.1f}".removesuffix(".0")
    return f"{days} day" if days == "1" else f"{days} days"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
