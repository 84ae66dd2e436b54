"""What drills have to do with being safe, by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arcbackupd.dumps.catalogue import Backup, FileIdentity
from arcbackupd.dumps.names import Kind
from arcbackupd.operations.drill.health import DrillFacts, drill_problems
from arcbackupd.operations.drill.records import DrillRecord, DrillRecords, record_of
from arcbackupd.operations.health import Problem, Severity

NOW = datetime(2026, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)


def backup(day: int, inode: int = 0) -> Backup:
    taken_at = datetime(2026, 1, day, tzinfo=UTC)
    identity = FileIdentity(inode or day, 100, 1)
    return Backup(f"backup-2026010{day}-000000.sql.gz", Kind.BACKUP, taken_at, identity, taken_at, taken_at, 1)


def record(day: int, outcome: str = "proved", *, drilled: int = 9, **changes: object) -> DrillRecord:
    told = {
        "name": backup(day).name,
        "taken_at": backup(day).taken_at,
        "content_sha256": None,
        "drilled_at": datetime(2026, 1, drilled, tzinfo=UTC),
        "outcome": outcome,
        "place": "database",
        "duration_s": 34.0,
        "inode": day,
        "size": 100,
        "mtime_ns": 1,
        "problem": None if outcome == "proved" else "it is not what it should be.",
    }
    return DrillRecord.model_validate(told | changes)


def problems(*records: DrillRecord, period: timedelta | None = DAY, newest: int = 8) -> list[Problem]:
    here = [backup(day) for day in range(newest, 0, -1)]
    facts = DrillFacts(
        NOW, since=NOW - 2 * DAY, period=period, records=records, backups=here, newest=backup(newest)
    )
    return drill_problems(facts)


def test_a_backup_that_failed_is_critical_when_it_is_the_newest_and_else_a_warning() -> None:
    [critical] = problems(record(8, "failed"))
    assert (critical.code, critical.severity) == ("drill-failed", Severity.CRITICAL)
    assert backup(8).name in critical.message
    [warning] = problems(record(3, "failed"))
    assert (warning.code, warning.severity) == ("drill-failed", Severity.WARNING)


def test_a_failure_stands_until_a_later_drill_proves_that_backup_or_a_newer_one() -> None:
    assert problems(record(8), record(7, "failed")) == []
    assert problems(record(7), record(7, "failed")) == []
    assert [p.code for p in problems(record(6), record(7, "failed"))] == ["drill-failed"]
    assert [p.code for p in problems(record(7, "failed"), record(8))] == ["drill-failed"]
    assert [p.code for p in problems(record(8, "error"), record(7, "failed"))] == ["drill-failed"]


def test_a_failure_of_a_backup_that_is_gone_is_forgotten() -> None:
    assert problems(record(9, "failed"), record(8)) == []


def test_a_drill_that_could_not_be_carried_out_is_a_warning_until_the_next_one() -> None:
    [problem] = problems(record(8, "error"), record(7))
    assert (problem.code, problem.severity) == ("drill-failed", Severity.WARNING)
    assert problems(record(8), record(8, "error")) == []


@pytest.mark.parametrize(("drilled", "codes"), [(8, []), (7, ["drill-overdue"]), (1, ["drill-overdue"])])
def test_three_periods_without_a_proof_are_a_warning_while_drills_are_expected(
    drilled: int, codes: list[str]
) -> None:
    assert [p.code for p in problems(record(1, drilled=drilled))] == codes
    assert problems(record(1, drilled=drilled), period=None) == []


def test_a_host_that_never_drilled_is_given_three_periods() -> None:
    assert problems() == []
    assert [p.code for p in problems(period=DAY / 2)] == ["drill-overdue"]


def test_a_record_is_of_the_file_and_not_of_the_name_and_an_untried_one_says_nothing() -> None:
    records = [record(8, "error"), record(7)]
    assert record_of(backup(8), records) is None
    assert record_of(backup(3, inode=7), records) == records[1]
    assert record_of(backup(7, inode=3), records) is None
    assert record_of(backup(7), [record(7, mtime_ns=2)]) is None


def test_records_outlive_the_daemon_and_a_broken_file_is_as_none(tmp_path: Path) -> None:
    records = DrillRecords(tmp_path / "drills.json")
    since = records.since()
    assert (records.last(), DrillRecords(tmp_path / "drills.json").since()) == (None, since)
    records.note(record(7))
    records.note(record(8, "failed"))
    again = DrillRecords(tmp_path / "drills.json")
    assert (again.last(), again.last_proved(), again.since()) == (record(8, "failed"), record(7), since)
    (tmp_path / "drills.json").write_text("{")
    assert again.all() == ()
