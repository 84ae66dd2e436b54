"""When jobs run: schedules as values."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from arcbackupd.schedule import Schedule, overdue

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)

TEXTS = [
    "hourly",
    "daily",
    "every 10s",
    "every 30m",
    "every 6h",
    "every 7h",
    "every 2d",
    "*/20 * * * *",
    "30 2 * * *",
    "0 0 13 * FRI",
    "0 8-18 * * 1-5",
    "0 0 29 2 *",
]


def runs(schedule: Schedule, start: datetime, end: datetime) -> Iterator[datetime]:
    """All runs after start, up to and with end."""
    moment = schedule.next_after(start)
    while moment <= end:
        yield moment
        moment = schedule.next_after(moment)


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/Santiago"])
def _local_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_local_zone")
@pytest.mark.parametrize("text", ["hourly", "every 1h", "17 * * * *", "@host"])
def test_over_a_year_every_hour_comes_exactly_once_in_any_time_zone(text: str) -> None:
    schedule = Schedule.parse("hourly").on_host("a host") if text == "@host" else Schedule.parse(text)
    found = Counter(f"{moment:%Y-%m-%d %H}" for moment in runs(schedule, NEW_YEAR, NEW_YEAR + 365 * DAY))
    assert set(found.values()) == {1}
    assert len(found) in {8760, 8761}


@pytest.mark.usefixtures("_local_zone")
@pytest.mark.parametrize("text", ["daily", "30 2 * * *", "every 24h", "every 1d"])
def test_over_a_year_every_day_comes_exactly_once_also_at_half_past_two(text: str) -> None:
    schedule = Schedule.parse(text).on_host("a host")
    found = Counter(moment.date() for moment in runs(schedule, NEW_YEAR, NEW_YEAR + 365 * DAY - HOUR / 3600))
    assert set(found.values()) == {1}
    assert len(found) in {364, 365}


@given(
    st.sampled_from(TEXTS),
    st.text(max_size=8),
    st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_the_next_run_lies_ahead_and_none_is_left_out(text: str, host: str, moment: datetime) -> None:
    schedule = Schedule.parse(text).on_host(host)
    following = schedule.next_after(moment)
    assert following > moment
    assert following.tzinfo is UTC
    assert following.microsecond == 0
    halfway = moment + (following - moment) / 2
    if halfway < following:
        assert schedule.next_after(halfway) == following


def test_a_moment_of_another_zone_is_the_same_moment() -> None:
    santiago = timezone(timedelta(hours=-4))
    schedule = Schedule.parse("0 3 * * *")
    assert schedule.next_after(datetime(2026, 1, 1, 23, 30, tzinfo=santiago)) == datetime(2026, 1, 3, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "after", "following"),
    [
        ("0 0 * * 0", "2026-01-01", "2026-01-04"),  # a Sunday
        ("0 0 * * 7", "2026-01-01", "2026-01-04"),
        ("0 0 * * sun", "2026-01-01", "2026-01-04"),
        ("0 0 * * 1", "2026-01-01", "2026-01-05"),
        ("0 0 13 * 5", "2026-01-09", "2026-01-13"),  # the 13th or a Friday, whichever comes
        ("0 0 13 * 5", "2026-01-13", "2026-01-16"),
        ("0 0 1 feb *", "2026-01-01", "2026-02-01"),
        ("0 0 29 2 *", "2026-01-01", "2028-02-29"),
        ("*/15 * * * *", "2026-01-01", "2026-01-01T00:15"),
        ("every 6h", "2026-01-01T05:59:59", "2026-01-01T06:00"),
        ("every 10s", "2026-01-01T00:00:09.5", "2026-01-01T00:00:10"),
        ("hourly", "2026-01-01T00:00", "2026-01-01T01:00"),
        (" Daily ", "2026-01-01T00:00", "2026-01-02"),
    ],
)
def test_texts_mean_what_cron_and_english_say(text: str, after: str, following: str) -> None:
    start, expected = (datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in (after, following))
    assert Schedule.parse(text).next_after(start) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected"),
        ("weekly", "expected"),
        ("* * * *", "five fields"),
        ("0 0 0 * * *", "five fields"),
        ("61 * * * *", "bad minute field"),
        ("0 25 * * *", "bad hour field"),
        ("0 0 0 * *", "bad day-of-month field"),
        ("0 0 * 13 *", "bad month field"),
        ("0 0 * * 8", "bad day-of-week field"),
        ("*/0 * * * *", "bad minute field"),
        ("0 0 30 2 *", "bad day-of-month field"),
        ("0 0 31 4 *", "bad day-of-month field"),
        ("every", "a number and a unit"),
        ("every hour", "a number and a unit"),
        ("every 5", "a number and a unit"),
        ("every -5m", "a number and a unit"),
        ("every 0m", "from 1s to 366d"),
        ("every 999999999d", "from 1s to 366d"),
        ("*" * 10_000, "too long"),
        ("1,99" * 40 + " * * * *", "bad minute field"),
        ("٣ * * * *", "bad minute field"),
        ("every ٣h", "a number and a unit"),
    ],
)
def test_a_bad_text_is_refused_with_a_reason_and_without_the_text(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        Schedule.parse(text)
    if len(text) > 7:
        assert text not in str(caught.value)


@given(st.text(st.sampled_from("0123456789*/,-#LW jansunfri every hdms"), max_size=30))
def test_any_text_gives_a_schedule_that_goes_on_or_a_value_error(text: str) -> None:
    try:
        schedule = Schedule.parse(text)
    except ValueError:
        return
    assert schedule.next_after(schedule.next_after(NEW_YEAR)) > NEW_YEAR
    assert schedule.period() > timedelta(0)


@pytest.mark.parametrize(("text", "limit"), [("hourly", 300), ("daily", 3600)])
def test_jitter_is_stable_for_a_host_differs_between_hosts_and_stays_in_its_limit(text: str, limit: int) -> None:
    schedule = Schedule.parse(text)
    delays = [
        schedule.on_host(str(host)).next_after(NEW_YEAR) - schedule.next_after(NEW_YEAR) for host in range(200)
    ]
    late = {delay.total_seconds() % schedule.period().total_seconds() for delay in delays}
    assert len(late) > 100
    assert max(late) < limit
    assert schedule.on_host("x") == schedule.on_host("x").on_host("x")


@pytest.mark.parametrize("text", ["every 1h", "0 * * * *", "0 0 * * *"])
def test_every_and_cron_lines_are_exact(text: str) -> None:
    assert Schedule.parse(text).on_host("a host") == Schedule.parse(text)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("hourly", HOUR),
        ("daily", DAY),
        ("every 90s", timedelta(seconds=90)),
        ("0 * * * *", HOUR),
        ("0 8-18 * * *", HOUR),
        ("0 3 * * 1-5", DAY),
        ("0 3 * * 0", 7 * DAY),
        ("0 0 1 * *", 31 * DAY),
    ],
)
def test_the_period_is_the_typical_distance(text: str, period: timedelta) -> None:
    assert Schedule.parse(text).period() == period


def test_a_schedule_is_a_pydantic_field_and_comes_back_as_its_text() -> None:
    class Model(BaseModel):
        schedule: Schedule

    model = Model.model_validate({"schedule": "every 30m"})
    assert model.schedule == Schedule.parse("every 30m")
    assert json.loads(model.model_dump_json()) == {"schedule": "every 30m"}
    assert Model(schedule=model.schedule) == model
    for wrong in ("61 * * * *", 5, None, ["hourly"]):
        with pytest.raises(ValidationError):
            Model.model_validate({"schedule": wrong})


def test_the_text_comes_back_as_it_was_written() -> None:
    assert [str(Schedule.parse(text)) for text in TEXTS] == TEXTS


NOW = datetime(2026, 5, 1, 22, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "age", "missed"),
    [
        ("hourly", timedelta(minutes=59), False),
        ("hourly", timedelta(minutes=61), True),
        ("every 30m", timedelta(minutes=31), True),
        ("daily", timedelta(hours=23), False),
        ("daily", timedelta(hours=25), True),
        ("hourly", timedelta(seconds=-2), False),  # its name moved on to the next free second
        ("hourly", timedelta(days=-3), True),  # the clock was wrong when it was taken
        ("0 8-18 * * *", timedelta(hours=4), False),  # it rests since 18:00
        ("0 8-18 * * *", timedelta(hours=5), True),
    ],
)
def test_a_job_is_overdue_when_its_newest_result_is_older_than_a_period(
    text: str, age: timedelta, missed: bool
) -> None:
    assert overdue(Schedule.parse(text), NOW - age, NOW) is missed


def test_a_job_without_any_result_is_overdue() -> None:
    assert overdue(Schedule.parse("daily"), None, NOW)


def test_a_restart_right_after_a_run_never_runs_it_again() -> None:
    for text in TEXTS:
        schedule = Schedule.parse(text).on_host("a host")
        start = schedule.next_after(NOW)
        for run, following in pairwise([start, schedule.next_after(start)]):
            assert not overdue(schedule, run, run + timedelta(seconds=1))
            assert not overdue(schedule, run, following - timedelta(seconds=1))
