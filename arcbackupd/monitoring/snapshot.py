"""How everything stands at a moment: the facts, from wherever they are known, and what is to be said of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from arcbackupd.alarms.alarms import AlarmState
from arcbackupd.alarms.alarms import trouble as alarm_trouble
from arcbackupd.dumps.catalogue import Backup
from arcbackupd.errors import ArcbackupdError
from arcbackupd.jobs import JobStatus
from arcbackupd.monitoring.parts import Parts
from arcbackupd.operations.anomalies import newest_healthy
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.backups_dir import ROOM_BESIDE_A_DUMP, check_shared_path, disk_error
from arcbackupd.operations.drill.health import DrillFacts, drill_problems
from arcbackupd.operations.drill.records import DrillRecord
from arcbackupd.operations.health import Facts, Flagged, Problem, Room, Severity, Thresholds, UploadFacts, assess
from arcbackupd.operations.offhost.offhost import DestinationState
from arcbackupd.operations.restores import Restores
from arcbackupd.scheduling import ClockWatch, JobState
from arcbackupd.settings import Status

_WORLD_READABLE = Problem(
    "env-world-readable",
    "Everyone on this host can read .env and the passwords in it.",
    "Let only its owner read it: `chmod 600 .env`.",
    Severity.WARNING,
)
_TOLD_OTHERWISE = ("dump", "upload", "drill")
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


@dataclass(frozen=True)
class Snapshot:
    """How everything stands, and the problems, worst first. ``backups`` are those on this host, newest first."""

    facts: Facts
    thresholds: Thresholds
    state: Severity
    problems: list[Problem]
    last_good: Backup | None
    backups: Sequence[Backup]
    jobs: list[JobState]
    destinations: list[DestinationState]
    alarms: list[AlarmState]
    held: str | None = None
    """Why retention keeps what it would remove, though it isn't frozen."""
    drilled: DrillRecord | None = None
    """The last restore drill."""
    proved: DrillRecord | None = None
    """The last one that proved a backup restorable."""


def gather(parts: Parts, clock: ClockWatch, started_at: datetime, found: Sequence[Problem] = ()) -> Snapshot:
    """Look at everything. Blocking; what can't be looked at is a problem of the snapshot.

    ``found`` are problems that are known already.
    """
    now = datetime.now(UTC)
    look = _look(parts.backups)
    destinations, jobs, alarms = parts.off_host.states(), parts.scheduler.states(), parts.alarms.states()
    last_good = look.last_good
    facts = Facts(
        now=now,
        started_at=started_at,
        last_good=last_good.taken_at if last_good else None,
        last_dump_error=parts.backups.last_dump_failure or _failed_since(jobs, last_good),
        frozen=look.frozen,
        clock_doubt=clock.doubt(now),
        failed_jobs={job.name: job.problem for job in jobs if job.problem},
        paused_jobs=tuple(job.name for job in jobs if job.paused),
        job_failures=dict(_job_failures(jobs)),
        trouble=(
            *found,
            *look.trouble,
            *_restore_trouble(parts.restores),
            *_off_host_trouble(destinations),
            *_drill_trouble(parts, look, jobs, now),
            *alarm_trouble(alarms),
        ),
        uploads=tuple(_upload_facts(state) for state in destinations if state.streams),
        room=look.room,
        looked=look.looked,
        flagged=look.flagged,
    )
    limits = thresholds(parts.settings.status, parts.scheduler.period("dump"), parts.scheduler.period("upload"))
    state, problems = assess(facts, limits)
    records = parts.backups.drills
    return Snapshot(
        facts,
        limits,
        state,
        problems,
        last_good,
        look.backups,
        jobs,
        destinations,
        alarms,
        held=look.held,
        drilled=records.last(),
        proved=records.last_proved(),
    )


def thresholds(status: Status, dump: timedelta | None, upload: timedelta | None) -> Thresholds:
    """The limits of ages, given the periods of the jobs: what isn't set follows from these, and what is set."""
    dump, upload = dump or _HOUR, upload or _HOUR
    warn_after = status.warn_after or min(2 * dump, status.critical_after or 2 * dump)
    day, days = max(2 * upload, _DAY), max(6 * upload, 3 * _DAY)
    upload_warn_after = status.upload_warn_after or min(day, status.upload_critical_after or day)
    return Thresholds(
        warn_after,
        status.critical_after or max(6 * dump, warn_after),
        upload_warn_after,
        status.upload_critical_after or max(days, upload_warn_after),
    )


@dataclass(frozen=True)
class _Look:
    """The newest good backup, why retention stands still, what is wrong; ``looked``: whether it could be told."""

    trouble: tuple[Problem, ...]
    last_good: Backup | None = None
    backups: Sequence[Backup] = ()
    frozen: str | None = None
    room: Room | None = None
    looked: bool = False
    held: str | None = None
    flagged: Flagged | None = None


def _look(backups: Backups) -> _Look:
    trouble: dict[str, Problem] = {}
    try:
        if backups.installation().world_readable:
            trouble[_WORLD_READABLE.code] = _WORLD_READABLE
    except ArcbackupdError as error:
        trouble[error.code] = _critical(error)
    try:
        check_shared_path(backups.directory())
        last_good = backups.newest_good()
        planned = backups.plan_prune()
        flagged = _flagged(backups, last_good) if last_good else None
        room = _room(backups, last_good)
    except ArcbackupdError as error:  # what keeps it from the installation keeps it from this too
        trouble[error.code] = _critical(error)
        return _Look(tuple(trouble.values()))
    except OSError as error:
        failed = disk_error(error, backups.directory())
        return _Look((*trouble.values(), _critical(failed)))
    return _Look(
        tuple(trouble.values()),
        last_good,
        planned.backups,
        planned.plan.frozen,
        room,
        looked=True,
        held=planned.plan.held,
        flagged=flagged,
    )


def _flagged(backups: Backups, newest: Backup) -> Flagged | None:
    judged = backups.judged()
    # Not one that another program took since, which is measured against others of its own.
    own = (backup for backup in backups.read() if backup.good and backup.manifest)
    newest = next((backup for backup in own if backup.manifest and backup.manifest.host == backups.host), newest)
    judgement = judged.get(newest.name)
    if judgement is None or not judgement.flagged or backups.anomalies.replaced_since(newest.taken_at):
        return None
    healthy = newest_healthy((backup for backup in backups.read() if backup.good), judged)
    return Flagged(newest.name, judgement.anomalies, healthy.name if healthy else None)


def _room(backups: Backups, last_good: Backup | None) -> Room:
    """Of the shared data, which holds the directory of the backups: that one may not be there yet."""
    directory = backups.directory()
    usage = shutil.disk_usage(directory if directory.is_dir() else directory.parent)
    return Room(usage.free, usage.total, last_good.size if last_good else 0, ROOM_BESIDE_A_DUMP)


def _upload_facts(state: DestinationState) -> UploadFacts:
    return UploadFacts(state.name, state.since, state.done_at, state.frozen)


def _job_failures(jobs: list[JobState]) -> Iterator[tuple[str, str]]:
    """Jobs whose last run failed, and why; of those of `_TOLD_OTHERWISE` the backups themselves tell more."""
    for job in jobs:
        if job.name not in _TOLD_OTHERWISE and job.last_run and job.last_run.status is JobStatus.FAILED:
            yield job.name, job.last_run.message


def _failed_since(states: list[JobState], last_good: Backup | None) -> str | None:
    """Why the last scheduled dump failed, perhaps of an earlier run of the daemon, if none came after it."""
    run = next((state.last_run for state in states if state.name == "dump"), None)
    if run is None or run.status is not JobStatus.FAILED or (last_good and last_good.taken_at > run.started_at):
        return None
    return run.message


def _drill_trouble(parts: Parts, look: _Look, jobs: list[JobState], now: datetime) -> list[Problem]:
    if not look.looked:
        return []
    expected = any(job.name == "drill" and job.enabled and not job.paused for job in jobs)
    records = parts.backups.drills
    return drill_problems(
        DrillFacts(
            now=now,
            since=records.since(),
            period=parts.scheduler.period("drill") if expected else None,
            records=records.all(),
            backups=look.backups,
            newest=look.last_good,
        )
    )


def _restore_trouble(restores: Restores) -> Iterator[Problem]:
    if restores.unfinished():
        last = restores.last()
        why = f" {last.problem}" if last and last.problem and last.outcome == "unfinished" else ""
        broken = restores.trouble()
        if broken:
            yield _critical(broken)
        hint = "`journalctl -u arcbackupd` tells what stands in the way; it is tried again every minute."
        message = f"A restore was interrupted and is neither finished nor undone.{why}"
        yield Problem("restore-unfinished", message, hint, Severity.CRITICAL)
    for kept in restores.replaced():
        if kept.problem:
            hint = "`arcbackupctl rollback` brings it back, `arcbackupctl discard-replaced` drops it for good."
            message = f"{kept.database}, which a restore replaced, is in no backup: {kept.problem}"
            yield Problem("replaced-without-backup", message, hint, Severity.WARNING, kept.database)


def _off_host_trouble(destinations: list[DestinationState]) -> Iterator[Problem]:
    for state in destinations:
        if state.problem:
            message = f"Destination {state.name} can't be used: {state.problem}."
            yield Problem("destination-failed", message, state.hint or "", Severity.WARNING, state.name)
        if state.problems and not state.failure:
            more = f" (and {len(state.problems) - 1} more)" if len(state.problems) > 1 else ""
            hint = f"`arcbackupctl upload {state.name}` tells all of it, and tries again."
            yield Problem("upload-incomplete", f"{state.problems[0]}{more}", hint, Severity.WARNING, state.name)
        if state.failure and state.streams:
            message = f"The last upload to {state.name} failed: {state.failure.message}"
            yield Problem("upload-failed", message, state.failure.hint, Severity.WARNING, state.name)


def _critical(error: ArcbackupdError) -> Problem:
    return Problem(error.code, error.message, error.hint, Severity.CRITICAL)
