"""The metrics, as Prometheus' own parser reads them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from arcbackupd import __version__
from arcbackupd.alarms.alarms import AlarmState
from arcbackupd.dumps.catalogue import Backup, FileIdentity
from arcbackupd.dumps.names import Kind
from arcbackupd.jobs import JobStatus
from arcbackupd.monitoring.metrics import exposition
from arcbackupd.monitoring.monitor import write_textfile
from arcbackupd.monitoring.snapshot import Snapshot, thresholds
from arcbackupd.operations.drill.records import DrillRecord
from arcbackupd.operations.health import Facts, Problem, Room, Severity
from arcbackupd.operations.offhost.offhost import DestinationState
from arcbackupd.scheduling import JobState, LastRun
from arcbackupd.settings import Status

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = thresholds(Status(), HOUR, HOUR)


def backup(name: str = "backup-20260101-110000.sql.gz", inode: int = 1, size: int = 1000) -> Backup:
    kind = Kind.PRE_RESTORE if name.startswith("pre") else Kind.BACKUP
    identity = FileIdentity(inode, size, 0)
    return Backup(name, kind, NOW - HOUR, identity, NOW, NOW, links=1, manifest=None)


def destination(**changes: Any) -> DestinationState:
    state = DestinationState(
        name="nas",
        location="file:///nas",
        streams=("dumps",),
        dumps=7,
        since=NOW - 9 * HOUR,
        done_at=NOW - 2 * HOUR,
        failure=None,
        problems=(),
        running=None,
        problem=None,
        hint=None,
        frozen=None,
    )
    return replace(state, **changes)


RUN = LastRun(NOW - HOUR, NOW - HOUR + timedelta(seconds=90), JobStatus.FAILED, "It failed.")
DRILL = DrillRecord(
    name="backup-20260101-050000.sql.gz",
    taken_at=NOW - 7 * HOUR,
    content_sha256=None,
    drilled_at=NOW - 5 * HOUR,
    outcome="proved",
    place="database",
    duration_s=40,
    load_s=34.5,
)
SNAPSHOT = Snapshot(
    facts=Facts(now=NOW, started_at=NOW - 9 * HOUR, last_good=NOW - HOUR, room=Room(5000, 9000, 1000, 10)),
    thresholds=LIMITS,
    state=Severity.OK,
    problems=[],
    last_good=backup(),
    backups=[
        backup(),
        backup("backup-20260101-100000.sql.gz"),
        backup("pre-restore-20260101-090000.sql.gz", 2, 500),
    ],
    jobs=[
        JobState("dump", "hourly", last_run=RUN, last_success=NOW - 3 * HOUR),
        JobState("prune", None, paused=True),
    ],
    destinations=[destination()],
    alarms=[AlarmState("night", "ping", None)],
    drilled=DRILL.model_copy(update={"drilled_at": NOW - HOUR, "outcome": "failed"}),
    proved=DRILL,
)


def values(snapshot: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels; the parser refuses what Prometheus would."""
    found = {}
    for family in text_string_to_metric_families(exposition(snapshot)):
        assert family.documentation
        assert family.type == "gauge"
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, "the same sample twice"
            found[key] = sample.value
    return found


def value(snapshot: Snapshot, name: str, **labels: str) -> float | None:
    return values(snapshot).get((f"arcbackupd_{name}", tuple(sorted(labels.items()))))


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("build_info", {"version": __version__}, 1),
        ("metrics_timestamp_seconds", {}, NOW.timestamp()),
        ("state", {"state": "ok"}, 1),
        ("state", {"state": "critical"}, 0),
        ("problems", {"severity": "critical"}, 0),
        ("last_good_backup_timestamp_seconds", {}, (NOW - HOUR).timestamp()),
        ("last_good_backup_size_bytes", {}, 1000),
        ("backups", {"kind": "backup", "state": "unscanned"}, 2),
        ("backups_size_bytes", {}, 1500),
        ("filesystem_free_bytes", {}, 5000),
        ("retention_frozen", {}, 0),
        ("retention_held", {}, 0),
        ("last_drill_timestamp_seconds", {}, (NOW - HOUR).timestamp()),
        ("last_drill_failed", {}, 1),
        ("last_proved_drill_timestamp_seconds", {}, (NOW - 5 * HOUR).timestamp()),
        ("last_proved_backup_timestamp_seconds", {}, (NOW - 7 * HOUR).timestamp()),
        ("restore_load_seconds", {}, 34.5),
        ("job_last_run_timestamp_seconds", {"job": "dump"}, RUN.ended_at.timestamp()),
        ("job_last_run_duration_seconds", {"job": "dump"}, 90),
        ("job_last_run_failed", {"job": "dump"}, 1),
        ("job_last_success_timestamp_seconds", {"job": "dump"}, (NOW - 3 * HOUR).timestamp()),
        ("job_last_run_timestamp_seconds", {"job": "prune"}, None),
        ("job_paused", {"job": "prune"}, 1),
        ("upload_last_success_timestamp_seconds", {"destination": "nas"}, (NOW - 2 * HOUR).timestamp()),
        ("upload_last_failed", {"destination": "nas"}, 0),
        ("destination_backups", {"destination": "nas"}, 7),
        ("destination_retention_frozen", {"destination": "nas"}, 0),
        ("alarm_undelivered", {"alarm": "night"}, 0),
    ],
)
def test_the_file_has(name: str, labels: dict[str, str], expected: float | None) -> None:
    assert value(SNAPSHOT, name, **labels) == expected


def test_what_is_not_known_has_no_sample() -> None:
    facts = replace(SNAPSHOT.facts, last_good=None, looked=False, room=None)
    unknown = replace(SNAPSHOT, facts=facts, last_good=None, backups=[])
    names = {name for name, _ in values(unknown)}
    for gone in (
        "last_good_backup_timestamp_seconds",
        "backups_size_bytes",
        "filesystem_free_bytes",
        "retention_frozen",
    ):
        assert f"arcbackupd_{gone}" not in names


def test_problems_are_counted_by_severity_and_by_what_they_are() -> None:
    problems = [
        Problem("upload-failed", "A.", "B.", Severity.WARNING, "nas"),
        Problem("upload-failed", "A.", "B.", Severity.WARNING, "nas"),
        Problem("disk-space", "A.", "B.", Severity.CRITICAL),
    ]
    bad = replace(SNAPSHOT, problems=problems, state=Severity.CRITICAL)
    assert value(bad, "problems", severity="warning") == 2
    assert value(bad, "problem", code="upload-failed", subject="nas", severity="warning") == 2
    assert value(bad, "state", state="critical") == 1


@pytest.mark.parametrize("name", ['a"b', "back\\slash", "new\nline", "héß", "}{,=", "\ud800"])
def test_a_name_of_any_characters_stays_one_label(name: str) -> None:
    found = values(replace(SNAPSHOT, destinations=[destination(name=name)]))
    expected = name.encode("utf-8", "replace").decode()
    assert ("arcbackupd_upload_last_failed", (("destination", expected),)) in found


def test_the_file_appears_whole_for_everybody_to_read_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "arcbackupd.prom"
    assert write_textfile(path, "one 1\n") is None
    assert write_textfile(path, "two 2\n") is None
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two 2\n", 0o644)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_a_problem_that_says_where_and_leaves_the_old_one(tmp_path: Path) -> None:
    problem = write_textfile(tmp_path / "nowhere" / "arcbackupd.prom", "x 1\n")
    assert problem is not None
    assert (problem.code, problem.severity) == ("metrics-not-written", Severity.WARNING)
    assert str(tmp_path / "nowhere") in problem.message
