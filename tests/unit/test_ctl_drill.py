"""``arcbackupctl verify``, and drills in what the client shows."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.ctl import main as ctl
from arcbackupd.ctl import render, render_drill, render_status
from arcbackupd.ctl.render import Screen
from arcbackupd.errors import OperationFailed
from tests.unit.control_service import (
    RESTORE,
    Running,
    SmallService,
    backup_row,
    drill,
    inspection_row,
    serving,
    status_reply,
)
from tests.unit.test_ctl_main import on_terminal

SCREEN = Screen(datetime(2026, 1, 2, 14, 30, tzinfo=UTC), 200, lambda text, _: text)
FAILED = drill(
    outcome="failed", problem="table \x1b[31mt has 2 rows", code="rows-differ", hint="Another one.", load_s=None
)


@pytest.fixture(autouse=True)
def _socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCBACKUPD_SOCKET", str(tmp_path / "s"))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with serving(tmp_path / "s") as running:
        yield running


def test_verify_shows_its_steps_and_says_how_long_it_took(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ctl.main(["verify", "latest"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("Loading it\n")
    assert (
        f"{backup_row()['name']} is proved restorable in 34 s (10.0 MB of SQL, loaded in 31 s), beside the live"
        in out
    )


class Long(SmallService):
    """A drill that goes on until somebody ends it."""

    async def verify(self, call: Any) -> Any:
        await super().verify(call)
        assert self.hold
        await asyncio.to_thread(self.hold.wait)
        raise OperationFailed("cancelled", "It was abandoned because root asked for it; nothing was left behind.")


def test_ctrl_c_has_the_daemon_end_the_drill_and_waits_for_that(tmp_path: Path) -> None:
    service = Long(hold=threading.Event())
    with serving(tmp_path / "s", service), on_terminal("verify", "latest") as terminal:
        terminal.read_until("Loading it")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 1
    assert service.cancelled == ["op-9"]
    assert "Ctrl-C ends it and removes what it made; twice leaves it running." in terminal.text
    assert "The daemon was told to end it; waiting for that." in terminal.text
    assert "nothing was left behind" in " ".join(terminal.text.split())


def test_a_second_ctrl_c_only_leaves_the_drill(tmp_path: Path) -> None:
    class Stubborn(Long):
        async def cancel(self, call: Any) -> Any:
            self.cancelled.append(call.parameters.operation)
            return {"operation": RESTORE}

    with serving(tmp_path / "s", Stubborn(hold=threading.Event())), on_terminal("verify", "latest") as terminal:
        terminal.read_until("Loading it")
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("waiting for that")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert "The daemon goes on without being watched. To see it: arcbackupctl status" in terminal.text


def test_verify_prints_the_drill_as_json_and_ends_with_1_unless_it_is_proved(
    running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    for outcome, status in (("proved", 0), ("failed", 1), ("error", 1)):
        running.service.drilled = drill(outcome=outcome)
        assert ctl.main(["verify", "1", "--json"]) == status
        assert json.loads(capfd.readouterr().out) == drill(outcome=outcome)


def test_a_failed_drill_tells_why_and_what_to_do_and_nothing_in_it_reaches_the_terminal() -> None:
    text = render_drill.verified(FAILED, SCREEN)
    assert "failed its restore drill, beside the live database: table \\x1b[31mt has 2 rows" in text
    assert "hint: Another one." in text
    assert "could not be drilled, in a throwaway container" in render_drill.verified(
        FAILED | {"outcome": "error", "place": "container"}, SCREEN
    )


def test_list_inspect_and_status_tell_what_is_proved() -> None:
    rows = [backup_row(proved_at="2026-01-02T12:30:00+00:00", proved_in_s=34.2), backup_row(2)]
    first, second = render.backups({"backups": rows, "notice": None, "directory": "/"}, SCREEN).splitlines()[1:]
    assert "proved restorable" in first
    assert "proved" not in second
    shown = render.inspection({"backup": inspection_row(drill=drill()), "verified": None}, SCREEN)
    assert "proved restorable 2026-01-02 12:30:00 UTC (2 h ago), in 34 s" in shown
    failed = render.inspection({"backup": inspection_row(drill=FAILED), "verified": None}, SCREEN)
    assert "failed 2026-01-02 12:30:00 UTC (2 h ago): table \\x1b[31mt" in failed
    status = render_status.status(status_reply(drills={"last": FAILED, "proved": drill()}), SCREEN)
    assert "2 h ago, in 34 s (of which a restore takes 31 s to load)" in status
    assert "Proved" not in render_status.status(status_reply(), SCREEN)
