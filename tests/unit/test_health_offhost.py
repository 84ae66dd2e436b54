"""Health beyond the dumps themselves: uploads that grow old, retention that stands still elsewhere, room."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from arcbackupd.alarms.alarms import AlarmState, trouble
from arcbackupd.monitoring.snapshot import thresholds
from arcbackupd.operations.health import Facts, Problem, Room, Thresholds, UploadFacts, assess
from arcbackupd.settings import Status

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = 24 * HOUR
LIMITS = Thresholds(2 * HOUR, 6 * HOUR, DAY, 3 * DAY)
FINE = Facts(now=NOW, started_at=NOW - 100 * HOUR, last_good=NOW - HOUR)
MB = 1 << 20


def problems(**facts: Any) -> list[Problem]:
    return assess(replace(FINE, **facts), LIMITS)[1]


def upload(done: timedelta | None = None, since: timedelta | None = None, frozen: str | None = None) -> UploadFacts:
    def ago(age: timedelta | None) -> datetime | None:
        return None if age is None else NOW - age

    return UploadFacts("nas", ago(since), ago(done), frozen)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (upload(done=HOUR), None),
        (upload(done=DAY), "warning"),
        (upload(done=3 * DAY), "critical"),
        (upload(done=HOUR, since=100 * DAY), None),
        (upload(since=2 * HOUR), None),
        (upload(since=2 * DAY), "warning"),
        (upload(), "critical"),  # never tried since the daemon's start, 100 hours ago
    ],
)
def test_the_age_of_the_last_complete_upload_decides_or_that_of_the_first_try(
    facts: UploadFacts, expected: str | None
) -> None:
    found = problems(uploads=(facts,))
    assert [(problem.code, problem.subject, problem.severity) for problem in found] == (
        [("upload-old", "nas", expected)] if expected else []
    )


def test_an_old_upload_says_how_old_and_where() -> None:
    (problem,) = problems(uploads=(upload(done=30 * HOUR),))
    assert problem.message == "The last complete upload to nas was 30.0 hours ago."
    (never,) = problems(uploads=(upload(since=4 * DAY),))
    assert never.message == "No upload to nas has been complete in the 4 days since the first try."


def test_retention_that_stands_still_at_a_destination_is_told_but_for_a_clock_in_doubt() -> None:
    facts = (upload(done=HOUR, frozen="The newest is old."),)
    assert [problem.code for problem in problems(uploads=facts)] == ["upload-retention-frozen"]
    assert [problem.code for problem in problems(uploads=facts, clock_doubt="It jumped.")] == ["clock-jumped"]


@pytest.mark.parametrize(
    ("free", "dump", "expected"),
    [
        (64 * MB + 300, 100, None),
        (64 * MB + 299, 100, "warning"),
        (64 * MB + 100, 100, "warning"),
        (64 * MB + 99, 100, "critical"),
        (0, 100, "critical"),
        (64 * MB, 0, "critical"),  # as a dump would be refused that has no predecessor
        (65 * MB, 0, None),
    ],
)
def test_room_is_what_further_dumps_of_the_newest_ones_size_need(
    free: int, dump: int, expected: str | None
) -> None:
    found = problems(room=Room(free, 10**12, dump, 64 * MB))
    assert [problem.severity for problem in found] == ([expected] if expected else [])


def test_little_room_is_told_with_figures() -> None:
    (problem,) = problems(room=Room(1000, 2_000_000, 5000, 100))
    assert problem.message == (
        "The next backup doesn't fit on the disk: 1,000 of 2,000,000 bytes are free, a dump needs about 5,100."
    )


@pytest.mark.parametrize(
    ("status", "periods", "expected"),
    [
        ({}, (HOUR, HOUR), (2 * HOUR, 6 * HOUR, DAY, 3 * DAY)),
        ({}, (DAY, 7 * DAY), (2 * DAY, 6 * DAY, 14 * DAY, 42 * DAY)),
        ({"upload_warn_after": 9 * DAY}, (HOUR, HOUR), (2 * HOUR, 6 * HOUR, 9 * DAY, 9 * DAY)),
        ({"upload_critical_after": HOUR}, (HOUR, HOUR), (2 * HOUR, 6 * HOUR, HOUR, HOUR)),
        ({"critical_after": HOUR}, (HOUR, HOUR), (HOUR, HOUR, DAY, 3 * DAY)),
        ({}, (None, None), (2 * HOUR, 6 * HOUR, DAY, 3 * DAY)),
    ],
)
def test_limits_follow_from_the_schedules_and_from_what_is_set(
    status: dict[str, Any], periods: tuple[timedelta | None, timedelta | None], expected: tuple[timedelta, ...]
) -> None:
    found = thresholds(Status(**status), *periods)
    assert (
        found.warn_after,
        found.critical_after,
        found.upload_warn_after,
        found.upload_critical_after,
    ) == expected


def test_alarms_that_cannot_be_used_or_delivered_are_problems_of_their_own() -> None:
    states = [
        AlarmState("fine", "ping", NOW),
        AlarmState("night", "ping", None, "hc-ping.com can't be reached: no route.", "Look."),
        AlarmState("lamp", "lamp", None, "its plugin doesn't load", "Reinstall it.", unusable=True),
    ]
    assert [(problem.code, problem.subject, problem.severity, problem.hint) for problem in trouble(states)] == [
        ("alarm-undelivered", "night", "warning", "Look."),
        ("alarm-unusable", "lamp", "warning", "Reinstall it."),
    ]
