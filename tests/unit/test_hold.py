"""Holds: begun at once or not at all, ended once, and never left on; on a file that stands for the kernel's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from arcbackupd.errors import OperationFailed
from arcbackupd.operations import holder as holder_module
from arcbackupd.operations.hold import let_go_of_leftover
from arcbackupd.operations.holder import Holder
from arcbackupd.settings import Boot
from arcbackupd.stack import ContainerRun, Engine, HealthCheck
from arcbackupd.stack.freezer import Freezer
from arcbackupd.stack.standby import Guard
from tests.harness.process import wait_until

ID, OTHER = "a" * 64, "b" * 64
LONG = 60.0


class OneBackend:
    """An engine whose backend has such a health check."""

    def __init__(self, health: HealthCheck | None = None) -> None:
        self.health = health

    def backend_run(self) -> ContainerRun:
        return ContainerRun("identity", "image", ID, health=self.health)


@pytest.fixture
def freezer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Freezer:
    """The freezer that every container here has."""
    found = Freezer(tmp_path / "freezer.state")
    found.file.write_text("THAWED")
    monkeypatch.setattr(holder_module, "find_freezer", lambda *_: found)
    return found


Make = Callable[..., Holder]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """What makes a holder with such settings."""

    def holder(health: HealthCheck | None = None, **settings: Any) -> Holder:
        engine = cast("Engine", cast("Any", OneBackend(health)))
        return Holder(engine, Boot.model_validate(settings), tmp_path)

    return holder


def now() -> datetime:
    return datetime.now(UTC)


def noted(tmp_path: Path) -> bool:
    return (tmp_path / "hold.json").exists()


def test_a_start_is_frozen_and_noted_until_it_is_released(make: Make, freezer: Freezer, tmp_path: Path) -> None:
    holder, started = make(), now()
    holder.seize(ID, started)
    held = holder.hold_of(ID, started)
    assert held
    assert held.is_on
    assert (holder.is_holding, freezer.is_frozen(), noted(tmp_path)) == (True, True, True)
    holder.release("tested")
    holder.release("tested twice")
    assert (holder.is_holding, freezer.is_frozen(), noted(tmp_path)) == (False, False, False)
    assert not held.is_on
    assert holder.hold_of(ID, started) is None


def test_a_later_start_of_the_same_container_is_another_hold(make: Make, freezer: Freezer) -> None:
    holder = make()
    holder.seize(ID, now())
    first = holder.hold_of(ID, None)
    later = now() + timedelta(milliseconds=1)
    assert holder.hold_of(ID, later) is None
    assert holder.hold_of(ID, later - timedelta(minutes=1)) is None
    assert holder.hold_of(OTHER, None) is None
    holder.seize(ID, later)
    assert first
    assert not first.lasts
    assert freezer.is_frozen()
    holder.release("tested")


def test_the_same_start_told_twice_is_one_hold(make: Make, freezer: Freezer) -> None:
    holder, started = make(), now()
    holder.seize(ID, started)
    first = holder.hold_of(ID, started)
    holder.seize(ID, started)
    assert holder.hold_of(ID, started) is first
    holder.release("tested")
    assert not freezer.is_frozen()


def test_what_is_being_stopped_is_let_go_and_not_held_again(make: Make, freezer: Freezer) -> None:
    holder, started = make(), now()
    holder.seize(ID, started)
    holder.stopping(OTHER)
    assert freezer.is_frozen()
    holder.seize(ID, started)
    holder.stopping(ID)
    assert not freezer.is_frozen()
    holder.seize(ID, started)
    assert not freezer.is_frozen()
    holder.seize(ID, now())
    assert freezer.is_frozen()
    holder.release("tested")


@pytest.mark.parametrize(("settings", "age"), [({"hold": False}, 0), ({}, 2.1)])
def test_a_start_is_not_held_when_it_is_off_or_too_late(
    make: Make, freezer: Freezer, settings: dict[str, Any], age: float
) -> None:
    holder = make(**settings)
    holder.seize(ID, now() - timedelta(seconds=age))
    assert not freezer.is_frozen()
    assert not holder.is_holding


def test_what_the_kernel_refuses_is_told_and_leaves_nothing(
    make: Make, freezer: Freezer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    freezer.file.unlink()
    freezer.file.mkdir()  # the one refusal that root meets too
    holder, started = make(), now()
    holder.seize(ID, started)
    assert (holder.is_holding, noted(tmp_path)) == (False, False)
    run = ContainerRun("identity", "image", ID, started)
    assert holder.why_not(run).startswith("The backend could not be held: ")
    assert "could not be held" in capsys.readouterr().out


def test_a_hold_ends_after_max_hold(make: Make, freezer: Freezer, tmp_path: Path) -> None:
    holder = make(max_hold="100ms")
    holder.seize(ID, now())
    wait_until(lambda: not holder.is_holding and not noted(tmp_path), "the end of the hold", seconds=LONG)
    assert not freezer.is_frozen()


def test_a_hold_ends_after_half_of_what_the_health_check_allows(make: Make, freezer: Freezer) -> None:
    strict = HealthCheck(timedelta(milliseconds=100), timedelta(milliseconds=50), 3)
    holder = make(strict, max_hold="1h")
    holder.seize(ID, now())
    wait_until(lambda: not freezer.is_frozen(), "the end of the hold", seconds=LONG)
    assert not holder.is_holding


def test_the_end_of_an_earlier_run_that_is_told_late_lets_nothing_go(make: Make, freezer: Freezer) -> None:
    holder, ended, started = make(), now(), now()
    holder.seize(ID, started)
    holder.stopping(ID, ended)
    assert freezer.is_frozen()
    holder.release("tested")
    holder.stopping(ID, ended)
    holder.seize(ID, now())
    assert freezer.is_frozen()
    holder.release("tested")


def test_a_reload_takes_the_hold_over(make: Make, freezer: Freezer) -> None:
    before, after = make(), make()
    before.seize(ID, now())
    after.succeed(before)
    after.stopping(ID)
    assert not freezer.is_frozen()


def test_whoever_finds_the_note_can_let_go(make: Make, freezer: Freezer, tmp_path: Path) -> None:
    holder = make()
    holder.seize(ID, now())
    assert let_go_of_leftover(tmp_path) is True
    assert not freezer.is_frozen()
    assert let_go_of_leftover(tmp_path) is False
    holder.release("tested")


def test_a_note_that_tells_nothing_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "hold.json").write_text("{")
    with pytest.raises(OperationFailed) as raised:
        let_go_of_leftover(tmp_path)
    assert raised.value.code == "hold-unknown"
    assert "FROZEN" in raised.value.hint


# The guard


def test_a_guard_lets_go_when_it_is_dismissed(freezer: Freezer) -> None:
    guard = Guard(freezer, 600)
    freezer.freeze()
    guard.dismiss()
    assert not freezer.is_frozen()


def test_a_guard_lets_go_when_its_time_is_up(freezer: Freezer) -> None:
    freezer.freeze()
    guard = Guard(freezer, 1)
    wait_until(lambda: not freezer.is_frozen(), "the guard", seconds=LONG)
    guard.dismiss()


def test_a_guard_lets_go_when_the_daemon_is_killed(freezer: Freezer) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from arcbackupd.stack.freezer import Freezer; from arcbackupd.stack.standby import Guard\n"
        "freezer = Freezer(Path(sys.argv[1])); Guard(freezer, 600); freezer.freeze()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(freezer.file)], timeout=LONG)
    assert done.returncode < 0
    wait_until(lambda: freezer.file.read_text().strip() == "THAWED", "the guard", seconds=LONG)
