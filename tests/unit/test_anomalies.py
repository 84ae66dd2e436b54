"""What is an anomaly and what is normal life, as a function of values."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.dumps.anomalies import HEALTHY, Baseline, Judgement, judge
from arcbackupd.dumps.history import Facts, Limits

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
OBSERVATIONS, TARGETS, SESSIONS = "public.observations", "public.targets", "public.django_session"
LIMITS = Limits(ignore=(SESSIONS,))


def facts(hour: float, rows: Mapping[str, int], **more: object) -> Facts:
    """A backup of so many hours after START."""
    given = {"name": f"b{hour:04}", "taken_at": START + hour * HOUR, "origin": "host db", "sql_length": 10_000}
    return Facts(rows=dict(rows), **(given | more))  # type: ignore[arg-type]


def course(*counts: int | None, table: str = OBSERVATIONS) -> list[Facts]:
    """Hourly backups in which one table has so many rows, or isn't there, and nothing else changes."""
    return [facts(hour, {} if rows is None else {table: rows}) for hour, rows in enumerate(counts)]


def daily(*counts: int) -> list[Facts]:
    """As `course`, but a day apart."""
    return [replace(one, taken_at=START + 24 * hour * HOUR) for hour, one in enumerate(course(*counts))]


def judged(backups: Sequence[Facts], *baselines: Baseline, limits: Limits = LIMITS) -> list[Judgement]:
    found = judge(backups, limits, baselines)
    return [found[backup.name] for backup in backups]


def flags(backups: Sequence[Facts], *baselines: Baseline, limits: Limits = LIMITS) -> str:
    """One character a backup: ``!`` flagged, ``a`` accepted, ``.`` healthy."""
    marks = judged(backups, *baselines, limits=limits)
    return "".join("!" if mark.flagged else "a" if mark.accepted else "." for mark in marks)


# What is said


def test_a_table_that_lost_most_of_its_rows_is_told_with_what_it_had() -> None:
    (*_, last) = judged(course(1_260_112, 1_204_551, 1_259_000, 12))
    assert last.anomalies == (
        "public.observations has 12 rows, after 1,204,551 to 1,260,112 in the backups of the 3 hours before",
    )


def test_of_a_table_that_only_grew_the_backup_before_is_told() -> None:
    assert judged(course(0, 500, 1_000, 1))[-1].anomalies == (
        "public.observations has 1 row, after 1,000 in the backup before",
    )


def test_rows_that_were_always_as_many_are_told_as_one_number_with_the_days() -> None:
    backups = [facts(hour, {OBSERVATIONS: 4_000}) for hour in (0, 24, 48, 72)]
    lost = facts(96, {OBSERVATIONS: 0})
    assert judged([*backups, lost])[-1].anomalies == (
        "public.observations has 0 rows, after 4,000 in the backups of the 4 days before",
    )


def test_a_table_that_is_gone_is_told_however_small_it_was() -> None:
    assert judged(course(3, None))[-1].anomalies == ("the table public.observations is gone, which had 3 rows",)


def test_an_empty_table_may_go() -> None:
    assert flags(course(0, None)) == ".."


def test_sql_that_shrank_is_told_though_every_row_is_there() -> None:
    whole = facts(0, {OBSERVATIONS: 5_000}, sql_length=80_000_000)
    shrunk = facts(1, {OBSERVATIONS: 5_000}, sql_length=2_400_000)
    assert judged([whole, shrunk])[-1].anomalies == (
        "its SQL is 3 % of what it was: 2,400,000 bytes, after 80,000,000",
    )
    assert "less than 1 %" in judged([whole, replace(shrunk, sql_length=20_000)])[-1].anomalies[0]


def test_the_largest_loss_comes_first_and_many_are_counted() -> None:
    tables = {f"public.t{number:03}": 1_000 + number for number in range(300)}
    (_, emptied) = judged([facts(0, tables), facts(1, dict.fromkeys(tables, 0))])
    assert emptied.anomalies[0].startswith("public.t299 has 0 rows")
    assert len(emptied.anomalies) == 10
    assert emptied.anomalies[-1] == "and 291 more tables lost as much"


# Normal life


@pytest.mark.parametrize(
    ("what", "backups"),
    [
        ("the first one", course(5)),
        ("growth", course(0, 10, 5_000, 1_000_000)),
        ("jitter", course(1_000, 700, 1_000, 650, 900, 600)),
        ("half of the rows", course(1_000, 500)),
        ("small tables", course(99, 0, 99, 3)),
        ("a table that nobody minds", course(100_000, 0, table=SESSIONS)),
        ("a table that nobody minds, gone", course(100_000, None, table=SESSIONS)),
        (
            "a table that goes down for longer than history is",
            daily(*(int(10**6 * 0.97**day) for day in range(90))),
        ),
    ],
)
def test_normal_life_is_not_flagged(what: str, backups: list[Facts]) -> None:
    assert "!" not in flags(backups), what


def test_a_loss_in_small_steps_is_noticed_when_it_is_too_much_in_all() -> None:
    assert flags(course(1_000, 900, 800, 700, 600, 500, 499)) == "......!"


def test_sql_of_rows_that_nobody_minds_may_go() -> None:
    full = facts(0, {SESSIONS: 900_000, TARGETS: 5_000}, sql_length=500_000_000)
    cleaned = facts(1, {SESSIONS: 10, TARGETS: 5_000}, sql_length=4_000_000)
    assert flags([full, cleaned]) == ".."
    assert flags([full, cleaned], limits=Limits()) == ".!"


def test_the_sql_of_a_small_database_says_nothing() -> None:
    assert flags([facts(0, {}, sql_length=999_999), facts(1, {}, sql_length=1)]) == ".."


def test_a_table_that_often_falls_and_rises_by_itself_is_let_be_in_time() -> None:
    night = (5_000, 0)
    assert flags(course(*night * 5)) == ".!.!......"


def test_backups_of_other_databases_are_no_history() -> None:
    large = [facts(hour, {OBSERVATIONS: 10_000}) for hour in (0, 2)]
    small = [facts(hour, {OBSERVATIONS: 10}, origin="host other") for hour in (1, 3)]
    assert flags([*large, *small]) == "...."


def test_everything_can_be_turned_off() -> None:
    whole = facts(0, {OBSERVATIONS: 5_000}, sql_length=80_000_000)
    assert flags([whole, facts(1, {}, sql_length=5)], limits=Limits(ignore=("*",))) == ".."


# Migrations


def migrated(hour: float, rows: Mapping[str, int], *migrations: str, **more: object) -> Facts:
    return facts(hour, rows, migrations=frozenset(migrations), **more)


def test_a_table_that_migrations_of_its_app_removed_is_explained() -> None:
    before = migrated(0, {"public.weather_reading": 9_000, TARGETS: 10}, "weather.0001")
    after = migrated(1, {TARGETS: 10}, "weather.0001", "weather.0002_delete_reading")
    (_, judgement) = judged([before, after])
    assert not judgement.flagged
    assert judgement.explained == (
        "the table public.weather_reading is gone, which had 9,000 rows: migrations of weather came since",
    )
    assert flags([before, after, replace(after, name="next", taken_at=after.taken_at + HOUR)]) == "..."


def test_a_table_that_a_migration_renamed_is_explained() -> None:
    before = migrated(0, {TARGETS: 9_000}, "sky.0001")
    after = migrated(1, {"public.objects": 9_004}, "sky.0001", "sky.0002")
    assert judged([before, after])[-1].explained == (
        (
            f"the table {TARGETS} is gone, which had 9,000 rows: migrations came since, and other tables have as"
            " many rows more"
        ),
    )


def test_a_table_of_another_app_is_not_explained_by_a_migration() -> None:
    before = migrated(0, {"public.targets_target": 9_000}, "weather.0001")
    assert flags([before, migrated(1, {}, "weather.0001", "weather.0002")]) == ".!"


def test_rows_that_a_migration_lost_are_not_explained_by_it() -> None:
    before = migrated(0, {"public.targets_target": 9_000}, "targets.0001")
    assert flags([before, migrated(1, {"public.targets_target": 1}, "targets.0001", "targets.0002")]) == ".!"


def test_rows_that_a_migration_moved_to_other_tables_are_explained() -> None:
    before = migrated(0, {TARGETS: 9_000, "public.catalogue": 500}, "sky.0001")
    moved = {TARGETS: 0, "public.catalogue": 5_000, "public.planets": 4_500}
    after = migrated(1, moved, "sky.0001", "sky.0002")
    assert judged([before, after])[-1].explained == (
        (
            f"{TARGETS} has 0 rows, after 9,000 in the backup before: migrations came since, and other tables have"
            " as many rows more"
        ),
    )
    assert flags([before, replace(after, migrations=before.migrations)]) == ".!"
    assert flags([before, replace(after, rows=dict.fromkeys(moved, 0))]) == ".!"


def test_each_row_that_came_counts_for_one_that_went() -> None:
    before = migrated(0, {TARGETS: 9_000, OBSERVATIONS: 8_000}, "sky.0001")
    after = migrated(1, {TARGETS: 0, OBSERVATIONS: 0, "public.planets": 9_000}, "sky.0001", "sky.0002")
    (_, judgement) = judged([before, after])
    assert judgement.suspects == {OBSERVATIONS}
    assert len(judgement.explained) == 1


def test_many_rows_that_a_migration_brings_hide_no_table_that_was_emptied() -> None:
    before = migrated(0, {TARGETS: 9_000}, "sky.0001")
    for brought, expected in ((9_000, ".."), (18_000, ".."), (90_000, ".!")):
        after = {TARGETS: 0, "public.stars": brought}
        assert flags([before, migrated(1, after, "sky.0001", "sky.0002")]) == expected


def test_what_a_table_usually_gains_hides_no_loss_beside_migrations() -> None:
    growing = [migrated(hour, {OBSERVATIONS: hour * 50_000, TARGETS: 9_000}, "sky.0001") for hour in range(1, 4)]
    after = migrated(4, {OBSERVATIONS: 200_000, TARGETS: 0}, "sky.0001", "sky.0002")
    assert flags([*growing, after]) == "...!"


def test_what_a_table_gains_while_no_backup_is_taken_hides_no_loss_either() -> None:
    """The host was off over the weekend, and an upgrade came with its first start."""
    growing = [migrated(hour, {OBSERVATIONS: hour * 1_000, TARGETS: 9_000}, "sky.0001") for hour in range(30)]
    after = migrated(29 + 48, {OBSERVATIONS: 77_100, TARGETS: 0}, "sky.0001", "sky.0002")
    assert flags([*growing, after]).endswith("..!")


def test_what_each_migration_notes_and_what_chance_adds_explain_no_small_table_that_is_gone() -> None:
    def rows(hour: int) -> dict[str, int]:
        return {OBSERVATIONS: hour * 1_000, "public.django_migrations": 40, "public.auth_permission": 80}

    growing = [migrated(hour, rows(hour) | {"public.site": 2}, "sky.0001") for hour in range(1, 5)]
    noted = {OBSERVATIONS: 5_150, "public.django_migrations": 41, "public.auth_permission": 84}
    after = migrated(5, noted, "sky.0001", "sky.0002")
    assert flags([*growing, after]) == "....!"
    moved = migrated(5, rows(5) | {"public.places": 2}, "sky.0001", "sky.0002")
    assert flags([*growing, moved]) == "....."


def test_rows_that_somebody_moved_to_a_new_table_are_explained_and_a_table_that_fills_up_hides_no_loss() -> None:
    before = facts(0, {TARGETS: 9_000, OBSERVATIONS: 70})
    copied = facts(1, {TARGETS: 0, OBSERVATIONS: 70, "public.targets_old": 9_000})
    assert judged([before, copied])[-1].explained[0].endswith("the new table public.targets_old has as many")
    for rows in (70, 200, 7_000, 12_000):
        assert flags([before, facts(1, {TARGETS: 0, OBSERVATIONS: 90_000, "public.other": rows})]) == ".!"


def test_a_flag_that_stands_is_not_explained_by_migrations_that_come_later() -> None:
    """Dropped by hand; the next release brings migrations of that app."""
    before = migrated(0, {"public.weather_reading": 9_000}, "weather.0001")
    dropped = migrated(1, {}, "weather.0001")
    released = migrated(2, {"public.weather_new": 9_000}, "weather.0001", "weather.0002")
    assert flags([before, dropped, released]) == ".!!"


# Partitions


def partitions(hour: float, *months: int, rows: int = 5_000) -> Facts:
    return facts(hour, {f"public.frames_2026_{month}": rows for month in months})


def test_a_partition_that_made_way_for_a_younger_one_is_explained() -> None:
    backups = [
        partitions(0, 7, 8, 9),
        partitions(1, 7, 8, 9, 10),
        partitions(2, 8, 9, 10),
        partitions(3, 9, 10, 11),
    ]
    assert flags(backups) == "...."
    assert judged(backups)[2].explained == (
        (
            "the table public.frames_2026_7 is gone, which had 5,000 rows: the oldest of its kind made way for"
            " public.frames_2026_10"
        ),
    )


def test_partitions_are_compared_by_numbers_of_any_length() -> None:
    long = "9" * 5_000
    before, after = ({f"public.p_{number}": 5_000 for number in kept} for kept in (["009", "10"], ["10", long]))
    assert flags([facts(0, before), facts(1, after)]) == ".."
    assert flags([facts(0, after), facts(1, before)]) == ".!"


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("none came", partitions(1, 8, 9)),
        ("more went than came", partitions(1, 9, 10)),
        ("not the oldest went", partitions(1, 7, 9, 10)),
        ("all went", partitions(1)),
        ("none stayed", partitions(1, 10, 11, 12)),
        ("the oldest was emptied", facts(1, dict(partitions(1, 7, 8, 9, 10).rows) | {"public.frames_2026_7": 0})),
    ],
)
def test_a_partition_that_went_otherwise_is_flagged(what: str, after: Facts) -> None:
    assert flags([partitions(0, 7, 8, 9), after]) == ".!", what


def test_the_only_table_of_its_kind_does_not_make_way_for_an_empty_one() -> None:
    assert flags([partitions(0, 7), partitions(1, 8, rows=0)]) == ".!"


def test_sql_that_shrank_with_a_migration_is_explained_also_for_those_after_it() -> None:
    before = migrated(0, {TARGETS: 9_000}, "targets.0001", sql_length=9_000_000)
    after = migrated(1, {TARGETS: 9_000}, "targets.0001", "targets.0002", sql_length=2_000_000)
    later = replace(after, name="later", taken_at=after.taken_at + HOUR, sql_length=1_999_000)
    assert flags([before, after, later]) == "..."
    assert "migrations came since" in judged([before, after])[-1].explained[0]
    assert (
        flags([before, after, later, replace(later, name="z", taken_at=START + 9 * HOUR, sql_length=1)])[-1] == "!"
    )


# Until it is settled


def test_those_after_a_flagged_one_are_measured_against_what_was_before_it() -> None:
    assert flags(course(1_000, 1_000, 10, 10, 11, 12, 40)) == "..!!!!!"


def test_a_flag_goes_when_the_rows_are_back() -> None:
    assert flags(course(1_000, 10, 990, 995)) == ".!.."


def test_new_rows_do_not_bring_lost_ones_back() -> None:
    assert flags(course(1_000, 10, 300, 510, 700, 899, 900, 905)) == ".!!!!!.."


def test_sql_that_grows_again_does_not_settle_it_either() -> None:
    backups = [facts(hour, {}, sql_length=mb * 1_000_000) for hour, mb in enumerate((10, 1, 6, 8, 9, 10))]
    assert flags(backups) == ".!!!.."


def test_accepting_one_settles_it_and_those_just_before_and_later_ones_are_measured_against_it() -> None:
    backups = course(1_000, 10, 1_000, 200, 200, 190, 195, 90)
    accepted = Baseline(backups[5].taken_at, accepted=True)
    assert flags(backups) == ".!.!!!!!"
    assert flags(backups, accepted) == ".!.aaa.!"
    assert judged(backups, accepted)[5].anomalies[0].startswith("public.observations has 190 rows")


def test_what_was_accepted_stays_so_when_its_backup_is_gone() -> None:
    backups = course(1_000, 10, 10, 11)
    accepted = Baseline(backups[1].taken_at, accepted=True)
    assert flags([backups[0], *backups[2:]], accepted) == ".a."


def test_another_table_lost_after_an_accepted_loss_is_flagged() -> None:
    rows = [{OBSERVATIONS: 1_000, TARGETS: 500}, {OBSERVATIONS: 0, TARGETS: 500}, {OBSERVATIONS: 0, TARGETS: 0}]
    backups = [facts(hour, of) for hour, of in enumerate(rows)]
    assert flags(backups, Baseline(backups[1].taken_at, accepted=True)) == ".a!"


def test_after_a_restore_history_begins_anew() -> None:
    backups = course(1_000, 900, 100, 100)
    restored = Baseline(START + 1.5 * HOUR, accepted=False)
    assert flags(backups, restored) == "...."
    assert flags(course(1_000, 900, 100, 100, 10), restored)[-1] == "!"


def test_what_was_flagged_before_a_restore_stays_so() -> None:
    assert flags(course(1_000, 10, 1_000), Baseline(START + 1.5 * HOUR, accepted=False)) == ".!."


def test_the_snapshot_of_what_a_restore_replaced_is_from_before_it() -> None:
    whole = facts(0, {OBSERVATIONS: 1_000})
    snapshot = facts(1, {OBSERVATIONS: 0}, snapshot=True)
    restored = Baseline(START + HOUR + timedelta(milliseconds=400), accepted=False)
    assert flags([whole, snapshot, facts(2, {OBSERVATIONS: 900})], restored) == ".!."


# Properties

TABLES = [f"public.t{number}" for number in range(5)]
ROWS = st.dictionaries(st.sampled_from(TABLES), st.sampled_from([0, 1, 50, 99, 100, 400, 1_000, 10**6]))
BACKUPS = st.lists(
    st.builds(
        facts,
        st.integers(0, 1_000),
        ROWS,
        sql_length=st.sampled_from([0, 10**3, 10**6, 10**7, 10**9]),
        migrations=st.frozensets(st.sampled_from(["a.1", "b.1"])),
        origin=st.sampled_from(["x", "x", "x", "y"]),
        snapshot=st.booleans(),
    ),
    max_size=14,
    unique_by=lambda one: one.name,
)
BASELINES = st.lists(st.builds(Baseline, st.integers(0, 1_000).map(lambda h: START + h * HOUR), st.booleans()))


@given(BACKUPS, BASELINES)
def test_each_backup_is_judged_whatever_their_order(backups: list[Facts], baselines: list[Baseline]) -> None:
    found = judge(backups, LIMITS, baselines)
    assert found.keys() == {backup.name for backup in backups}
    assert judge(backups[::-1], LIMITS, baselines[::-1]) == found


@given(BACKUPS, BASELINES, st.integers(0, 13))
def test_a_backup_identical_to_a_healthy_one_before_it_is_never_flagged(
    backups: list[Facts], baselines: list[Baseline], which: int
) -> None:
    if not backups:
        return
    original = backups[which % len(backups)]
    twin = replace(original, name="twin", taken_at=original.taken_at + HOUR / 2)
    found = judge([*backups, twin], LIMITS, baselines)
    assert found[original.name].flagged or not found["twin"].flagged


@given(BACKUPS, BASELINES)
def test_what_comes_later_changes_no_judgement_but_by_accepting(
    backups: list[Facts], baselines: list[Baseline]
) -> None:
    ordered = sorted(backups, key=lambda one: (one.taken_at, one.snapshot))
    some = judge(ordered[: len(ordered) // 2], LIMITS, baselines)
    every = judge(ordered, LIMITS, baselines)
    assert all(every[name].anomalies == judgement.anomalies for name, judgement in some.items())


@given(
    st.lists(st.integers(900, 1_100), min_size=1, max_size=20),
    st.integers(1, 10_000),
    st.floats(0, 0.4),
    st.integers(1, 20),
)
def test_losing_most_rows_of_a_table_is_always_flagged_and_so_are_those_after_it(
    counts: list[int], scale: int, left: float, after: int
) -> None:
    before = course(*(rows * scale for rows in counts))
    lost = int(min(counts) * scale * left)
    small = [facts(len(counts) + hour, {OBSERVATIONS: lost + hour}) for hour in range(after)]
    assert flags([*before, *small]) == "." * len(before) + "!" * after


@given(st.lists(st.sampled_from([0, 10, 1_000, 1_200]), min_size=1, max_size=40))
def test_a_table_that_never_goes_below_half_of_what_it_had_is_never_flagged(steps: list[int]) -> None:
    peak, counts = 1_000, []
    for step in steps:
        peak = max(peak, peak + step)
        counts.append(peak - step // 3)
    assert "!" not in flags(course(*counts))


@given(BACKUPS, st.integers(0, 13))
def test_accepting_a_flagged_backup_clears_its_flag_and_adds_none_of_the_same_content(
    backups: list[Facts], which: int
) -> None:
    flagged = [backup for backup in backups if judge(backups, LIMITS)[backup.name].flagged]
    if not flagged:
        return
    chosen = flagged[which % len(flagged)]
    twin = replace(chosen, name="twin", taken_at=chosen.taken_at + HOUR / 2)
    found = judge([*backups, twin], LIMITS, [Baseline(chosen.taken_at, accepted=True)])
    assert not found[chosen.name].flagged
    assert found["twin"] == HEALTHY


# Cost


def test_two_weeks_of_hourly_backups_of_many_tables_are_judged_soon() -> None:
    names = [f"public.t{number}" for number in range(100)]
    busy = [facts(hour, dict.fromkeys(names, 10_000 + hour % 7)) for hour in range(336)]
    lost = [facts(336 + hour, dict.fromkeys(names, hour % 5)) for hour in range(336)]
    began = time.process_time()
    assert flags([*busy, *lost]) == "." * 336 + "!" * 336
    assert time.process_time() - began < 3.0, "of the processor; 0.4 s where nothing else runs"


@pytest.mark.parametrize("migrations", [["a.1"], ["a.1", "a.2"]])
def test_backups_of_very_many_tables_are_judged_soon(migrations: list[str]) -> None:
    before = migrated(0, {f"public.t{number}_{number % 7 * 'x'}": number for number in range(1, 20_000)}, "a.1")
    after = migrated(1, {f"public.u{number}": number for number in range(1, 20_000)}, *migrations)
    began = time.process_time()
    judged([before, after])
    assert time.process_time() - began < 3.0, "of the processor; 0.2 s where nothing else runs"


def test_what_is_accepted_of_one_origin_says_nothing_of_another() -> None:
    ours = course(1000, 1000, 1000, 1)
    theirs = [replace(one, name=f"their-{one.name}", origin="") for one in course(1000, 1000, 1, 1)]
    accepted = Baseline(theirs[2].taken_at, accepted=True, origin="")
    found = judge([*ours, *theirs], LIMITS, [accepted])
    assert found[ours[3].name].flagged
    assert [found[one.name].flagged for one in theirs] == [False] * 4
