"""Retention: each guarantee is a property."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from arcbackupd.dumps.retention import Candidate, Plan, Policy, plan_retention

NOW = datetime(2026, 3, 29, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def own(
    days_old: float, *, good: bool | None = True, content: str | None = None, in_use: bool = False
) -> Candidate:
    """A backup that this host wrote, so many days before NOW."""
    taken_at = NOW - days_old * DAY
    return Candidate(f"backup-{taken_at:%Y%m%d-%H%M%S}", taken_at, taken_at, good, content, in_use)


def why(plan: Plan, candidate: Candidate) -> tuple[bool, str]:
    return next((v.keep, v.why) for v in plan.verdicts if v.name == candidate.name)


def candidates() -> st.SearchStrategy[list[Candidate]]:
    """Backups of the last fifty days and a few of the future, many in the same days and with the same contents."""
    hours = st.integers(-48, 50 * 24)
    drawn = st.tuples(
        hours,
        st.one_of(st.none(), hours),
        st.sampled_from([True, True, True, False, None]),
        st.sampled_from(["a", "b", "c", "d", None]),
        st.sampled_from([False, False, False, True]),
    )
    return st.lists(drawn, max_size=16, unique_by=lambda fields: fields[0]).map(
        lambda backups: [_candidate(*fields) for fields in backups]
    )


def _candidate(hour: int, arrived: int | None, good: bool | None, content: str | None, in_use: bool) -> Candidate:
    taken_at = NOW - timedelta(hours=hour)
    counts_from = taken_at if arrived is None else NOW - timedelta(hours=arrived)
    return Candidate(f"backup-{taken_at:%Y%m%d-%H%M%S}", taken_at, counts_from, good, content, in_use)


def policies() -> st.SearchStrategy[Policy]:
    few = st.integers(0, 5)
    return st.builds(
        Policy,
        keep_days=st.integers(1, 30),
        keep_last=few,
        keep_hourly=few,
        keep_daily=few,
        keep_weekly=few,
        keep_monthly=few,
        keep_yearly=few,
    )


def newest_good(backups: list[Candidate]) -> Candidate | None:
    return max((c for c in backups if c.good and c.taken_at <= NOW), key=lambda c: c.taken_at, default=None)


def survivors(backups: list[Candidate], plan: Plan) -> list[Candidate]:
    return [c for c in backups if c.name not in plan.pruned]


@given(candidates(), policies())
def test_each_given_backup_gets_one_verdict_and_no_other_name_appears(
    backups: list[Candidate], policy: Policy
) -> None:
    plan = plan_retention(backups, policy, NOW)
    assert sorted(v.name for v in plan.verdicts) == sorted(c.name for c in backups)
    assert all(v.why for v in plan.verdicts)


@given(candidates(), policies())
def test_the_newest_good_ones_of_distinct_contents_survive(backups: list[Candidate], policy: Policy) -> None:
    plan = plan_retention(backups, policy, NOW)
    good = [c for c in backups if c.good and c.taken_at <= NOW]
    contents = {c.content or c.name for c in good}
    kept = {c.content or c.name for c in survivors(good, plan)}
    assert len(kept) >= min(policy.keep_last, len(contents))
    newest_of = {content: max(c.taken_at for c in good if (c.content or c.name) == content) for content in contents}
    expected = sorted(newest_of, key=lambda content: newest_of[content], reverse=True)[: policy.keep_last]
    names = {c.name for c in good for content in expected if c.taken_at == newest_of[content]}
    assert names.isdisjoint(plan.pruned)


@given(candidates(), policies())
def test_without_a_good_backup_in_the_window_nothing_is_pruned(backups: list[Candidate], policy: Policy) -> None:
    anchor = newest_good(backups)
    in_window = anchor is not None and NOW - anchor.taken_at <= policy.keep_days * DAY
    plan = plan_retention(backups, policy, NOW)
    assert (plan.frozen is None) == (in_window or not backups)
    if plan.frozen is not None:
        assert not plan.pruned


@given(candidates(), policies())
def test_while_the_clock_is_in_doubt_nothing_is_pruned(backups: list[Candidate], policy: Policy) -> None:
    plan = plan_retention(backups, policy, NOW, clock_doubt="The clock jumped.")
    assert plan.frozen == "The clock jumped."
    assert not plan.pruned


@given(candidates(), policies())
def test_planning_again_after_the_pruning_prunes_nothing_more(backups: list[Candidate], policy: Policy) -> None:
    left = survivors(backups, plan_retention(backups, policy, NOW))
    assert not plan_retention(left, policy, NOW).pruned


FIELDS = list(Policy.__dataclass_fields__)


@given(candidates(), policies(), st.sampled_from(FIELDS), st.integers(1, 20))
def test_a_larger_policy_keeps_a_superset(backups: list[Candidate], policy: Policy, field: str, more: int) -> None:
    larger = replace(policy, **{field: getattr(policy, field) + more})
    smaller_plan = plan_retention(backups, policy, NOW)
    # A frozen plan keeps everything; with a larger window it may thaw.
    assume(smaller_plan.frozen is None)
    assert set(plan_retention(backups, larger, NOW).pruned) <= set(smaller_plan.pruned)


@given(candidates(), candidates(), policies())
def test_broken_backups_never_change_which_good_ones_stay(
    backups: list[Candidate], others: list[Candidate], policy: Policy
) -> None:
    broken = [replace(c, name=f"broken-{c.name}", good=False) for c in others]
    good = [c for c in backups if c.good]
    assume(good)
    with_broken = plan_retention([*good, *broken], policy, NOW)
    without = plan_retention(good, policy, NOW)
    assert [v for v in with_broken.verdicts if not v.name.startswith("broken-")] == list(without.verdicts)
    assert with_broken.frozen == without.frozen


@given(candidates(), policies(), st.integers(0, 400))
def test_while_dumps_fail_time_alone_removes_nothing(backups: list[Candidate], policy: Policy, days: int) -> None:
    past = [c for c in backups if c.taken_at <= NOW]
    today = plan_retention(past, policy, NOW)
    later = plan_retention(survivors(past, today), policy, NOW + days * DAY)
    assert today.frozen is not None or not later.pruned


@given(candidates(), policies(), st.integers(0, 400))
def test_time_alone_removes_nothing_even_before_the_first_pruning(
    backups: list[Candidate], policy: Policy, days: int
) -> None:
    past = [c for c in backups if c.taken_at <= NOW]
    today = plan_retention(past, policy, NOW)
    assume(today.frozen is None)
    later = plan_retention(past, policy, NOW + days * DAY)
    assert set(later.pruned) <= set(today.pruned)


@given(candidates(), policies())
def test_what_is_in_use_or_not_scanned_or_in_the_future_is_left_alone(
    backups: list[Candidate], policy: Policy
) -> None:
    plan = plan_retention(backups, policy, NOW)
    untouchable = {c.name for c in backups if c.in_use or c.good is None or c.taken_at > NOW}
    assert untouchable.isdisjoint(plan.pruned)


@given(candidates(), policies())
def test_a_name_in_the_future_changes_nothing_for_the_others(backups: list[Candidate], policy: Policy) -> None:
    past = [c for c in backups if c.taken_at <= NOW]
    assume(past)
    with_future = plan_retention(backups, policy, NOW)
    assert with_future.pruned == plan_retention(past, policy, NOW).pruned


@given(candidates(), policies())
def test_what_is_pruned_is_older_than_keep_days_before_the_newest_good_one(
    backups: list[Candidate], policy: Policy
) -> None:
    plan = plan_retention(backups, policy, NOW)
    anchor = newest_good(backups)
    for candidate in (c for c in backups if c.name in plan.pruned):
        assert anchor is not None
        assert anchor.taken_at - candidate.counts_from > policy.keep_days * DAY


@given(candidates(), policies())
def test_what_is_older_and_kept_by_no_rule_does_go(backups: list[Candidate], policy: Policy) -> None:
    bare = Policy(keep_days=policy.keep_days, keep_last=0)
    plan = plan_retention(backups, bare, NOW)
    anchor = newest_good(backups)
    assume(plan.frozen is None and anchor is not None)
    assert anchor is not None
    for c in backups:
        held = c.in_use or c.good is None or c.taken_at > NOW or c is anchor
        old = anchor.taken_at - c.counts_from > policy.keep_days * DAY
        assert (c.name in plan.pruned) == (old and not held)


@given(candidates(), st.integers(1, 5))
@example([own(0), own(0.01), own(1), own(400)], 5)
def test_the_periodic_rules_keep_the_newest_of_each_period_as_restic_does(
    backups: list[Candidate], count: int
) -> None:
    past = sorted((c for c in backups if c.good and c.taken_at <= NOW), key=lambda c: c.taken_at, reverse=True)
    keys = {
        "keep_hourly": "%Y-%m-%d %H",
        "keep_daily": "%Y-%m-%d",
        "keep_weekly": "%G-%V",
        "keep_monthly": "%Y-%m",
        "keep_yearly": "%Y",
    }
    for field, key in keys.items():
        plan = plan_retention(backups, replace(Policy(keep_days=1, keep_last=0), **{field: count}), NOW)
        newest: dict[str, str] = {}
        for c in past:
            newest.setdefault(f"{c.taken_at:{key}}", c.name)
        assert set(list(newest.values())[:count]).isdisjoint(plan.pruned)


def test_hourly_dumps_of_a_year_leave_two_weeks_and_a_good_reason_for_each() -> None:
    hourly = [own(hour / 24, content=str(hour)) for hour in range(365 * 24)]
    plan = plan_retention(hourly, Policy(), NOW)
    assert len(plan.verdicts) - len(plan.pruned) == 14 * 24 + 1
    assert why(plan, hourly[0]) == (True, "newest 3 good backups")
    assert why(plan, hourly[10]) == (True, "younger than 14 days")
    assert why(plan, hourly[20 * 24]) == (False, "older than 14 days: age 20 days")


def test_keep_last_counts_contents_and_not_names() -> None:
    same = [own(day, content="same") for day in (0, 1, 2, 20, 21)]
    other = own(40, content="other")
    plan = plan_retention([*same, other], Policy(keep_last=2), NOW)
    assert why(plan, other) == (True, "newest 2 good backups")
    assert set(plan.pruned) == {same[3].name, same[4].name}


def test_one_dropped_in_for_a_recovery_counts_its_age_from_its_arrival() -> None:
    foreign = replace(own(300), counts_from=NOW - DAY)
    forgotten = replace(own(301), counts_from=NOW - 30 * DAY)
    backups = [own(0), own(1), own(2), foreign, forgotten]
    plan = plan_retention(backups, Policy(), NOW)
    assert why(plan, foreign) == (True, "younger than 14 days")
    assert why(plan, forgotten) == (False, "older than 14 days: age 30 days since it arrived")


def test_a_broken_backup_goes_by_age_like_any_other() -> None:
    backups = [own(0), own(1), own(2), own(5, good=False), own(15, good=False)]
    assert plan_retention(backups, Policy(), NOW).pruned == (backups[4].name,)


def test_the_age_limit_itself_is_still_young() -> None:
    exactly = own(14)
    backups = [own(0), own(1), own(2), exactly]
    assert why(plan_retention(backups, Policy(), NOW), exactly) == (True, "younger than 14 days")


def test_the_newest_good_one_stays_even_if_it_arrived_before_the_time_in_its_name() -> None:
    odd = replace(own(0), counts_from=NOW - 100 * DAY)
    assert why(plan_retention([odd], Policy(keep_last=0), NOW), odd) == (True, "newest good backup")


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (own(50, in_use=True), "being restored or uploaded"),
        (own(-1), "its name lies in the future"),
        (own(50, good=None), "not scanned yet"),
    ],
)
def test_the_reason_why_an_untouchable_one_stays_is_said(held: Candidate, reason: str) -> None:
    plan = plan_retention([own(0), own(1), own(2), held], Policy(), NOW)
    assert why(plan, held) == (True, reason)


@pytest.mark.parametrize(
    ("backups", "phrase"),
    [
        ([own(20), own(40)], "The newest good backup is 20 days old"),
        ([own(1, good=False)], "There is no good backup"),
        ([own(1, good=None)], "No backup has been proved good yet"),
        ([own(-3)], "name in the future"),
    ],
)
def test_a_frozen_retention_says_why_and_what_to_do(backups: list[Candidate], phrase: str) -> None:
    frozen = plan_retention(backups, Policy(), NOW).frozen
    assert frozen is not None
    assert phrase in frozen
    assert "`" in frozen


def test_an_empty_directory_is_not_frozen() -> None:
    assert plan_retention([], Policy(), NOW) == Plan(())


def test_weeks_are_iso_weeks_also_across_a_year() -> None:
    sunday, monday = datetime(2025, 12, 28, 23, tzinfo=UTC), datetime(2025, 12, 29, 1, tzinfo=UTC)
    new_year = datetime(2026, 1, 1, 5, tzinfo=UTC)
    backups = [Candidate(f"{t:%d}", t, t, good=True) for t in (sunday, monday, new_year)]
    plan = plan_retention(backups, Policy(keep_days=1, keep_last=0, keep_weekly=2), new_year)
    assert plan.pruned == ("29",)
