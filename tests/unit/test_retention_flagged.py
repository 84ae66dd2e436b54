"""Retention beside flagged backups: what may lack something takes the place of nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arcbackupd.dumps.retention import Candidate, Policy, plan_retention
from tests.unit.test_retention import NOW, candidates, own, policies, why


def flagged(days_old: float) -> Candidate:
    """A good backup that lost much, so many days before NOW."""
    return replace(own(days_old), flagged=True)


def fortnight(until: float = 0) -> list[Candidate]:
    """A healthy backup every day of the two weeks that end so many days before NOW."""
    return [own(until + day) for day in range(15)]


def test_healthy_backups_stay_for_as_long_as_only_flagged_ones_come() -> None:
    healthy = fortnight(until=13)
    backups = [*healthy, *(flagged(day) for day in range(13))]
    plan = plan_retention(backups, Policy(), NOW)
    assert plan.pruned == ()
    assert why(plan, healthy[-1]) == (True, "younger than 14 days before the newest that isn't flagged")
    assert plan.held is not None
    assert healthy[0].name in plan.held
    assert f"arcbackupctl accept {backups[15].name}" in plan.held


def test_they_stay_also_beyond_the_window() -> None:
    healthy = [*fortnight(until=100), own(120)]
    backups = [*healthy, *(flagged(day) for day in range(100))]
    plan = plan_retention(backups, Policy(), NOW)
    assert plan.frozen is None
    assert {backup.name for backup in healthy}.isdisjoint(plan.pruned)
    assert why(plan, healthy[-1]) == (True, "retention is frozen")


def test_flagged_ones_do_not_fill_the_disk_meanwhile() -> None:
    old = [flagged(day) for day in range(15, 100)]
    backups = [*fortnight(until=100), *(flagged(day) for day in range(15)), *old]
    assert set(plan_retention(backups, Policy(), NOW).pruned) == {backup.name for backup in old}


def test_accepted_they_are_what_older_ones_age_by() -> None:
    backups = [*fortnight(until=13), *(own(day) for day in range(13))]
    plan = plan_retention(backups, Policy(), NOW)
    assert plan.held is None
    assert set(plan.pruned) == {own(day).name for day in range(15, 28)}


def test_a_flagged_one_among_healthy_ones_goes_by_age() -> None:
    backups = [own(0), own(1), own(2), flagged(5), own(15), flagged(16)]
    plan = plan_retention(backups, Policy(), NOW)
    assert plan.pruned == (backups[4].name, backups[5].name)
    assert plan.held is None


@pytest.mark.parametrize("field", ["keep_last", "keep_hourly", "keep_daily", "keep_weekly"])
def test_a_flagged_one_takes_no_place_among_those_that_are_kept(field: str) -> None:
    counts = {"keep_last": 0} | {field: 3}
    healthy = [own(0), own(7), own(14), own(21)]
    backups = [*healthy, flagged(0.01), flagged(3), flagged(8)]
    plan = plan_retention(backups, replace(Policy(keep_days=1), **counts), NOW)
    assert set(plan.pruned) == {healthy[3].name, flagged(3).name, flagged(8).name}


def test_while_nothing_at_all_succeeds_flagged_ones_stay_too() -> None:
    backups = [own(40), own(60), flagged(20), flagged(39)]
    plan = plan_retention(backups, Policy(), NOW)
    assert plan.frozen is not None
    assert plan.pruned == ()


@given(candidates(), candidates(), policies())
def test_flagged_backups_push_no_healthy_one_out(
    backups: list[Candidate], others: list[Candidate], policy: Policy
) -> None:
    lossy = [replace(c, name=f"flagged-{c.name}", flagged=True, good=True) for c in others]
    healthy = [replace(c, good=True) for c in backups]
    assume(any(c.taken_at <= NOW for c in healthy))
    without = plan_retention(healthy, policy, NOW)
    beside = plan_retention([*healthy, *lossy], policy, NOW)
    assert {name for name in beside.pruned if not name.startswith("flagged-")} <= set(without.pruned)


@given(candidates(), policies(), st.sets(st.integers(0, 15)))
def test_planning_again_after_the_pruning_prunes_nothing_more_whichever_are_flagged(
    backups: list[Candidate], policy: Policy, which: set[int]
) -> None:
    marked = [replace(c, flagged=number in which) for number, c in enumerate(backups)]
    plan = plan_retention(marked, policy, NOW)
    left = [c for c in marked if c.name not in plan.pruned]
    assert plan_retention(left, policy, NOW).pruned == ()


@given(candidates(), policies(), st.sets(st.integers(0, 15)), st.integers(0, 400))
def test_time_alone_removes_nothing_whichever_are_flagged(
    backups: list[Candidate], policy: Policy, which: set[int], days: int
) -> None:
    past = [replace(c, flagged=number in which) for number, c in enumerate(backups) if c.taken_at <= NOW]
    today = plan_retention(past, policy, NOW)
    assume(today.frozen is None)
    later = plan_retention(past, policy, NOW + timedelta(days=days))
    assert set(later.pruned) <= set(today.pruned)


@given(candidates(), policies(), st.sets(st.integers(0, 15)))
def test_the_newest_healthy_contents_survive_whichever_are_flagged(
    backups: list[Candidate], policy: Policy, which: set[int]
) -> None:
    marked = [replace(c, flagged=number in which) for number, c in enumerate(backups)]
    plan = plan_retention(marked, policy, NOW)
    contents: dict[str, str] = {}
    for c in sorted(marked, key=lambda c: c.taken_at, reverse=True):
        if c.healthy and c.taken_at <= NOW:
            contents.setdefault(c.content or c.name, c.name)
    assert {*[*contents.values()][: policy.keep_last]}.isdisjoint(plan.pruned)


def test_what_others_take_while_ours_are_flagged_does_not_push_ours_out() -> None:
    healthy = [own(25 - day) for day in range(4)]
    ours = [flagged(day) for day in range(21)]
    others = [replace(own(day + 0.5), ours=False) for day in range(20)]
    plan = plan_retention([*healthy, *ours, *others], Policy(), NOW)
    assert {backup.name for backup in healthy}.isdisjoint(plan.pruned)
    assert plan.held is not None
    assert f"arcbackupctl accept {ours[0].name}" in plan.held


def test_once_ours_are_healthy_again_what_others_take_counts_as_before() -> None:
    old = [own(40 + day) for day in range(4)]
    others = [replace(own(day + 0.5), ours=False) for day in range(20)]
    plan = plan_retention([*old, own(0.1), *others], Policy(keep_last=1), NOW)
    assert {backup.name for backup in old} <= set(plan.pruned)
