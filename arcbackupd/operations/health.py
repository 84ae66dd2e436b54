"""Whether the data are safe, from facts: what `status` says and exits with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from arcbackupd.operations.anomalies import summary, what_to_do


class Severity(StrEnum):
    """How bad a problem is; also the state as a whole."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be, and what to do about it.

    ``subject`` tells problems of one code apart: the name of the job, destination or alarm.
    """

    code: str
    message: str
    hint: str
    severity: Severity
    subject: str = ""


@dataclass(frozen=True)
class Thresholds:
    """From which age on it is a warning, and critical: of the newest good dump, of the last complete upload."""

    warn_after: timedelta
    critical_after: timedelta
    upload_warn_after: timedelta = timedelta(days=1)
    upload_critical_after: timedelta = timedelta(days=3)


@dataclass(frozen=True)
class UploadFacts:
    """Of a destination that something goes to; times as `DestinationState` has them.

    ``frozen``: why its retention removes nothing.
    """

    destination: str
    since: datetime | None
    done_at: datetime | None
    frozen: str | None = None


@dataclass(frozen=True)
class Room:
    """Bytes of the filesystem with the backups: free ones, all, of the newest good dump, and wanted beside one."""

    free: int
    total: int
    dump: int
    beside: int

    @property
    def dumps(self) -> int:
        """How many dumps of that size fit."""
        return max(self.free - self.beside, 0) // max(self.dump, 1)


@dataclass(frozen=True)
class Flagged:
    """The newest good backup, if it lost much against its history, and the newest one that didn't."""

    name: str
    anomalies: tuple[str, ...]
    healthy: str | None


@dataclass(frozen=True)
class Facts:
    """What the judgement rests on. ``trouble`` are problems that were found while the facts were gathered."""

    now: datetime
    started_at: datetime
    last_good: datetime | None
    last_dump_error: str | None = None
    frozen: str | None = None
    clock_doubt: str | None = None
    failed_jobs: dict[str, str] = field(default_factory=dict)
    paused_jobs: tuple[str, ...] = ()
    job_failures: dict[str, str] = field(default_factory=dict)
    """Jobs whose last run failed, and why; of dumps, uploads and drills the other facts tell."""
    trouble: tuple[Problem, ...] = ()
    uploads: tuple[UploadFacts, ...] = ()
    room: Room | None = None
    looked: bool = True
    """Whether the backups could be looked at; otherwise nothing is known of the last good one."""
    flagged: Flagged | None = None


def assess(facts: Facts, thresholds: Thresholds) -> tuple[Severity, list[Problem]]:
    """The state, that of the worst problem, and the problems, worst first."""
    problems = [
        *facts.trouble,
        *_age(facts, thresholds),
        *_jobs(facts),
        *_retention(facts),
        *_uploads(facts, thresholds),
        *_room(facts.room),
        *_anomalies(facts),
    ]
    order = [Severity.CRITICAL, Severity.WARNING]
    problems.sort(key=lambda problem: order.index(problem.severity))
    return (problems[0].severity if problems else Severity.OK), problems


def _age(facts: Facts, thresholds: Thresholds) -> list[Problem]:
    hint = "`arcbackupctl backup` takes one now; `journalctl -u arcbackupd` tells why none was taken."
    failed = f" The last try failed: {facts.last_dump_error}" if facts.last_dump_error else ""
    if not facts.looked:
        return []
    if facts.last_good is None:
        young = facts.now - facts.started_at < thresholds.warn_after
        severity = Severity.WARNING if young else Severity.CRITICAL
        return [Problem("no-good-backup", f"There is no good backup.{failed}", hint, severity)]
    age = facts.now - facts.last_good
    if age >= thresholds.critical_after:
        return [Problem("last-good-old", _old(age) + failed, hint, Severity.CRITICAL)]
    if age >= thresholds.warn_after:
        return [Problem("last-good-old", _old(age) + failed, hint, Severity.WARNING)]
    if facts.last_dump_error:
        return [Problem("dump-failed", f"The last dump failed: {facts.last_dump_error}", hint, Severity.WARNING)]
    return []


def _old(age: timedelta) -> str:
    return f"The newest good backup is {span(age)} old."


def span(age: timedelta) -> str:
    """A length of time in words."""
    hours = age.total_seconds() / 3600
    if hours < 2:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} hours" if hours < 2 * 24 else f"{hours / 24:.0f} days"


def _jobs(facts: Facts) -> list[Problem]:
    failed = [
        Problem(
            "job-failed-to-load",
            f"Job {name} failed to load: {why}",
            "Repair its package, or remove its table.",
            Severity.WARNING,
            name,
        )
        for name, why in facts.failed_jobs.items()
    ]
    paused = [
        Problem(
            "job-paused", f"Job {name} is paused.", f"`arcbackupctl jobs resume {name}`.", Severity.WARNING, name
        )
        for name in facts.paused_jobs
    ]
    again = "`arcbackupctl jobs run {0}` tries again now; `journalctl -u arcbackupd JOB={0}` tells more."
    last = [
        Problem("job-failed", f"Job {name} failed: {why}", again.format(name), Severity.WARNING, name)
        for name, why in facts.job_failures.items()
    ]
    return failed + paused + last


def _retention(facts: Facts) -> list[Problem]:
    if facts.clock_doubt:
        hint = "Check the clock: `timedatectl`."
        return [Problem("clock-jumped", facts.clock_doubt, hint, Severity.WARNING)]
    if facts.frozen and facts.last_good is not None:
        hint = "Nothing is lost: pruning goes on with the next good dump."
        return [Problem("retention-frozen", facts.frozen, hint, Severity.WARNING)]
    return []


def _anomalies(facts: Facts) -> list[Problem]:
    if facts.flagged is None:
        return []
    name, anomalies, healthy = facts.flagged.name, facts.flagged.anomalies, facts.flagged.healthy
    message = (
        f"The newest backup, {name}, is flagged: {summary(anomalies)}. Older ones are kept until that is settled."
    )
    return [Problem("dump-anomaly", message, what_to_do(name, healthy), Severity.WARNING)]


def _uploads(facts: Facts, thresholds: Thresholds) -> Iterator[Problem]:
    for upload in facts.uploads:
        name = upload.destination
        age = facts.now - (upload.done_at or upload.since or facts.started_at)
        if age >= thresholds.upload_warn_after:
            last = f"The last complete upload to {name} was {span(age)} ago."
            never = f"No upload to {name} has been complete in the {span(age)} since the first try."
            critical = age >= thresholds.upload_critical_after
            hint = f"`arcbackupctl upload {name}` tries now, and tells what keeps it."
            severity = Severity.CRITICAL if critical else Severity.WARNING
            yield Problem("upload-old", last if upload.done_at else never, hint, severity, name)
        if upload.frozen and not facts.clock_doubt:
            hint = f"Nothing is lost there: pruning goes on when newer dumps have come to {name}."
            yield Problem(
                "upload-retention-frozen",
                f"Retention at {name} holds still. {upload.frozen}",
                hint,
                Severity.WARNING,
                name,
            )


_FEW_DUMPS = 3


def _room(room: Room | None) -> Iterator[Problem]:
    if room is None or room.dumps >= _FEW_DUMPS:
        return
    figures = f"{room.free:,} of {room.total:,} bytes are free, a dump needs about {room.dump + room.beside:,}"
    hint = "Free some space there, or keep fewer backups: [retention]. `arcbackupctl list` tells their sizes."
    if room.dumps == 0:
        message = f"The next backup doesn't fit on the disk: {figures}."
        yield Problem("disk-space", message, hint, Severity.CRITICAL)
    else:
        message = f"No more than {room.dumps} further backups fit on the disk: {figures}."
        yield Problem("disk-space", message, hint, Severity.WARNING)
