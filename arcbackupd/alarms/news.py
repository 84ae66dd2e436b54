"""What there is to tell: the difference between what somebody was told last and how things are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict

from arcbackupd.operations.health import Problem, Severity

_RANK = [Severity.OK, Severity.WARNING, Severity.CRITICAL]


class Standing(BaseModel):
    """A problem that somebody was told of, and since when it is known. ``key`` is what it has alone."""

    model_config = ConfigDict(frozen=True)

    key: str
    code: str
    subject: str
    message: str
    hint: str
    severity: Severity
    since: AwareDatetime


class Told(BaseModel):
    """What somebody was told last: the problems by their keys, and when that was."""

    model_config = ConfigDict(frozen=True)

    problems: dict[str, Standing] = {}
    at: AwareDatetime | None = None


@dataclass(frozen=True)
class News:
    """What changed since somebody was told last.

    ``appeared``, ``changed`` (its severity) and ``resolved`` are problems; all of them empty is a reminder.
    ``problems`` are those that there are now, worst first; none of them is less than ``least``, and nothing less is
    told of.
    """

    at: datetime
    state: Severity
    before: Severity
    appeared: tuple[Standing, ...]
    changed: tuple[Standing, ...]
    resolved: tuple[Standing, ...]
    problems: tuple[Standing, ...]
    least: Severity = Severity.WARNING

    @property
    def reminder(self) -> bool:
        """Whether nothing is new."""
        return not (self.appeared or self.changed or self.resolved)


def standing(problems: Iterable[Problem], told: Told, now: datetime, least: Severity) -> dict[str, Standing]:
    """The problems of at least a severity, by what tells them apart: code and subject, from the second on a number.

    What a problem says (an age, say) may change from look to look; that makes it no other problem.
    """
    count: Counter[str] = Counter()
    found: dict[str, Standing] = {}
    for problem in problems:
        if _RANK.index(problem.severity) < _RANK.index(least):
            continue
        name = f"{problem.code}/{problem.subject}" if problem.subject else problem.code
        count[name] += 1
        key = name if count[name] == 1 else f"{name}#{count[name]}"
        known = told.problems.get(key)
        found[key] = Standing(
            key=key,
            code=problem.code,
            subject=problem.subject,
            message=_text(problem.message),
            hint=problem.hint,
            severity=problem.severity,
            since=known.since if known else now,
        )
    return found


def _text(message: str) -> str:
    """What every encoding of it can hold: names of files may be no valid Unicode."""
    return message.encode("utf-8", "replace").decode()


def news(
    told: Told,
    current: Mapping[str, Standing],
    now: datetime,
    remind: timedelta | None,
    least: Severity = Severity.WARNING,
) -> News | None:
    """What there is to tell somebody, given what he was told last; ``None`` when there is nothing.

    He is reminded of what goes on after so long, and at once when the clock says that he was told in the future.
    """
    before = told.problems
    found = News(
        at=now,
        state=_worst(current.values()),
        before=_worst(before.values()),
        appeared=tuple(value for key, value in current.items() if key not in before),
        changed=tuple(_changed(before, current)),
        resolved=tuple(value for key, value in before.items() if key not in current),
        problems=tuple(current.values()),
        least=least,
    )
    if found.reminder and not (current and _due(told.at, now, remind)):
        return None
    return found


def _changed(before: Mapping[str, Standing], current: Mapping[str, Standing]) -> Iterator[Standing]:
    for key, value in current.items():
        if key in before and before[key].severity is not value.severity:
            yield value


def _due(told_at: datetime | None, now: datetime, remind: timedelta | None) -> bool:
    return remind is not None and (told_at is None or not timedelta() <= now - told_at < remind)


def _worst(problems: Iterable[Standing]) -> Severity:
    return max((problem.severity for problem in problems), key=_RANK.index, default=Severity.OK)
