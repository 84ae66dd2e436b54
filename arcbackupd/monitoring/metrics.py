"""A snapshot as metrics, in the text format of Prometheus. Pure.

Times are Unix times and sizes bytes, as Prometheus wants them, so that an age is reckoned where the alert is. A
file that nobody writes any more is noticed by its own ``arcbackupd_metrics_timestamp_seconds``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from arcbackupd import __version__
from arcbackupd.dumps.catalogue import Backup
from arcbackupd.jobs import JobStatus
from arcbackupd.log import redacted
from arcbackupd.monitoring.snapshot import Snapshot
from arcbackupd.operations.health import Severity

Sample = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Family:
    """A metric: its samples, each with labels and a value. All are gauges: they can go both ways."""

    name: str
    help: str
    samples: tuple[Sample, ...]


def exposition(snapshot: Snapshot) -> str:
    """The whole file. A metric without a sample isn't in it: what isn't known has no value."""
    families = (family for group in _GROUPS for family in group(snapshot))
    return "".join(line for family in families if family.samples for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    name = f"arcbackupd_{family.name}"
    yield f"# HELP {name} {_escaped(family.help)}\n"
    yield f"# TYPE {name} gauge\n"
    for labels, value in family.samples:
        pairs = ",".join(f'{key}="{_escaped(text, quotes=True)}"' for key, text in labels.items())
        yield f"{name}{f'{{{pairs}}}' if pairs else ''} {_number(value)}\n"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = redacted(text).replace("\\", r"\\").replace("\n", r"\n")
    text = text.encode("utf-8", "replace").decode()
    return text.replace('"', r"\"") if quotes else text


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _one(name: str, text: str, value: float | datetime | None) -> Family:
    return _of(name, text, [({}, value)])


def _of(name: str, text: str, samples: Iterable[tuple[dict[str, str], float | datetime | None]]) -> Family:
    """A metric of those samples that have a value."""
    known = ((labels, _plain(value)) for labels, value in samples if value is not None)
    return Family(name, text, tuple(known))


def _plain(value: float | datetime) -> float:
    return value.timestamp() if isinstance(value, datetime) else float(value)


def _daemon(snapshot: Snapshot) -> Iterator[Family]:
    yield _of("build_info", "The daemon's version.", [({"version": __version__}, 1)])
    yield _one("start_time_seconds", "When the daemon started.", snapshot.facts.started_at)
    yield _one("metrics_timestamp_seconds", "When this file was written.", snapshot.facts.now)


def _state(snapshot: Snapshot) -> Iterator[Family]:
    states = [({"state": str(state)}, state is snapshot.state) for state in Severity]
    yield _of("state", "What `arcbackupctl status` says: 1 for the state that it is.", states)
    count = Counter(problem.severity for problem in snapshot.problems)
    kinds = (Severity.WARNING, Severity.CRITICAL)
    yield _of("problems", "Problems there are.", [({"severity": str(kind)}, count[kind]) for kind in kinds])
    problems = Counter((problem.code, problem.subject, str(problem.severity)) for problem in snapshot.problems)
    yield _of(
        "problem",
        "Problems there are, by code and what they are about.",
        [({"code": code, "subject": of, "severity": how}, number) for (code, of, how), number in problems.items()],
    )


def _backups(snapshot: Snapshot) -> Iterator[Family]:
    good = snapshot.last_good
    yield _one(
        "last_good_backup_timestamp_seconds",
        "When the newest backup that is proved complete was taken.",
        good.taken_at if good else None,
    )
    yield _one("last_good_backup_size_bytes", "Size of that backup.", good.size if good else None)
    if not snapshot.facts.looked:
        return
    kinds = Counter((str(backup.kind), backup.state) for backup in snapshot.backups)
    yield _of(
        "backups",
        "Backups on this host, by kind and whether they are good, broken or unscanned.",
        [({"kind": kind, "state": state}, number) for (kind, state), number in sorted(kinds.items())],
    )
    yield _one("backups_size_bytes", "Bytes of all backups on this host.", _occupied(snapshot.backups))


def _occupied(backups: Iterable[Backup]) -> int:
    """Names that share a file count once."""
    return sum({backup.identity.inode: backup.size for backup in backups}.values())


def _disk(snapshot: Snapshot) -> Iterator[Family]:
    room = snapshot.facts.room
    if room is not None:
        yield _one("filesystem_free_bytes", "Free bytes where the backups are.", room.free)
        yield _one("filesystem_size_bytes", "Size of that filesystem.", room.total)


def _retention(snapshot: Snapshot) -> Iterator[Family]:
    if snapshot.facts.looked:
        frozen = snapshot.facts.frozen is not None
        yield _one("retention_frozen", "Whether nothing is pruned at present.", frozen)
        held = snapshot.held is not None
        yield _one("retention_held", "Whether healthy backups don't age, as the newest one is flagged.", held)


def _drills(snapshot: Snapshot) -> Iterator[Family]:
    last, proved = snapshot.drilled, snapshot.proved
    if last:
        yield _one("last_drill_timestamp_seconds", "When the last restore drill began.", last.drilled_at)
        yield _one("last_drill_failed", "Whether it proved nothing.", not last.proved)
    if proved:
        yield _one(
            "last_proved_drill_timestamp_seconds", "When the last drill that proved one began.", proved.drilled_at
        )
        yield _one(
            "last_proved_backup_timestamp_seconds", "When the backup that it proved was taken.", proved.taken_at
        )
        yield _one("restore_load_seconds", "How long loading it took, as a restore does.", proved.load_s)


def _jobs(snapshot: Snapshot) -> Iterator[Family]:
    runs = [({"job": job.name}, job.last_run) for job in snapshot.jobs if job.last_run]
    ended = [(labels, run.ended_at) for labels, run in runs]
    yield _of("job_last_run_timestamp_seconds", "When the last run of a job ended.", ended)
    took = [(labels, (run.ended_at - run.started_at).total_seconds()) for labels, run in runs]
    yield _of("job_last_run_duration_seconds", "How long it took.", took)
    failed = [(labels, run.status is JobStatus.FAILED) for labels, run in runs]
    yield _of("job_last_run_failed", "Whether it failed.", failed)
    succeeded = [({"job": job.name}, job.last_success) for job in snapshot.jobs]
    yield _of("job_last_success_timestamp_seconds", "When the last run that went well began.", succeeded)
    paused = [({"job": job.name}, job.paused) for job in snapshot.jobs]
    yield _of("job_paused", "Whether a job is paused.", paused)


def _uploads(snapshot: Snapshot) -> Iterator[Family]:
    rows = [({"destination": state.name}, state) for state in snapshot.destinations if state.streams]
    done = [(labels, state.done_at) for labels, state in rows]
    yield _of("upload_last_success_timestamp_seconds", "When the last complete upload ended.", done)
    failed = [(labels, state.failure is not None) for labels, state in rows]
    yield _of("upload_last_failed", "Whether the last upload failed.", failed)
    with_dumps = [(labels, state) for labels, state in rows if "dumps" in state.streams]
    dumps = [(labels, state.dumps) for labels, state in with_dumps]
    yield _of("destination_backups", "Backups there at the last look.", dumps)
    frozen = [(labels, state.frozen is not None) for labels, state in with_dumps]
    yield _of("destination_retention_frozen", "Whether nothing is pruned there at present.", frozen)


def _alarms(snapshot: Snapshot) -> Iterator[Family]:
    failing = [({"alarm": state.name}, state.problem is not None) for state in snapshot.alarms]
    yield _of("alarm_undelivered", "Whether an alarm can't be delivered.", failing)


_GROUPS = (_daemon, _state, _backups, _disk, _retention, _drills, _jobs, _uploads, _alarms)
"""What the file holds, in this order."""
