"""What people are told: what is new, once; reminders; the words of it, which nothing hostile gets into."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from arcbackupd.alarms import words
from arcbackupd.alarms.news import News, Told, news, standing, told_by
from arcbackupd.log import redact
from arcbackupd.operations.health import Problem, Severity

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = 24 * HOUR

OLD = Problem("last-good-old", "The newest good backup is 3.0 hours old.", "Take one.", Severity.WARNING)
OLDER = Problem("last-good-old", "The newest good backup is 7.0 hours old.", "Take one.", Severity.CRITICAL)
NAS = Problem("upload-failed", "The last upload to nas failed.", "Look.", Severity.WARNING, "nas")
CLOUD = Problem("upload-failed", "The last upload to cloud failed.", "Look.", Severity.WARNING, "cloud")


class Listener:
    """Somebody who is told, as a courier does it."""

    def __init__(self, remind: timedelta | None = DAY, least: Severity = Severity.WARNING) -> None:
        self.told, self.remind, self.least = Told(), remind, least

    def hear(self, *problems: Problem, at: datetime = NOW, delivered: bool = True) -> News | None:
        current = standing(problems, self.told, at, self.least)
        found = news(self.told, current, at, self.remind, self.least)
        if found and delivered:
            self.told = told_by(found, self.told)
        return found


def codes(items: Sequence[object]) -> list[tuple[str, str]]:
    return [(item.code, item.subject) for item in items]  # type: ignore[attr-defined]


def test_as_long_as_all_is_well_nobody_is_told_anything() -> None:
    assert Listener().hear() is None


def test_a_problem_is_told_when_it_appears_and_not_again_while_it_stays() -> None:
    listener = Listener()
    found = listener.hear(OLD)
    assert found is not None
    assert (found.state, found.before, codes(found.appeared)) == ("warning", "ok", [("last-good-old", "")])
    assert listener.hear(OLD, at=NOW + HOUR) is None


def test_what_a_problem_says_may_change_without_being_news() -> None:
    listener = Listener()
    listener.hear(OLD)
    later = Problem(OLD.code, "The newest good backup is 3.5 hours old.", OLD.hint, OLD.severity)
    assert listener.hear(later, at=NOW + HOUR) is None


def test_a_problem_that_becomes_worse_is_told_with_when_it_began() -> None:
    listener = Listener()
    listener.hear(OLD)
    found = listener.hear(OLDER, at=NOW + 4 * HOUR)
    assert found is not None
    assert (found.state, found.before, codes(found.changed)) == ("critical", "warning", [("last-good-old", "")])
    assert found.changed[0].since == NOW
    assert not found.appeared


def test_a_problem_that_is_gone_is_told_once_as_solved() -> None:
    listener = Listener()
    listener.hear(OLD)
    found = listener.hear(at=NOW + HOUR)
    assert found is not None
    assert (found.state, found.before, codes(found.resolved)) == ("ok", "warning", [("last-good-old", "")])
    assert listener.hear(at=NOW + 2 * HOUR) is None


def test_problems_of_one_code_about_different_things_are_different_ones() -> None:
    listener = Listener()
    listener.hear(NAS)
    found = listener.hear(NAS, CLOUD)
    assert found is not None
    assert codes(found.appeared) == [("upload-failed", "cloud")]


def test_two_problems_that_nothing_tells_apart_are_two() -> None:
    listener = Listener()
    listener.hear(OLD)
    found = listener.hear(OLD, OLD)
    assert found is not None
    assert (len(found.appeared), len(found.problems)) == (1, 2)


def test_what_goes_on_is_reminded_of_after_that_time_and_not_before() -> None:
    listener = Listener(remind=DAY)
    listener.hear(OLD)
    assert listener.hear(OLD, at=NOW + DAY - HOUR) is None
    found = listener.hear(OLD, at=NOW + DAY)
    assert found is not None
    assert (found.reminder, codes(found.problems)) == (True, [("last-good-old", "")])
    assert listener.hear(OLD, at=NOW + DAY + HOUR) is None


def test_without_a_setting_for_it_nobody_is_reminded() -> None:
    listener = Listener(remind=None)
    listener.hear(OLD)
    assert listener.hear(OLD, at=NOW + 1000 * DAY) is None


def test_a_clock_that_was_set_back_reminds_rather_than_being_silent_for_years() -> None:
    listener = Listener(remind=DAY)
    listener.hear(OLD, at=NOW + 1000 * DAY)
    assert listener.hear(OLD, at=NOW) is not None


def test_what_was_not_delivered_comes_again_with_what_is_new_by_then() -> None:
    listener = Listener()
    listener.hear(OLD, delivered=False)
    found = listener.hear(OLDER, NAS, at=NOW + HOUR)
    assert found is not None
    assert codes(found.appeared) == [("last-good-old", ""), ("upload-failed", "nas")]


def test_what_came_and_went_while_nothing_could_be_delivered_is_not_told() -> None:
    listener = Listener()
    listener.hear(OLD, delivered=False)
    assert listener.hear() is None


def test_who_wants_the_critical_alone_hears_of_nothing_less_and_of_its_end() -> None:
    listener = Listener(least=Severity.CRITICAL)
    assert listener.hear(OLD, NAS) is None
    assert listener.hear(OLDER, NAS) is not None
    found = listener.hear(OLD, NAS)
    assert found is not None
    assert (found.state, codes(found.resolved), found.problems) == ("ok", [("last-good-old", "")], ())
    assert words.subject(found, "dome") == "dome: OK: nothing is critical any more"
    assert "well" not in words.text(found, "dome")


def test_what_comes_and_goes_each_minute_is_told_at_once_and_then_twice_an_hour_at_most() -> None:
    listener = Listener(remind=None)
    told = [n for n in range(240) if listener.hear(*([NAS] if n % 2 else []), at=NOW + n * MINUTE)]
    assert told == [1, 2, 3, 62, 63, 122, 123, 182, 183]


def test_what_gets_worse_and_better_each_minute_is_told_no_more_often() -> None:
    listener = Listener(remind=None)
    told = [n for n in range(120) if listener.hear(OLDER if n % 2 else OLD, at=NOW + n * MINUTE)]
    assert told == [0, 1, 2, 3, 62, 63]


def test_what_came_back_and_is_gone_for_good_is_told_as_solved_an_hour_after_it_was_last() -> None:
    listener = Listener()
    for minute, problems in enumerate([[NAS, OLDER], [OLDER], [NAS, OLDER]]):
        assert listener.hear(*problems, at=NOW + minute * MINUTE)
    assert listener.hear(OLDER, at=NOW + 3 * MINUTE) is None
    worse = listener.hear(OLDER, CLOUD, at=NOW + 4 * MINUTE)
    assert worse is not None, "other news don't wait for it"
    assert codes(worse.problems) == [("last-good-old", ""), ("upload-failed", "cloud"), ("upload-failed", "nas")]
    found = listener.hear(OLDER, CLOUD, at=NOW + 61 * MINUTE)
    assert found is not None
    assert codes(found.resolved) == [("upload-failed", "nas")]


def test_a_clock_that_was_set_back_holds_back_no_good_news() -> None:
    listener = Listener()
    for at in (NOW + DAY, NOW):
        listener.hear(NAS, at=at)
        assert listener.hear(at=at) is not None


PROBLEMS = st.lists(
    st.builds(
        Problem,
        st.sampled_from("ab"),
        st.text(max_size=20),
        st.text(max_size=20),
        st.sampled_from([Severity.WARNING, Severity.CRITICAL]),
        st.sampled_from(["", "x", "y"]),
    ),
    max_size=5,
)


@settings(deadline=None)
@given(st.lists(PROBLEMS, max_size=8))
def test_who_adds_up_what_he_was_told_knows_how_things_stand(history: list[list[Problem]]) -> None:
    listener = Listener(remind=None)
    known: dict[str, tuple[str, str, Severity]] = {}
    for number, problems in enumerate(history):
        at = NOW + number * HOUR
        if found := listener.hear(*problems, at=at):
            for gone in found.resolved:
                del known[gone.key]
            known |= {new.key: (new.code, new.subject, new.severity) for new in (*found.appeared, *found.changed)}
        assert sorted(known.values()) == sorted((p.code, p.subject, p.severity) for p in problems)
        assert listener.hear(*problems, at=at) is None, "the same again is no news"


# Words


def found(*problems: Problem, before: Sequence[Problem] = ()) -> News:
    listener = Listener()
    if before:
        listener.hear(*before, at=NOW - HOUR)
    heard = listener.hear(*problems)
    assert heard is not None
    return heard


def test_the_subject_says_host_severity_and_what_is_new() -> None:
    expected = "dome: CRITICAL: The newest good backup is 7.0 hours old."
    assert words.subject(found(OLDER, NAS, before=[OLD, NAS]), "dome") == expected
    assert words.subject(found(before=[OLD]), "dome") == "dome: OK: all is well again"
    assert words.subject(found(NAS, before=[NAS, OLD]), "dome") == f"dome: WARNING: solved: {OLD.message}"


def test_the_text_tells_all_of_it_with_what_to_do() -> None:
    text = words.text(found(OLDER, before=[NAS]), "dome")
    assert text.startswith("arcbackupd on dome, 2026-01-01 12:00 UTC: critical.\n")
    assert f"critical, since 2026-01-01 12:00 UTC: {OLDER.message}\n  What to do: {OLDER.hint}" in text
    assert f"Solved:\n- warning, since 2026-01-01 11:00 UTC: {NAS.message}" in text


def test_a_reminder_says_that_it_is_one() -> None:
    listener = Listener()
    listener.hear(OLD)
    again = listener.hear(OLD, at=NOW + DAY)
    assert again is not None
    assert "still WARNING" in words.subject(again, "dome")
    assert "(a reminder)" in words.text(again, "dome")


def test_the_document_has_the_fields_that_the_page_promises() -> None:
    document = json.loads(words.document(found(OLDER, before=[OLD, NAS]), "dome"))
    assert (document["version"], document["event"], document["host"]) == (1, "changed", "dome")
    assert (document["state"], document["previous_state"]) == ("critical", "warning")
    assert [row["code"] for row in document["changed"]] == ["last-good-old"]
    assert [row["subject"] for row in document["resolved"]] == ["nas"]
    assert document["problems"] == [
        {
            "id": "last-good-old",
            "code": "last-good-old",
            "subject": "",
            "severity": "critical",
            "message": OLDER.message,
            "hint": OLDER.hint,
            "since": "2026-01-01T11:00:00+00:00",
        }
    ]


def test_however_many_problems_say_however_much_what_is_told_is_bounded_and_says_how_many() -> None:
    much = "m" * 10**5
    problems = [Problem("x", much, much, Severity.WARNING, f"{n:04}" * 100) for n in range(1000)]
    news = found(*problems, OLDER)
    document = words.document(news, "dome")
    assert len(document) < 300_000
    assert json.loads(document)["count"] == {"appeared": 1001, "changed": 0, "resolved": 0, "problems": 1001}
    assert [len(json.loads(document)[part]) for part in ("appeared", "problems")] == [50, 50]
    assert json.loads(document)["problems"][0]["code"] == "last-good-old", "the worst isn't left out"
    assert len(words.text(news, "dome")) < 150_000
    assert "\n- and 951 more\n" in words.text(news, "dome")
    assert len(told_by(news, Told()).model_dump_json()) < 4_000_000


@settings(deadline=None)
@given(st.text(), st.text())
def test_whatever_a_problem_says_a_subject_is_one_short_line(message: str, hint: str) -> None:
    line = words.subject(found(Problem("x", message, hint, Severity.WARNING)), "dome")
    assert len(line.splitlines()) == 1
    assert len(line) <= 150
    line.encode()


def test_no_secret_gets_into_what_is_told() -> None:
    redact("hunter2-S3cr3t")
    problem = Problem("x", "It fails with hunter2-S3cr3t.", "Not hunter2-S3cr3t.", Severity.WARNING)
    told = found(problem)
    everything = words.subject(told, "d") + words.text(told, "d") + words.document(told, "d").decode()
    assert "hunter2" not in everything
