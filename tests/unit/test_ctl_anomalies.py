"""arcbackupctl accept, and flagged backups in list, inspect and prune."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from arcbackupd.control.interface import AcceptParameters
from arcbackupd.ctl import render
from arcbackupd.ctl.render import Screen
from tests.unit.control_service import Running, backup_row, inspection_row
from tests.unit.test_ctl_main import on_terminal
from tests.unit.test_ctl_restore import Run
from tests.unit.test_ctl_restore import _environment as _environment
from tests.unit.test_ctl_restore import _run as _run
from tests.unit.test_ctl_restore import _running as _running

NAME = backup_row(1)["name"]
LOSS = "public.observations has 12 rows, after 1,260,112 in the backup before"


@pytest.fixture(name="flagged", autouse=True)
def _flagged(running: Running) -> None:
    running.service.inspected = inspection_row(name=NAME, anomalies=[LOSS])


def accepted(running: Running) -> list[str]:
    """Names that were accepted."""
    calls = (call.parameters for call in running.service.calls)
    return [parameters.name for parameters in calls if isinstance(parameters, AcceptParameters)]


def colored(text: str, color: str | None) -> str:
    return f"<{color}>{text}" if color else text


SCREEN = Screen(datetime(2026, 1, 2, 13, 31, tzinfo=UTC), 120, colored)


def test_accept_with_yes_takes_the_whole_name_only(running: Running, run: Run) -> None:
    said = run("accept", "latest", "--yes")
    assert (said.status, accepted(running)) == (2, [])
    assert f"arcbackupctl accept {NAME} --yes" in said.err
    said = run("accept", NAME, "--yes", "--json")
    assert (said.status, said.json) == (0, {"name": NAME, "accepted": [LOSS]})
    assert accepted(running) == [NAME]


def test_accept_without_a_terminal_needs_a_yes(running: Running, run: Run) -> None:
    assert run("accept", NAME).status == 4
    assert run("accept", NAME, "--json").json["error"]["code"] == "confirmation-needed"
    assert accepted(running) == []


@pytest.mark.parametrize(("answer", "status", "names"), [("y\n", 0, [NAME]), ("n\n", 4, []), ("\n", 4, [])])
def test_accept_shows_what_is_missing_and_asks(
    running: Running, answer: str, status: int, names: list[str]
) -> None:
    with on_terminal("accept", "latest") as terminal:
        terminal.read_until("Is that as it should be? [y/N]")
        assert NAME in terminal.text
        assert LOSS in " ".join(terminal.text.split())
        terminal.type(answer)
        assert terminal.end() == status
    assert accepted(running) == names


def test_what_is_not_flagged_is_not_accepted(running: Running, run: Run) -> None:
    running.service.inspected = inspection_row(name=NAME)
    said = run("accept", NAME, "--yes", "--json")
    assert (said.status, said.json["error"]["code"], accepted(running)) == (4, "not-flagged", [])


def test_a_flagged_backup_says_so_beside_its_badge_in_a_colour_that_shows() -> None:
    row = backup_row(anomalies=[LOSS])
    assert render.badge(row) == "compatible, flagged"
    assert render.badge_color(row) == "yellow"
    assert render.badge_color(backup_row(anomalies=[LOSS], status="incompatible")) == "red"
    assert "<yellow>compatible, flagged" in render.backups({"backups": [row], "notice": None}, SCREEN)


def test_inspect_tells_each_anomaly_and_nothing_in_it_moves_the_cursor() -> None:
    row = inspection_row(anomalies=[LOSS, 'the table public."\x1b[2Jt" is gone, which had 3 rows'])
    text = render.inspection({"backup": row, "verified": None}, SCREEN)
    assert f"  ! {LOSS}\n" in text
    assert "\x1b" not in text
    assert "Flagged" not in render.inspection({"backup": inspection_row(), "verified": None}, SCREEN)


def test_a_daemon_that_knows_of_no_anomalies_is_understood() -> None:
    row: dict[str, Any] = inspection_row()
    del row["anomalies"]
    assert "compatible" in render.inspection({"backup": row, "verified": None}, SCREEN)


def test_prune_tells_why_older_ones_stay() -> None:
    reply: dict[str, Any] = {
        "verdicts": [],
        "frozen": None,
        "held": "The newest is flagged.",
        "freed": 0,
        "removed": [],
    }
    assert "The newest is flagged." in render.plan(reply, SCREEN)
    assert render.plan({**reply, "frozen": "Frozen."}, SCREEN).count("flagged") == 0
