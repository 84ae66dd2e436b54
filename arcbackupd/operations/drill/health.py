"""What drills have to do with being safe: a backup that failed its drill, and none drilled for long. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.operations.drill.records import DrillRecord
from arcbackupd.operations.health import Problem, Severity

_OVERDUE_PERIODS = 3


@dataclass(frozen=True)
class DrillFacts:
    """``records`` are newest first, ``backups`` those that are here, ``newest`` the newest good one of them.

    ``period`` is that of the job; ``None`` when it is paused or disabled: then nobody expects drills. ``since`` is
    from when on they could be expected.
    """

    now: datetime
    since: datetime
    period: timedelta | None
    records: Sequence[DrillRecord]
    backups: Sequence[Backup]
    newest: Backup | None


def drill_problems(facts: DrillFacts) -> list[Problem]:
    """What is wrong: at most one problem of each kind."""
    failed = standing_failure(facts.records, facts.backups)
    if failed:
        return [_failed(failed, facts.newest)]
    return [*_not_carried_out(facts.records), *_overdue(facts)]


def standing_failure(records: Sequence[DrillRecord], backups: Sequence[Backup]) -> DrillRecord | None:
    """The newest failed drill of a backup that is still here, unless a later drill proved it or a newer backup."""
    for number, record in enumerate(records):
        later = records[:number]
        answered = any(other.proved and other.taken_at >= record.taken_at for other in later)
        if record.outcome == "failed" and not answered and any(backup.name == record.name for backup in backups):
            return record
    return None


def _failed(record: DrillRecord, newest: Backup | None) -> Problem:
    of_newest = newest is None or record.taken_at >= newest.taken_at
    message = f"{record.name} failed its restore drill: {record.problem}"
    next_one = "`arcbackupctl backup` takes a new one; `arcbackupctl verify latest` drills it, and ends this."
    hint = f"{record.hint or ''} {next_one}".strip()
    return Problem("drill-failed", message, hint, Severity.CRITICAL if of_newest else Severity.WARNING)


def _not_carried_out(records: Sequence[DrillRecord]) -> list[Problem]:
    last = next(iter(records), None)
    if last is None or last.outcome != "error":
        return []
    message = f"The last restore drill could not be carried out: {last.problem}"
    hint = f"{last.hint or ''} `arcbackupctl verify latest` tries again.".strip()
    return [Problem("drill-failed", message, hint, Severity.WARNING)]


def _overdue(facts: DrillFacts) -> list[Problem]:
    if facts.period is None or facts.newest is None:
        return []
    proved = next((record.drilled_at for record in facts.records if record.proved), None)
    since = facts.now - (proved or facts.since)
    if since < _OVERDUE_PERIODS * facts.period:
        return []
    last = f"The last drill that proved a backup restorable was {_long(since)} ago."
    message = last if proved else f"No drill has proved a backup restorable in {_long(since)}."
    hint = (
        "`arcbackupctl verify latest` does it now, `journalctl -u arcbackupd JOB=drill` tells why none was done; "
        "`[jobs.drill] enabled = false` expects none."
    )
    return [Problem("drill-overdue", message, hint, Severity.WARNING)]


def _long(time: timedelta) -> str:
    hours = time.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours < 2 * 24 else f"{hours / 24:.0f} days"
