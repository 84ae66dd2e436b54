"""How a backup fits the running code."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.dumps.compatibility import (
    BACKEND_NOT_RUNNING,
    NO_MIGRATIONS_TABLE,
    NOT_SCANNED,
    Badge,
    Compatibility,
    compare,
    explain_newest,
    parse_showmigrations_plan,
)

CODE = ("auth.0001_initial", "auth.0002_more", "core.0001_initial", "core.0002_target")

apps = st.sampled_from(["auth", "core", "sky", "été"])
migrations = st.builds(lambda app, number: f"{app}.{number:04}_step", apps, st.integers(1, 6))


def test_every_migration_of_the_plan_is_read_applied_or_not() -> None:
    text = "[X]  auth.0001_initial\n[ ]  core.0001_initial\n"
    assert parse_showmigrations_plan(text) == ("auth.0001_initial", "core.0001_initial")


def test_noise_colours_and_line_ends_are_passed_over() -> None:
    text = (
        "System check identified some issues:\r\n\r\nWARNINGS:\r\n"
        "?: (urls.W005) URL namespace 'x.y' isn't unique.\r\n"
        "[2026-01-01] [X] not.a migration\r\n"
        "[X]  auth.0001_initial was here\r\n"
        "\x1b[1m[X]  \x1b[32mauth.0001_initial\x1b[0m\r\n"
        "  [ ]  core.0002_target ... (core.0001_initial, auth.0001_initial)\r\n"
        "\x1b[K[X]  été.0001_initial\r\nINFO done\r\n"
    )
    assert parse_showmigrations_plan(text) == ("auth.0001_initial", "core.0002_target", "été.0001_initial")


def test_what_holds_control_characters_is_no_name_since_names_are_shown_on_a_terminal() -> None:
    plan = "[X]  a.0001_x\x1b\x1b[1m[2J\n[X]  a.0002_\x07\n[X]  a.0003_\x9b2J\n[X]  a.0004_y\n"
    assert parse_showmigrations_plan(plan) == ("a.0004_y",)


def test_code_without_migrations_has_an_empty_plan() -> None:
    assert parse_showmigrations_plan("warning: x\n\x1b[31;1m(no migrations)\x1b[0m\n") == ()


@pytest.mark.parametrize(
    "text", ["", "\n", "Traceback (most recent call last):\nImportError: x\n", "auth\n [X] 0001\n"]
)
def test_output_without_a_plan_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no migration"):
        parse_showmigrations_plan(text)


@given(st.lists(st.tuples(migrations, st.booleans()), min_size=1), st.lists(st.text(max_size=60)))
def test_a_plan_comes_back_whatever_stands_around_it(plan: list[tuple[str, bool]], noise: list[str]) -> None:
    lines = [f"[{'X' if applied else ' '}]  {name}" for name, applied in plan]
    around = [line for line in noise if "[" not in line]
    text = "\n".join([*around, *lines, *around])
    assert parse_showmigrations_plan(text) == tuple(dict.fromkeys(name for name, _ in plan))


@given(st.text())
def test_any_text_gives_names_or_a_value_error(text: str) -> None:
    try:
        names = parse_showmigrations_plan(text)
    except ValueError:
        return
    assert all("." in name for name in names)


@pytest.mark.parametrize(
    "text",
    [
        "[X]  " * 1_000_000,
        "[X]  a." + "b" * 5_000_000,
        "[X]  a.b ... (" * 300_000,
        "\x1b[" + ";" * 5_000_000,
        ("[X]  a.b ... " + "(" * 4000 + "\n") * 500,
        "\x1b[0;" * 1_000_000,
        "[X] a.b\n" * 1_000_000,
        "x" * 9_000_000,
    ],
    ids=["marks", "name", "dependencies", "escape", "parentheses", "escapes", "lines", "size"],
)
def test_hostile_output_is_dealt_with_at_once(text: str) -> None:
    started = time.monotonic()
    with contextlib.suppress(ValueError):
        parse_showmigrations_plan(text)
    assert time.monotonic() - started < 5


def test_the_same_migrations_are_compatible_in_any_order() -> None:
    assert compare(CODE[::-1], CODE) == Compatibility(Badge.COMPATIBLE)


@pytest.mark.parametrize(
    ("count", "annotation"), [(1, "+1 migration applied since"), (2, "+2 migrations applied since")]
)
def test_a_backup_with_fewer_is_an_older_snapshot(count: int, annotation: str) -> None:
    found = compare(CODE[:-count], CODE)
    assert (found.status, found.annotation, found.only_in_code) == (Badge.OLDER_SNAPSHOT, annotation, CODE[-count:])
    assert str(found) == f"older snapshot ({annotation})"


def test_an_empty_record_is_an_older_snapshot_without_any() -> None:
    assert str(compare((), CODE)) == "older snapshot (+4 migrations applied since)"


def test_a_backup_with_unknown_ones_is_incompatible() -> None:
    found = compare([*CODE[:3], "core.0003_new", "core.0004_newer"], CODE)
    assert found.only_in_backup == ("core.0003_new", "core.0004_newer")
    assert found.only_in_code == ("core.0002_target",)
    assert str(found) == "incompatible (-2 not in code, +1 applied since)"


def test_migrations_of_an_app_that_is_gone_are_mentioned_and_not_counted() -> None:
    found = compare([*CODE, "gone.0001_initial"], CODE)
    assert found == Compatibility(Badge.COMPATIBLE, leftover=("gone.0001_initial",))


def test_a_backup_that_shares_nothing_with_the_code_is_not_all_leftovers() -> None:
    found = compare(["shop.0001_initial"], CODE)
    assert (found.status, found.only_in_backup, found.leftover) == (
        Badge.INCOMPATIBLE,
        ("shop.0001_initial",),
        (),
    )


def test_migrations_replaced_by_a_squashed_one_are_not_missing_from_the_code() -> None:
    # What Django 5.2 records and plans after `squashmigrations core 0001 0003` (tried).
    squashed = "core.0001_initial_squashed_0003_z"
    recorded = ("core.0001_initial", "core.0002_y", "core.0003_z", squashed)
    assert compare(recorded, [squashed]).status is Badge.COMPATIBLE
    newer = compare([*recorded, "core.0004_newer"], [squashed])
    assert newer.only_in_backup == ("core.0004_newer",)
    elsewhere = compare([*recorded, "auth.0002_other"], [squashed, "auth.0001_initial"])
    assert elsewhere.only_in_backup == ("auth.0002_other",)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (compare(None, CODE), NO_MIGRATIONS_TABLE),
        (compare(None, None), NO_MIGRATIONS_TABLE),
        (compare(CODE, None), BACKEND_NOT_RUNNING),
        (compare(CODE, None, why_no_code="showmigrations failed"), "showmigrations failed"),
        (compare(None, CODE, scanned=False), NOT_SCANNED),
    ],
)
def test_unknown_says_why(found: Compatibility, why: str) -> None:
    assert (found.status, found.annotation) == (Badge.UNKNOWN, why)


def test_broken_wins_over_everything_and_says_why() -> None:
    found = compare(CODE, None, scanned=False, broken="cut short")
    assert str(found) == "broken (cut short)"


@given(st.lists(migrations), st.lists(migrations))
def test_every_migration_is_accounted_for_once(in_backup: list[str], in_code: list[str]) -> None:
    found = compare(in_backup, in_code)
    missing = set(in_backup) - set(in_code)
    assert sorted([*found.only_in_backup, *found.leftover]) == sorted(missing)
    assert set(found.only_in_code) == set(in_code) - set(in_backup)
    assert (found.status is Badge.INCOMPATIBLE) == bool(found.only_in_backup)


def test_a_hostile_record_of_a_hundred_thousand_migrations_is_compared_at_once() -> None:
    record = [f"core.{n:05}{'9' * (n % 50)}_x" for n in range(100_000)]
    code = [f"core.{n:04}_squashed_{n + 1:04}_y" for n in range(100)]
    started = time.monotonic()
    assert compare([*record, *code[:1]], code).status is Badge.INCOMPATIBLE
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("found", "phrases"),
    [
        (
            compare(CODE[:3], CODE),
            ("older snapshot", "1 migration ", "applies it by itself", "Nothing needs to be done"),
        ),
        (compare(CODE[:2], CODE), ("2 migrations", "applies them by itself")),
        (compare([*CODE, "core.0009_x"], CODE), ("incompatible", "refuses", "Update the backend", "inspect NAME")),
        (compare(None, CODE, broken="cut short"), ("broken: cut short", "always refuses", "arcbackupctl backup")),
        (compare(CODE, None), ("backend not running — skip migration diff", "docker compose up -d")),
        (compare(None, CODE), ("no django_migrations", "another database")),
        (compare(None, CODE, scanned=False), ("not been scanned yet", "in the background")),
    ],
)
def test_a_paragraph_explains_the_newest_backup_when_it_is_not_compatible(
    found: Compatibility, phrases: tuple[str, ...]
) -> None:
    paragraph = explain_newest("NAME", found)
    assert paragraph is not None
    assert "\n" not in paragraph
    assert "  " not in paragraph
    for phrase in ("NAME", *phrases):
        assert phrase in paragraph


def test_nothing_is_explained_when_the_newest_is_compatible() -> None:
    assert explain_newest("NAME", compare(CODE, CODE)) is None
