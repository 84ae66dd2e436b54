"""The report: one page, whole by itself, in which no text from a dump becomes anything but text."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.ctl.main import main
from arcbackupd.ctl.report.calendar import by_hour, cell
from arcbackupd.ctl.report.chart import chart, scale
from arcbackupd.ctl.report.markup import element, together
from arcbackupd.ctl.report.page import Told, longest_gap, page
from arcbackupd.ctl.report.timeline import remaining, timeline
from tests.unit.control_service import SmallService, backup_row, serving

NOW = datetime(2026, 3, 20, 14, 25, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOSTILE = "\"><script>alert(1)</script>'&\x1b[2J"


class Outline(HTMLParser):
    """The tags of a page, and those that are open at its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "line", "path", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def row(age: timedelta, **changes: Any) -> dict[str, Any]:
    taken = NOW - age
    return backup_row() | {"name": f"backup-{taken:%Y%m%d-%H%M%S}.sql.gz", "taken_at": taken.isoformat(), **changes}


def told(rows: list[dict[str, Any]], **status: Any) -> Told:
    verdicts = [{"name": entry["name"], "keep": True, "why": "younger than 14 days", "size": 1} for entry in rows]
    good = {"name": rows[0]["name"], "taken_at": rows[0]["taken_at"], "age_s": 60} if rows else None
    said: dict[str, Any] = {
        "state": "ok",
        "problems": [],
        "last_good": good,
        "jobs": [],
        "retention": {"frozen": None},
        "database": None,
        "destinations": [],
        "drills": {
            "last": None,
            "proved": {"drilled_at": (NOW - HOUR).isoformat(), "load_s": 34.2, "duration_s": 40},
        },
    }
    goes = {entry["name"]: (NOW + DAY).isoformat() for entry in rows[1:]}
    return Told(said | status, {"backups": rows}, {"verdicts": verdicts, "outlook": goes})


def test_it_is_one_well_formed_page_that_needs_nothing_from_elsewhere() -> None:
    text = page(told([row(number * HOUR) for number in range(1, 400)]), NOW)
    outline = Outline(text)
    assert outline.open == []
    assert set(outline.tags).isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    assert not [name for name, _ in outline.attributes if name in ("src", "href") or name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in outline.attributes


def test_no_text_from_outside_becomes_a_tag() -> None:
    bad = row(HOUR, status="broken", problem=HOSTILE, name=HOSTILE, reason=HOSTILE, stored=[HOSTILE])
    problem = {"code": "x", "severity": "warning", "message": HOSTILE, "hint": HOSTILE}
    job = {"name": HOSTILE, "schedule": HOSTILE, "state": HOSTILE, "last_run": None, "next_run": HOSTILE}
    place = {
        "name": HOSTILE,
        "location": HOSTILE,
        "streams": [HOSTILE],
        "dumps": 1,
        "done_at": HOSTILE,
        "problem": HOSTILE,
    }
    text = page(
        told(
            [bad, row(2 * HOUR)],
            problems=[problem],
            jobs=[job | {"last_error": HOSTILE, "last_outcome": None}],
            destinations=[place],
            database={"size": 1, "server_version": HOSTILE},
            retention={"frozen": HOSTILE},
        ),
        NOW,
    )
    outline = Outline(text)
    assert "script" not in outline.tags
    assert "\x1b" not in text
    assert "".join(outline.words).count("<script>alert(1)</script>") > 10


def test_it_tells_when_a_backup_was_proved_restorable_and_how_long_that_took() -> None:
    rows = [row(HOUR, proved_at=(NOW - HOUR).isoformat()), row(2 * HOUR)]
    assert "loaded in 34 s" in page(told(rows), NOW)
    assert "no restore drill has proved a backup yet" in page(
        told(rows, drills={"last": None, "proved": None}), NOW
    )


def test_without_backups_it_says_so() -> None:
    text = page(told([], state="critical"), NOW)
    assert "NOT SAFE." in text
    assert "There are no backups yet." in text


@given(st.text(), st.text())
def test_text_comes_out_as_text_and_markup_as_markup(content: str, attribute: str) -> None:
    outline = Outline(str(element("p", content, element("b", content), title=attribute)))
    assert outline.tags == ["p", "b"]


def test_nothing_is_no_word() -> None:
    assert together(None, "a", None) == "a"


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([], "none"),
        ([row(HOUR)], "good"),
        ([row(HOUR, kind="pre-restore", anomalies=["public.targets is gone"])], "safety"),
        ([row(HOUR, kind="pre-restore"), row(HOUR)], "good"),
        ([row(HOUR), row(HOUR, status="unknown", problem="not scanned yet")], "doubt"),
        ([row(HOUR), row(HOUR, anomalies=["public.targets is gone"])], "doubt"),
        ([row(HOUR), row(HOUR, status="broken", problem="cut short"), row(HOUR, anomalies=["x"])], "broken"),
    ],
)
def test_an_hour_shows_the_worst_of_its_backups(rows: list[dict[str, Any]], kind: str) -> None:
    assert cell(rows).kind == kind


def test_each_backup_stands_in_its_hour_in_utc() -> None:
    [hour] = by_hour([backup_row(taken_at="2026-03-20T00:30:00+02:00")])
    assert hour == (datetime(2026, 3, 19, tzinfo=UTC).date(), 22)


def test_the_longest_gap_is_between_two_or_since_the_last() -> None:
    times = [NOW - number * HOUR for number in (30, 29, 22, 21)]
    assert longest_gap(times, NOW) == 21 * HOUR
    assert longest_gap([*times, NOW - HOUR], NOW) == 20 * HOUR
    assert longest_gap([NOW - 40 * DAY, *(NOW - n * HOUR for n in range(24 * 20))], NOW) == HOUR
    assert longest_gap([], NOW) is None


@given(st.floats(1, 1e15))
def test_a_scale_reaches_over_the_largest_value_in_a_few_steps(largest: float) -> None:
    steps = scale(largest)
    assert steps[0] == 0
    assert steps[-1] >= largest * 0.999_999
    assert 3 <= len(steps) <= 7


def test_a_chart_of_nothing_but_zeros_is_drawn() -> None:
    assert "polyline" in chart("Rows", [(NOW - HOUR, 0), (NOW, 0)], str)


def test_a_name_in_the_future_is_not_drawn() -> None:
    text = page(told([row(-400 * DAY, size=9_000_000), row(HOUR), row(2 * HOUR)]), NOW)
    assert "on 20 March 2026." in text
    assert "9.0 MB on" not in text


def test_a_chart_tells_days_with_their_year_or_times_as_it_is_needed() -> None:
    drawn = chart("Rows", [(NOW - 500 * DAY, 1), (NOW, 2)], str)
    assert ">05 Nov 2024<" in drawn
    assert ">20 Mar<" in drawn
    assert ">13:25<" in chart("Rows", [(NOW - HOUR, 1), (NOW, 2)], str)
    assert ">05 Nov 2024<" in timeline([row(500 * DAY), row(HOUR)], {}, NOW)


def test_what_the_next_pruning_removes_is_there_now() -> None:
    rows = [row(number * DAY) for number in (1, 20, 21)]
    drawn = timeline(rows, {entry["name"]: (NOW - HOUR).isoformat() for entry in rows[1:]}, NOW)
    assert "now: 3 backups" in drawn
    assert "in a day: 1 backup<" in drawn


def test_what_goes_is_there_until_it_goes() -> None:
    rows = [row(HOUR), row(13 * DAY), row(20 * DAY)]
    goes = {rows[1]["name"]: (NOW + DAY).isoformat()}
    assert len(remaining(rows, goes, NOW)) == 3
    assert len(remaining(rows, goes, NOW + DAY)) == 2


# The command


def run(tmp_path: Path, *arguments: str) -> int:
    with serving(tmp_path / "s", SmallService([backup_row(number) for number in (1, 2)])):
        return main(["--socket", str(tmp_path / "s"), "report", *arguments])


def test_it_writes_a_file_in_place_of_an_older_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    path.write_text("the one before")
    assert run(tmp_path, "--output", str(path)) == 0
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert capsys.readouterr().out == f"Written to {path}. Open it in any browser.\n"
    assert {entry.name for entry in tmp_path.iterdir()} <= {"page.html", "s"}


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "-o", str(tmp_path / "missing" / "page.html")) == 1
    assert "can't be written: No such file or directory" in capsys.readouterr().err
    (tmp_path / "full.html").mkdir()
    assert run(tmp_path, "-o", str(tmp_path / "full.html")) == 2
    assert {entry.name for entry in tmp_path.iterdir()} <= {"full.html", "s"}


def test_it_goes_to_the_standard_output_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "-o", "-") == 0
    assert capsys.readouterr().out.endswith("</html>\n")


def test_with_json_it_prints_what_it_is_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["list"]["backups"]) == len(said["retention"]["outlook"]) == 2
    assert "problems" in said["status"]
