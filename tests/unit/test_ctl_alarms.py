"""arcbackupctl about alarms, and as a plugin of Nagios."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbackupd.ctl import main as ctl
from arcbackupd.errors import Refused
from tests.unit.control_service import Running, alarm_row, alarm_test, serving, status_reply

PROBLEM = {
    "code": "disk-space",
    "message": "Two | further\nbackups fit.",
    "hint": "Free some.",
    "severity": "warning",
    "subject": "",
}
PERFDATA = re.compile(r"('[^'=]+'|[a-z_]+)=\d+(s|B)?(;\d*){0,4}")
"""A label, a value with its unit, and up to four limits."""


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("ARCBACKUPD_SOCKET", str(tmp_path / "s"))
    with serving(tmp_path / "s") as running:
        yield running


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capfd.readouterr()
    status = ctl.main(arguments)
    return status, capfd.readouterr().out


@pytest.mark.parametrize(
    ("state", "status", "word"),
    [("ok", 0, "OK"), ("warning", 1, "WARNING"), ("critical", 2, "CRITICAL"), ("unknown", 3, "UNKNOWN")],
)
def test_the_plugin_says_the_state_in_its_first_line_and_by_its_exit_status(
    running: Running, capfd: pytest.CaptureFixture[str], state: str, status: int, word: str
) -> None:
    running.service.status_is = status_reply(state=state)
    found, out = run(capfd, "status", "--nagios")
    assert found == status
    assert out.startswith(f"ARCBACKUPD {word} - last good backup ")


def test_the_plugin_has_performance_data_with_the_limits_that_status_goes_by(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    row = {"name": "it's=a|b", "done_at": "2026-01-02T12:00:00+00:00"}
    running.service.status_is = status_reply(destinations=[row, {"name": "new", "done_at": None}])
    _, out = run(capfd, "status", "--nagios")
    (line,) = out.splitlines()
    text, _, data = line.partition(" | ")
    assert "|" not in text + data
    figures = data.split()
    assert all(PERFDATA.fullmatch(figure) for figure in figures), figures
    assert figures[0] == "last_good_age=1380s;7200;21600;0"
    assert figures[1].startswith("'upload_age_it_s_a_b'=")
    assert figures[1].endswith("s;86400;259200;0")
    assert figures[2:] == ["free=1000000000000B;;;0;2000000000000", "problems=0;;;0"]


def test_the_plugin_tells_each_problem_in_a_line_and_none_can_forge_performance_data(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    running.service.status_is = status_reply(state="warning", problems=[PROBLEM, PROBLEM])
    _, out = run(capfd, "status", "--nagios")
    first, *more = out.splitlines()
    assert first.startswith(r"ARCBACKUPD WARNING - Two / further\nbackups fit. (and 1 more); last good backup")
    assert first.count("|") == 1
    assert more == [r"WARNING: Two / further\nbackups fit."] * 2


def test_for_the_plugin_no_daemon_is_critical_and_a_refusal_unknown(
    running: Running, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running.service.error = Refused("denied", "You may not.")
    assert run(capfd, "status", "--nagios") == (3, "ARCBACKUPD UNKNOWN - You may not.\n")
    monkeypatch.setenv("ARCBACKUPD_SOCKET", str(tmp_path / "nobody"))
    status, out = run(capfd, "status", "--nagios")
    assert (status, out.startswith("ARCBACKUPD CRITICAL - ")) == (2, True)
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"state": []},
        {"last_good": {"age_s": "1"}},
        {"last_good": {"age_s": int("9" * 400)}},
        {"problems": [{"severity": 3, "message": "x"}]},
        {"problems": ["x"]},
        {"problems": None},
        {"limits": None},
        {"room": {"free": "1|a=2\n", "total": 2}},
        {"destinations": [{"name": "nas", "done_at": 3, "more": 1}, 7]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_whatever_the_daemon_replies_the_plugin_says_unknown_in_one_line(
    running: Running, capfd: pytest.CaptureFixture[str], changes: dict[str, object]
) -> None:
    running.service.status_is = status_reply(**changes)
    status, out = run(capfd, "status", "--nagios")
    assert (status, len(out.splitlines())) == (3, 1)
    assert out.startswith("ARCBACKUPD UNKNOWN - the daemon's reply is not what this client expects")


def test_however_many_problems_there_are_the_plugin_keeps_to_what_nagios_takes(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    problems = [{**PROBLEM, "message": "m" * 5000, "subject": str(number)} for number in range(1000)]
    running.service.status_is = status_reply(state="warning", problems=problems)
    status, out = run(capfd, "status", "--nagios")
    assert status == 1
    assert len(out) < 4096
    first, *more = out.splitlines()
    assert "... (and 999 more); last good backup " in first
    assert "last_good_age=" in first
    assert more[-1] == "and 990 more"


def test_alarms_shows_how_each_stands_and_says_when_there_is_none(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "nobody is told" in run(capfd, "alarms")[1]
    failing = alarm_row(name="chat", type="webhook", told_at=None, problem="It can't be reached.")
    running.service.status_is = status_reply(alarms=[alarm_row(), failing])
    _, out = run(capfd, "alarms", "list")
    assert re.search(r"night +ping +2026-01-02 12:00\S* +fine", out)
    assert re.search(r"chat +webhook +not yet +It can't be reached\.", out)
    assert "night" in run(capfd, "status")[1]


def test_a_test_that_fails_is_told_with_what_to_do_and_an_exit_status(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out = run(capfd, "alarms", "test", "night")
    assert (status, out.startswith("night: delivered.")) == (0, True)
    assert running.service.calls[-1].parameters.name == "night"
    error = {"code": "alarm-unreachable", "message": "hc-ping.com can't be reached.", "hint": "Look."}
    running.service.tested = [alarm_test(), alarm_test(name="chat", error=error)]
    status, out = run(capfd, "alarms", "test")
    assert status == 1
    assert "chat: hc-ping.com can't be reached.\n  hint: Look." in out
    assert running.service.calls[-1].parameters.name is None
