"""arcbackupctl doctor: a line for each check, an exit status for all, and why a daemon doesn't answer."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from arcbackupd.ctl import render_doctor
from arcbackupd.ctl.render import Screen
from arcbackupd.ctl.unreachable import findings, judge_access, judge_unit
from arcbackupd.errors import Refused
from tests.unit.control_service import Running, finding_row
from tests.unit.test_ctl_restore import Run
from tests.unit.test_ctl_restore import _environment as _environment
from tests.unit.test_ctl_restore import _run as _run
from tests.unit.test_ctl_restore import _running as _running

WARNING = finding_row(name="clock", title="the clock", state="warning", message="It is wrong.", hint="Set it.")
FAILED = finding_row(name="database", title="the login", state="failed", message="Refused.", hint="Correct it.")
SKIPPED = finding_row(name="hold", title="the hold", state="skipped", message="It is off.")


def test_a_socket_that_may_not_be_looked_at_is_not_said_to_be_missing(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    ourselves = os.geteuid()
    if ourselves == 0:
        os.seteuid(65534)  # from root nothing is closed
    try:
        *_, last = findings(str(closed / "s"), Refused("socket-permission-denied", "Permission denied."))
    finally:
        os.seteuid(ourselves)
    assert (last["name"], last["hint"]) == ("socket", "Use sudo.")


@pytest.mark.parametrize(
    ("found", "status", "last"),
    [
        ([finding_row(), SKIPPED], 0, "All is well."),
        ([finding_row(), WARNING], 1, "1 warning: the hints above tell what to do."),
        ([WARNING, FAILED, FAILED], 2, "2 checks failed, 1 warning: the hints above tell what to do."),
    ],
    ids=["ok", "warning", "failed"],
)
def test_the_exit_status_is_that_of_the_worst(
    running: Running, run: Run, found: list[dict[str, str]], status: int, last: str
) -> None:
    running.service.findings = found
    said = run("doctor")
    assert (said.status, said.out.splitlines()[-1]) == (status, last)
    told = run("doctor", "--json")
    assert told.status == status
    assert told.json == {"state": ["ok", "warning", "failed"][status], "findings": found}


def test_each_check_is_a_line_with_its_hint_below(running: Running, run: Run) -> None:
    running.service.findings = [finding_row(), FAILED]
    assert run("doctor").out.startswith(
        "ok       the engine: Docker 27.1.\nfailed   the login: Refused.\n           hint: Correct it.\n\n"
    )


def test_no_line_is_wider_than_the_terminal() -> None:
    screen = Screen(datetime.now(UTC), 40, lambda text, _: text)
    long = finding_row(state="warning", message="word " * 40, hint="hint " * 40)
    assert max(map(len, render_doctor.finding(long, screen).splitlines())) <= 40


def test_what_a_finding_holds_moves_no_cursor() -> None:
    screen = Screen(datetime.now(UTC), 80, lambda text, _: text)
    evil = "\x1b[2Jevil\u202e"
    shown = render_doctor.finding(finding_row(title=evil, state=evil, message=evil, hint=evil), screen)
    assert "evil" in shown
    assert shown.replace("\n", "").isprintable()


def test_a_reply_that_was_not_agreed_on_can_not_be_told(running: Running, run: Run) -> None:
    running.service.findings = [{"state": "ok"}]
    assert run("doctor").status == 3


def test_without_a_daemon_it_tells_why_and_ends_with_5(run: Run) -> None:
    said = run("doctor")
    assert said.status == 5
    assert "failed   the daemon: The daemon is not running" in said.out
    assert "failed   the control socket:" in said.out
    told = run("doctor", "--json")
    assert (told.status, told.json["state"], told.json["error"]["code"]) == (5, "failed", "daemon-not-running")
    assert {"daemon", "socket-unit", "service", "socket"} <= {row["name"] for row in told.json["findings"]}


def test_somebody_who_may_not_ask_gets_3_and_the_reason(running: Running, run: Run) -> None:
    running.service.error = Refused("not-permitted", "You may not.", hint="Join.")
    said = run("doctor")
    assert said.status == 3
    assert "failed   the daemon: You may not.\n           hint: Join." in said.out


# Why it doesn't answer


def unit(**changes: str) -> dict[str, str]:
    told = {"LoadState": "loaded", "ActiveState": "inactive", "SubState": "dead", "Result": "success"}
    return {**told, "UnitFileState": "enabled", **changes}


@pytest.mark.parametrize(
    ("told", "state", "words"),
    [
        ({}, "skipped", "systemctl doesn't tell"),
        (unit(LoadState="not-found"), "failed", "isn't installed"),
        (unit(ActiveState="active", SubState="running"), "ok", "is active (running)"),
        (unit(ActiveState="activating", SubState="auto-restart"), "warning", "activating"),
        (unit(ActiveState="failed", SubState="failed", Result="exit-code"), "failed", "exit-code"),
        (unit(UnitFileState="disabled"), "failed", "not enabled"),
        (unit(), "failed", "is inactive (dead)."),
    ],
)
def test_a_unit_is_judged_by_what_systemd_says_of_it(told: dict[str, str], state: str, words: str) -> None:
    found, message, hint = judge_unit("arcbackupd.service", told)
    assert (found, words in message) == (state, True)
    assert bool(hint) == (state in ("warning", "failed"))


def socket_of(mode: int, group: int) -> os.stat_result:
    return os.stat_result((stat.S_IFSOCK | mode, 0, 0, 1, 0, group, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("found", "user", "groups", "state", "words"),
    [
        (socket_of(0o600, 0), 0, {0}, "ok", "You may open"),
        (socket_of(0o660, 4242), 1000, {4242}, "ok", "You may open"),
        (socket_of(0o600, 0), 1000, {1000}, "failed", "Only root may open"),
        (socket_of(0o660, 4242), 1000, {1000}, "failed", "which you are not in"),
    ],
)
def test_access_to_the_socket_is_judged_by_its_mode_and_the_callers_groups(
    found: os.stat_result, user: int, groups: set[int], state: str, words: str
) -> None:
    told, message, hint = judge_access("/run/s", found, user, groups)
    assert (told, words in message) == (state, True)
    assert bool(hint) == (state == "failed")


def test_a_login_from_before_the_membership_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    group = type("", (), {"__getitem__": lambda _, part: ("arcbackup", "x", 4242, ["ada"])[part]})()
    monkeypatch.setattr("grp.getgrgid", lambda _: group)
    monkeypatch.setattr("pwd.getpwuid", lambda _: type("", (), {"pw_name": "ada"}))
    state, message, hint = judge_access("/run/s", socket_of(0o660, 4242), 1000, {1000})
    assert (state, hint) == ("failed", "Log out and in again.")
    assert "this login is from before that" in message
