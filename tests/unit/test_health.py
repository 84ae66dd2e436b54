"""The judgement behind `status`: the age of the newest good dump is what counts, and nothing is silent."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcbackupd.operations.health import Facts, Flagged, Problem, Severity, Thresholds, assess, span

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMITS = Thresholds(2 * HOUR, 6 * HOUR)
FINE = Facts(now=NOW, started_at=NOW - 100 * HOUR, last_good=NOW - HOUR)

ORDER = [Severity.CRITICAL, Severity.WARNING]


def codes(facts: Facts) -> list[str]:
    return [problem.code for problem in assess(facts, LIMITS)[1]]


def state(facts: Facts) -> Severity:
    return assess(facts, LIMITS)[0]


def test_a_job_whose_last_run_failed_is_a_warning_with_its_reason() -> None:
    state, problems = assess(replace(FINE, job_failures={"weather": "No sky."}), LIMITS)
    assert state is Severity.WARNING
    assert [(problem.code, problem.subject) for problem in problems] == [("job-failed", "weather")]
    assert "No sky." in problems[0].message


def test_a_young_dump_and_nothing_else_is_fine() -> None:
    assert assess(FINE, LIMITS) == (Severity.OK, [])


@pytest.mark.parametrize(
    ("hours", "expected"),
    [(0, "ok"), (1.99, "ok"), (2, "warning"), (5.99, "warning"), (6, "critical"), (10_000, "critical"), (-5, "ok")],
)
def test_the_age_of_the_newest_good_dump_decides(hours: float, expected: str) -> None:
    assert state(replace(FINE, last_good=NOW - hours * HOUR)) == expected


def test_an_old_dump_says_how_old_it_is_in_hours_or_days() -> None:
    def message(age: timedelta) -> str:
        return assess(replace(FINE, last_good=NOW - age), LIMITS)[1][0].message

    assert message(3 * HOUR) == "The newest good backup is 3.0 hours old."
    assert message(30 * HOUR) == "The newest good backup is 30.0 hours old."
    assert message(timedelta(days=9)) == "The newest good backup is 9 days old."
    assert span(timedelta(seconds=90)) == "2 min"
    assert span(timedelta(minutes=90)) == "90 min"


def test_no_good_dump_at_all_is_critical_but_for_the_first_while() -> None:
    assert state(replace(FINE, last_good=None)) == "critical"
    assert state(replace(FINE, last_good=None, started_at=NOW - HOUR)) == "warning"
    assert codes(replace(FINE, last_good=None)) == ["no-good-backup"]


def test_a_failed_dump_is_a_warning_as_long_as_there_is_a_young_one() -> None:
    failed = replace(FINE, last_dump_error="The database does not accept connections.")
    assert (state(failed), codes(failed)) == ("warning", ["dump-failed"])


def test_why_the_last_dump_failed_is_told_when_the_newest_is_old() -> None:
    (problem,) = assess(replace(FINE, last_good=NOW - 9 * HOUR, last_dump_error="It is cold."), LIMITS)[1]
    assert problem.code == "last-good-old"
    assert "It is cold." in problem.message + problem.hint


def test_jobs_that_failed_to_load_or_are_paused_are_told_by_name() -> None:
    facts = replace(FINE, failed_jobs={"weather": "no module"}, paused_jobs=("dump", "prune"))
    _, problems = assess(facts, LIMITS)
    assert [problem.code for problem in problems] == ["job-failed-to-load", "job-paused", "job-paused"]
    assert "weather" in problems[0].message
    assert "no module" in problems[0].message
    assert problems[1].hint == "`arcbackupctl jobs resume dump`."


def test_frozen_retention_and_a_clock_in_doubt_are_told_once() -> None:
    assert codes(replace(FINE, frozen="because")) == ["retention-frozen"]
    assert codes(replace(FINE, frozen="because", clock_doubt="it jumped")) == ["clock-jumped"]
    assert codes(replace(FINE, last_good=None, frozen="because")) == ["no-good-backup"]


def test_trouble_found_on_the_way_counts() -> None:
    trouble = Problem("env-missing", "There is no .env.", "Make one.", Severity.CRITICAL)
    assert assess(replace(FINE, trouble=(trouble,)), LIMITS) == (Severity.CRITICAL, [trouble])


def test_a_newest_dump_that_lost_much_is_a_warning_with_the_ways_out() -> None:
    lossy = Flagged("new.sql.gz", ("public.t has 1 row, after 9,000 in the backup before", "more"), "old.sql.gz")
    found, [problem] = assess(replace(FINE, flagged=lossy), LIMITS)
    assert (found, problem.code) == ("warning", "dump-anomaly")
    assert "new.sql.gz, is flagged: public.t has 1 row, after 9,000" in problem.message
    assert "(and 1 more)" in problem.message
    for command in ("inspect new.sql.gz", "restore old.sql.gz", "accept new.sql.gz"):
        assert f"`arcbackupctl {command}`" in problem.hint


FACTS = st.builds(
    Facts,
    now=st.just(NOW),
    started_at=st.integers(0, 200).map(lambda hours: NOW - hours * HOUR),
    last_good=st.none() | st.integers(-5, 200).map(lambda hours: NOW - hours * HOUR),
    last_dump_error=st.none() | st.just("It failed."),
    frozen=st.none() | st.just("frozen"),
    clock_doubt=st.none() | st.just("doubt"),
    flagged=st.none() | st.just(Flagged("new", ("it lost much",), None)),
    failed_jobs=st.dictionaries(st.sampled_from("ab"), st.just("why")),
    paused_jobs=st.lists(st.sampled_from("cd"), unique=True).map(tuple),
    trouble=st.lists(st.builds(Problem, st.just("x"), st.just("X."), st.just("Do."), st.sampled_from(ORDER))).map(
        tuple
    ),
)


@settings(deadline=None)
@given(FACTS)
def test_the_state_is_that_of_the_worst_problem_and_the_worst_come_first(facts: Facts) -> None:
    found, problems = assess(facts, LIMITS)
    assert found == (problems[0].severity if problems else "ok")
    assert all(ORDER.index(one.severity) <= ORDER.index(other.severity) for one, other in pairwise(problems))


@settings(deadline=None)
@given(FACTS)
def test_every_problem_says_what_to_do(facts: Facts) -> None:
    assert all(problem.code and problem.message.endswith((".", "doubt", "frozen", "why")) and problem.hint
               for problem in assess(facts, LIMITS)[1])  # fmt: skip


@settings(deadline=None)
@given(FACTS, st.integers(0, 100))
def test_it_never_gets_better_by_waiting(facts: Facts, hours: int) -> None:
    later = replace(facts, now=facts.now + hours * HOUR)
    severities = [Severity.OK, Severity.WARNING, Severity.CRITICAL]
    assert severities.index(state(later)) >= severities.index(state(facts))
