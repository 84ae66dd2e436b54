"""When each backup will go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.dumps.outlook import outlook
from arcbackupd.dumps.retention import Candidate, Policy, plan_retention

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def dump(age: timedelta, *, good: bool | None = True, arrived: timedelta | None = None) -> Candidate:
    taken = NOW - age
    name = f"backup-{taken:%Y%m%d-%H%M%S}.sql.gz"
    return Candidate(name, taken, NOW - arrived if arrived is not None else taken, good, content=name)


def test_a_dump_goes_at_the_first_pruning_after_keep_days() -> None:
    young, old = dump(HOUR), dump(10 * DAY)
    goes = outlook([young, old], Policy(keep_days=14, keep_last=1), NOW, every=HOUR)
    assert goes == {old.name: NOW + 5 * DAY, young.name: NOW + 14 * DAY}


def test_while_the_newest_is_flagged_healthy_ones_stay_and_flagged_ones_go() -> None:
    whole, lossy = dump(10 * DAY), replace(dump(HOUR), flagged=True)
    goes = outlook([whole, lossy], Policy(keep_days=14, keep_last=1), NOW, every=HOUR)
    assert goes == {lossy.name: NOW + 14 * DAY}


def test_one_that_arrived_now_stays_as_long_as_one_taken_now() -> None:
    foreign = dump(300 * DAY, arrived=timedelta())
    assert outlook([foreign], Policy(), NOW, every=HOUR) == {foreign.name: NOW + 15 * DAY}


def test_what_a_rule_of_months_keeps_is_not_in_it() -> None:
    backups = [dump(number * DAY) for number in range(1, 40)]
    goes = outlook(backups, Policy(keep_days=7, keep_monthly=12), NOW, every=HOUR, days=30)
    kept = [backup for backup in backups if backup.name not in goes]
    assert [backup.taken_at.month for backup in kept] == [2, 1]


def test_frozen_retention_thaws_with_the_dumps_to_come() -> None:
    old = dump(40 * DAY)
    assert outlook([old], Policy(keep_last=1), NOW, every=DAY) == {old.name: NOW + DAY}


def test_fewer_dumps_than_one_a_day_are_one_a_day() -> None:
    assert outlook([dump(20 * DAY)], Policy(keep_last=1), NOW, every=9 * DAY)


@given(
    ages=st.lists(st.integers(0, 24 * 40), unique=True, max_size=30),
    good=st.lists(st.sampled_from([True, True, True, False, None]), min_size=30, max_size=30),
    keep_days=st.integers(1, 20),
)
def test_what_goes_now_is_what_pruning_now_removes(
    ages: list[int], good: list[bool | None], keep_days: int
) -> None:
    backups = [dump(age * HOUR, good=state) for age, state in zip(ages, good, strict=False)]
    policy = Policy(keep_days=keep_days)
    goes = outlook(backups, policy, NOW, every=6 * HOUR, days=3)
    assert {name for name, moment in goes.items() if moment == NOW} == set(
        plan_retention(backups, policy, NOW).pruned
    )
    assert set(goes) <= {backup.name for backup in backups}
    assert all(NOW <= moment <= NOW + 3 * DAY for moment in goes.values())
