"""When each backup will go: retention applied to the days to come, as if dumps went on as they should."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from arcbackupd.dumps.retention import Candidate, Policy, plan_retention

_DAY = timedelta(days=1)


def outlook(
    candidates: Sequence[Candidate], policy: Policy, now: datetime, *, every: timedelta, days: int = 60
) -> dict[str, datetime]:
    """Given all backups of a directory, return when each goes, by name; those that stay for ``days`` aren't in it.

    Assumes a good dump of new content ``every`` so often from now on, and a pruning each day, the first one now.
    While the newest good one is flagged, those to come are too.
    """
    good = (candidate for candidate in candidates if candidate.good and candidate.taken_at <= now)
    newest = max(good, key=lambda candidate: candidate.taken_at, default=None)
    flagged = newest is not None and newest.flagged
    present = {candidate.name: candidate for candidate in candidates}
    coming: dict[str, Candidate] = {}
    goes: dict[str, datetime] = {}
    for day in range(days + 1):
        moment = now + day * _DAY
        if day:
            coming |= {dump.name: dump for dump in _dumps(moment - _DAY, moment, every, flagged=flagged)}
        for name in plan_retention([*present.values(), *coming.values()], policy, moment).pruned:
            if present.pop(name, None):
                goes[name] = moment
            coming.pop(name, None)
    return goes


def _dumps(after: datetime, until: datetime, every: timedelta, *, flagged: bool) -> Iterable[Candidate]:
    for number in range(1, max(int((until - after) / every), 1) + 1):
        moment = min(after + number * every, until)
        name = f"to come at {moment.isoformat()}"
        yield Candidate(name, taken_at=moment, counts_from=moment, good=True, content=name, flagged=flagged)
