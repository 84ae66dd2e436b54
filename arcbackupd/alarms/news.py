"""What there is to tell: the difference between what somebody was told last and how things are. Pure.

What comes and goes all the time is not told each time: that a problem is solved or less severe is told once an hour
at most, and until then it counts as it was. Bad news never wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict

from arcbackupd.operations.health import Problem, Severity

_RANK = [Severity.OK, Severity.WARNING, Severity.CRITICAL]
_CALM = timedelta(hours=1)
"""Between two pieces of good news of one problem."""
_LONGEST = 1000
"""Characters of what a problem says, or of its hint: plugins can say anything."""
_LONGEST_NAME = 200


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
    """What somebody was told last: the problems by their keys, and when that was.

    ``eased``: of which of them, and of those gone, he had good news within the last hour, and when.
    """

    model_config = ConfigDict(frozen=True)

    problems: dict[str, Standing] = {}
    at: AwareDatetime | None = None
    eased: dict[str, AwareDatetime] = {}


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
    """The problems of at least a severity, worst first, by what tells them apart: code and subject, then a number.

    What a problem says (an age, say) may change from look to look; that makes it no other problem. One that there
    were good news of lately counts as it was told last.
    """
    found = _found(problems, told, now, least)
    for key, known in told.problems.items():
        better = _rank(found.get(key)) < _rank(known)
        if better and _within(told.eased.get(key), now, _CALM):
            found[key] = known
    return dict(sorted(found.items(), key=lambda item: -_rank(item[1])))


def _found(problems: Iterable[Problem], told: Told, now: datetime, least: Severity) -> dict[str, Standing]:
    count: Counter[str] = Counter()
    found: dict[str, Standing] = {}
    for problem in problems:
        if _RANK.index(problem.severity) < _RANK.index(least):
            continue
        code, subject = _text(problem.code, _LONGEST_NAME), _text(problem.subject, _LONGEST_NAME)
        name = f"{code}/{subject}" if subject else code
        count[name] += 1
        key = name if count[name] == 1 else f"{name}#{count[name]}"
        known = told.problems.get(key)
        found[key] = Standing(
            key=key,
            code=code,
            subject=subject,
            message=_text(problem.message, _LONGEST),
            hint=_text(problem.hint, _LONGEST),
            severity=problem.severity,
            since=known.since if known else now,
        )
    return found


def _text(value: str, longest: int) -> str:
    """What every encoding of it can hold: names of files may be no valid Unicode."""
    text = value.encode("utf-8", "replace").decode()
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


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


def told_by(found: News, told: Told) -> Told:
    """What somebody was told last who was told these news."""
    better = [*found.resolved, *(new for new in found.changed if _rank(new) < _rank(told.problems[new.key]))]
    lately = {key: at for key, at in told.eased.items() if _within(at, found.at, _CALM)}
    return Told(
        problems={problem.key: problem for problem in found.problems},
        at=found.at,
        eased={**lately, **{problem.key: found.at for problem in better}},
    )


def _changed(before: Mapping[str, Standing], current: Mapping[str, Standing]) -> Iterator[Standing]:
    for key, value in current.items():
        if key in before and before[key].severity is not value.severity:
            yield value


def _due(told_at: datetime | None, now: datetime, remind: timedelta | None) -> bool:
    return remind is not None and not _within(told_at, now, remind)


def _within(moment: datetime | None, now: datetime, span: timedelta) -> bool:
    """Whether that was lately; what the clock says is yet to come wasn't."""
    return moment is not None and timedelta() <= now - moment < span


def _rank(problem: Standing | None) -> int:
    return _RANK.index(problem.severity if problem else Severity.OK)


def _worst(problems: Iterable[Standing]) -> Severity:
    return max((problem.severity for problem in problems), key=_RANK.index, default=Severity.OK)
