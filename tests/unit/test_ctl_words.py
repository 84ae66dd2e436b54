"""Values in words, and tables that fit."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.ctl import render, render_restore, render_status, words
from arcbackupd.ctl.render import Column, Screen
from tests.unit.control_service import (
    backup_row,
    drill,
    inspection_row,
    job_row,
    replaced_row,
    restore_plan,
    restore_report,
    status_reply,
)

NOW = datetime(2026, 1, 2, 12, 23, 30, tzinfo=UTC)
WIDE = Screen(NOW, 10_000, lambda text, _: text)


def screen(width: int) -> Screen:
    """A screen of that width, without colours."""
    return Screen(NOW, width, lambda text, _: text)


@given(st.text())
def test_cleaned_text_has_nothing_that_a_terminal_acts_on(text: str) -> None:
    assert words.clean(text).isprintable()


@given(st.text(), st.integers(20, 200))
def test_a_paragraph_is_no_wider_than_asked_for(text: str, width: int) -> None:
    assert all(len(line) <= width and line.isprintable() for line in words.paragraph(text, width).split("\n"))


def test_a_path_that_fits_a_line_is_not_broken() -> None:
    assert (
        words.paragraph("Look at /srv/arc-second/db-backups now.", 30)
        .split("\n")[1]
        .startswith("/srv/arc-second/db")
    )


def test_plain_text_stays_as_it_is() -> None:
    assert words.clean("Größe: 望遠鏡 [bold] 100 %") == "Größe: 望遠鏡 [bold] 100 %"
    assert words.clean("a\x1b[31mb") == "a\\x1b[31mb"
    assert words.clean(None) == "None"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (1.12e9, "1.1 GB"),
        (336e9, "336 GB"),
        (5e18, "5000 PB"),
        (None, "?"),
    ],
)
def test_sizes(count: float | None, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (5.25, "5.2 s"),
        (42, "42 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (7380, "2 h 03 min"),
        (280 * 3600 + 1140, "11 days 16 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=-30), "just now"),
        (timedelta(minutes=-5), "in the future"),
        (timedelta(seconds=59), "just now"),
        (timedelta(minutes=23), "23 min ago"),
        (timedelta(hours=3, minutes=50), "3 h ago"),
        (timedelta(hours=25), "1 day ago"),
        (timedelta(days=6), "6 days ago"),
        (timedelta(days=13, hours=23), "13 days ago"),
        (timedelta(days=15), "2 weeks ago"),
        (timedelta(days=55), "7 weeks ago"),
        (timedelta(days=70), "2 months ago"),
        (timedelta(days=700), "22 months ago"),
        (timedelta(days=800), "2 years ago"),
    ],
)
def test_ages(age: timedelta, text: str) -> None:
    assert words.since((NOW - age).isoformat(), NOW) == text


@pytest.mark.parametrize("text", ["2026-01-02T12:00:00+00:00", "2026-01-02T12:00:00Z", "2026-01-02T13:00:00+01:00"])
def test_moments_are_shown_in_utc(text: str) -> None:
    assert words.moment(text) == "2026-01-02 12:00:00"
    assert words.since(text, NOW) == "23 min ago"


def test_what_is_no_moment_is_shown_as_it_came() -> None:
    assert words.moment("soon\x1b") == "soon\\x1b"
    assert words.since("soon", NOW) == "?"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "compatible"),
        (
            {"status": "older-snapshot", "only_in_code": ["a.1", "a.2"]},
            "older snapshot (+2 migrations applied since)",
        ),
        ({"status": "older-snapshot", "only_in_code": ["a"]}, "older snapshot (+1 migration applied since)"),
        (
            {"status": "incompatible", "only_in_backup": ["a.1"], "only_in_code": ["b.1", "b.2", "b.3"]},
            "incompatible (-1 not in code, +3 applied since)",
        ),
        ({"status": "unknown"}, "unknown (backend not running)"),
        ({"status": "unknown", "problem": "not scanned yet"}, "unknown (not scanned yet)"),
        ({"status": "broken", "problem": "truncated"}, "broken (truncated)"),
        ({"stored": ["nas", "s3"]}, "compatible, only at nas, s3"),
        ({"stored": ["local", "nas"]}, "compatible"),
        ({"status": "from the future"}, "from the future"),
    ],
)
def test_badges_come_with_their_annotations(changes: dict[str, Any], text: str) -> None:
    assert render.badge(backup_row(**changes)) == text


COLUMNS = (Column("#", right=True), Column("NAME"), Column("AGE", 1), Column("WHY", 2), Column("STATUS"))


@given(
    st.lists(st.tuples(*[st.text("abc ", max_size=30)] * 4, st.text("ab c", max_size=90)), max_size=5),
    st.integers(100, 300),
)
def test_no_line_of_a_table_is_wider_than_the_screen(rows: list[tuple[str, ...]], width: int) -> None:
    lines = render.table(COLUMNS, rows, [None] * len(rows), screen(width)).split("\n")
    assert all(len(line) <= width for line in lines)
    assert len(lines) > len(rows)


def test_of_a_table_too_wide_the_least_important_columns_go() -> None:
    rows = [["1", "name", "23 min ago", "scheduled", "incompatible (-1 not in code)"]]
    shown = [render.table(COLUMNS, rows, [None], screen(width)).split("\n")[0].split() for width in (80, 50, 36)]
    assert shown == [["#", "NAME", "AGE", "WHY", "STATUS"], ["#", "NAME", "AGE", "STATUS"], ["#", "NAME", "STATUS"]]


def test_where_little_room_is_left_the_last_column_goes_below_the_others() -> None:
    reply = {"backups": [backup_row(kind="pre-restore", name="pre-restore-20260102-120000.sql.gz")]}
    assert render.backups(reply, screen(40)).split("\n") == [
        "#  NAME",
        "    STATUS",
        "1  pre-restore-20260102-120000.sql.gz",
        "    compatible",
    ]


def test_on_an_ordinary_terminal_the_list_tells_ages() -> None:
    rows = [backup_row(3, status="older-snapshot", only_in_code=["a.1"], name="pre-restore-20260102-120000.sql.gz")]
    assert "23 min ago" in render.backups({"backups": rows}, screen(80))


def test_what_may_be_copied_is_not_cut_at_its_hyphens() -> None:
    hint = "Say which: arcbackupctl restore backup-20260102-120000.sql.gz --create-missing-roles"
    for width in range(35, 80):
        text = words.paragraph(hint, width)
        assert "backup-20260102-120000.sql.gz" in text
        assert "--create-missing-roles" in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_line_of_status_or_of_a_plan_is_wider_than_the_screen(width: int) -> None:
    drills = {"last": drill(), "proved": drill()}
    failed = restore_report(outcome="undone", problem="The load failed at line 3.")
    reply = status_reply(replaced=[replaced_row()], drills=drills, restore=failed)
    for text in (
        render_status.status(reply, screen(width)),
        render_restore.plan(restore_plan(), screen(width)),
        render_restore.report(restore_report(), screen(width)),
    ):
        assert max(map(len, text.split("\n"))) <= width


def test_facts_are_wrapped_behind_their_labels_but_paths_are_not() -> None:
    text = render.inspection({"backup": inspection_row(status="broken", problem="cut " * 20)}, screen(60))
    assert re.search("^  Status     broken .*cut\n {13}cut", text, re.MULTILINE)
    assert "  File       /srv/data/db_backups/backup-20260102-120000.sql.gz\n" in text


def test_inspecting_tells_everything_that_is_known() -> None:
    row = inspection_row(only_in_backup=["a.0002_gone"], only_in_code=["b.0003_new"], leftover=["old.0001_initial"])
    row["status"] = "incompatible"
    text = render.inspection({"backup": row, "verified": {"ok": True, "problem": None, "bytes": 10}}, WIDE)
    for known in (
        row["name"], row["path"], "incompatible (-1 not in code, +1 applied since)", "  - a.0002_gone",
        "  + b.0003_new",
        "    old.0001_initial", "42 migrations recorded", "25 tables, 300 rows", "PostgreSQL 16.10, pg_dump 16.10",
        "arcsecond/api:1.2", "1.2 MB (10.0 MB of SQL)", "scheduled, in 5.2 s", "2 names hold this content",
        "ab" * 32, "cd" * 32, "dome", "The hold held.", "Verified: all 10 B read, every hash matches.",
        "  24  public.t24", "the largest 20; all with --json",
    ):  # fmt: skip
        assert known in text
    assert "public.t4" not in text


def test_inspecting_says_nothing_about_what_is_not_known() -> None:
    known = {"links", "migrations_list", "notes", "path", "roles", "rows", "mtime"}
    unknown = dict.fromkeys([*(inspection_row().keys() - backup_row().keys() - known), "migrations"])
    row = inspection_row(**unknown, rows={}, roles=[], notes=[], migrations_list=[], manifest=False, links=1)
    text = render.inspection({"backup": row, "verified": None}, WIDE)
    assert "None" not in text
    assert "?" not in text
    assert "Manifest   none" in text


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("ok", "Safe. The last good backup is"),
        ("warning", "Safe, but something needs attention."),
        ("critical", "NOT SAFE."),
        ("unknown", "It is not known whether you are safe."),
    ],
)
def test_the_first_line_of_status_answers_whether_one_is_safe(state: str, line: str) -> None:
    assert render_status.status(status_reply(state=state), WIDE).startswith(line)


def test_status_tells_problems_with_hints_what_runs_and_that_retention_holds_still() -> None:
    problem = {"code": "old", "message": "The last dump failed.", "hint": "Look there.", "severity": "critical"}
    event = {"type": "progress", "bytes": 5_000_000, "elapsed_s": 2.0, "table": "public.images"}
    operation = {
        "id": "1",
        "kind": "dump",
        "state": "running",
        "started_at": "2026-01-02T12:00:00Z",
        "event": event,
    }
    reply = status_reply(
        state="critical",
        problems=[problem],
        operation=operation,
        last_good=None,
        retention={"frozen": "no good dump"},
    )
    text = render_status.status(reply, WIDE)
    assert text.startswith("NOT SAFE. There is no good backup.")
    assert "critical: The last dump failed.\n  hint: Look there." in text
    assert "dump (running, since 2026-01-02 12:00:00 UTC): 5.0 MB, 2.5 MB/s, public.images" in text
    assert "Retention holds still: no good dump" in text


def test_a_job_that_failed_tells_why() -> None:
    text = render.jobs(
        [job_row(last_error="disk full"), job_row(schedule=None, next_run=None, last_outcome=None)], WIDE
    )
    assert text.split("\n")[1].endswith("disk full")
    assert text.split("\n")[2].endswith("never ran")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (
            {"name": "b", "outcome": "unchanged"},
            "b: nothing has changed since the backup before; it takes no more space.",
        ),
        ({"name": None, "outcome": "skipped"}, "No backup taken: there is nothing to back up yet."),
        ({"name": None, "outcome": "queued", "operation": "7"}, "Queued as 7. To see it: arcbackupctl status"),
        ({"name": "b", "outcome": "published"}, "b: ?, in ?."),
        ({"name": "b", "outcome": "new"}, "new: b"),
    ],
)
def test_every_outcome_of_a_backup_is_a_sentence(result: dict[str, Any], text: str) -> None:
    assert render.backup_result(result) == text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"bytes": 1000}, "1.0 kB"),
        ({"bytes": 1000, "total_bytes": 4000}, "1.0 kB, 25 %"),
        ({"bytes": 1000, "total_bytes": 4000, "elapsed_s": 20.0}, "1.0 kB, 50 B/s, 25 %, about 1 min 00 s left"),
        (
            {"bytes": 1000, "total_bytes": 4000, "elapsed_s": 20.0, "eta_s": 5.0},
            "1.0 kB, 50 B/s, 25 %, about 5.0 s left",
        ),
        ({"bytes": 1000, "eta_s": 5.0}, "1.0 kB, about 5.0 s left"),
        ({"bytes": 0, "total_bytes": 4000, "elapsed_s": 20.0}, "0 B, 0 B/s, 0 %"),
        ({"bytes": 5000, "total_bytes": 4000, "elapsed_s": 20.0}, "5.0 kB, 250 B/s, 100 %"),
    ],
)
def test_progress_tells_how_much_is_done_and_how_long_the_rest_takes(event: dict[str, Any], text: str) -> None:
    assert render.event_line({"type": "progress", **event}) == text
