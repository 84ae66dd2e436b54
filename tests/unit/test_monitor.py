"""The monitor: when it looks, what it does with a look that hangs or fails, and that the alarms hear of it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arcbackupd.monitoring import monitor as module
from arcbackupd.monitoring.monitor import Monitor
from arcbackupd.monitoring.parts import Parts
from arcbackupd.operations.health import Problem, Severity
from arcbackupd.scheduling import ClockWatch
from tests.unit.test_metrics import SNAPSHOT

PROBLEM = Problem("last-good-old", "It is old.", "Take one.", Severity.WARNING)


class Stage:
    """A monitor whose looks are what a test says, and the problems that the alarms were told."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.textfile = tmp_path / "arcbackupd.prom"
        self.told: list[list[str]] = []
        self.look: Callable[[], Sequence[Problem]] = list
        self.dumping = False
        self.news = asyncio.Event()
        settings = SimpleNamespace(metrics=SimpleNamespace(textfile=self.textfile))
        alarms = SimpleNamespace(consider=self._consider)
        self._parts = cast("Parts", cast("Any", SimpleNamespace(settings=settings, alarms=alarms)))
        monkeypatch.setattr(module, "gather", self._gather)
        monkeypatch.setattr(module, "_FIRST_SECONDS", 0.01)
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.05)
        monkeypatch.setattr(module, "_HANGS_SECONDS", 0.05)
        clock = cast("ClockWatch", None)
        self.monitor = Monitor(clock, lambda: self._parts, lambda: self.dumping)

    def _gather(self, _parts: Parts, _clock: object, _started: datetime, found: Sequence[Problem]) -> Any:
        problems = [*found, *self.look()]
        return SimpleNamespace(**{**vars(SNAPSHOT), "problems": problems})

    def _consider(self, problems: Sequence[Problem], now: datetime) -> None:
        assert abs((datetime.now(UTC) - now).total_seconds()) < 60
        self.told.append([problem.code for problem in problems])
        self.news.set()

    async def until(self, said: Callable[[list[str]], bool]) -> None:
        """Wait until the alarms are told what ``said`` is true of."""
        async with asyncio.timeout(30):
            while not (self.told and said(self.told[-1])):
                self.news.clear()
                await self.news.wait()

    def run(self, script: Callable[[], Any]) -> None:
        async def main() -> None:
            running = asyncio.create_task(self.monitor.run())
            try:
                await script()
            finally:
                running.cancel()

        asyncio.run(main())


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def test_what_is_wrong_is_noticed_while_nothing_happens_and_the_metrics_are_there(stage: Stage) -> None:
    async def script() -> None:
        await stage.until(lambda codes: codes == [])
        stage.look = lambda: [PROBLEM]
        await stage.until(lambda codes: codes == ["last-good-old"])

    stage.run(script)
    assert "arcbackupd_metrics_timestamp_seconds" in stage.textfile.read_text()


def test_the_metrics_are_replaced_whole_without_waiting_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: pytest.fail("the disk was waited for"))
    path = tmp_path / "arcbackupd.prom"
    path.write_text("old")
    with path.open() as reader:
        assert module.write_textfile(path, "new") is None
        assert (reader.read(), path.read_text()) == ("old", "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_look_that_hangs_is_told_with_what_was_known_before_and_is_not_begun_twice(stage: Stage) -> None:
    hang, begun = threading.Event(), []

    def hangs() -> Sequence[Problem]:
        begun.append(1)
        hang.wait(30)
        return []

    async def script() -> None:
        stage.look = lambda: [PROBLEM]
        await stage.until(lambda codes: codes == ["last-good-old"])
        stage.look = hangs
        await stage.until(lambda codes: codes == ["look-hangs", "last-good-old"])
        before = len(stage.told)
        await stage.until(lambda _codes: len(stage.told) > before + 2)
        assert len(begun) == 1
        hang.set()
        await stage.until(lambda codes: codes == [])

    stage.run(script)


def test_a_look_that_hangs_does_not_keep_the_daemon_from_ending(stage: Stage) -> None:
    hang = threading.Event()
    stage.look = lambda: [PROBLEM] if hang.wait(60) else []
    began = time.monotonic()
    stage.run(lambda: stage.until(lambda codes: codes == ["look-hangs"]))
    assert time.monotonic() - began < 30
    hang.set()


def test_a_look_that_fails_is_told_and_the_next_one_is_tried(stage: Stage) -> None:
    def fails() -> Sequence[Problem]:
        raise RuntimeError("nobody foresaw it")

    async def script() -> None:
        stage.look = fails
        await stage.until(lambda codes: codes == ["look-failed"])
        stage.look = list
        await stage.until(lambda codes: codes == [])

    stage.run(script)


def test_metrics_that_cannot_be_written_are_a_problem_until_they_can(stage: Stage) -> None:
    async def script() -> None:
        stage.textfile.mkdir()
        await stage.until(lambda codes: codes == ["metrics-not-written"])
        stage.textfile.rmdir()
        await stage.until(lambda codes: codes == [])

    stage.run(script)


def test_soon_after_the_start_nothing_is_told_while_a_dump_makes_up_for_what_was_missed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script() -> None:
        stage.dumping = True
        await asyncio.sleep(0.3)  # some looks' time: that nothing comes has no event
        assert stage.told == []
        monkeypatch.setattr(module, "_SETTLED_SECONDS", 0.0)
        await stage.until(lambda codes: codes == [])

    stage.run(script)


def test_alarms_that_cannot_be_told_once_are_told_with_the_next_look(stage: Stage) -> None:
    tell, fails = stage._consider, [RuntimeError("can't start new thread")]

    def consider(problems: Sequence[Problem], now: datetime) -> None:
        if fails:
            raise fails.pop()
        tell(problems, now)

    stage.monitor._parts().alarms.consider = consider  # type: ignore[method-assign]

    async def script() -> None:
        await stage.until(lambda codes: codes == [])

    stage.run(script)
    assert not fails


def test_a_look_for_which_the_host_has_no_thread_is_told_as_one_that_failed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "look":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def script() -> None:
        await stage.until(lambda codes: codes == ["look-failed"])
        monkeypatch.undo()

    stage.run(script)


def test_after_a_suspend_the_scheduler_goes_first(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = 0.0
    monkeypatch.setattr(module, "_seconds_asleep", lambda: asleep)
    monkeypatch.setattr(module, "_AWAKE_SECONDS", 0.3)

    async def script() -> None:
        nonlocal asleep
        await stage.until(lambda codes: codes == [])
        stage.look, stage.dumping = (lambda: [PROBLEM]), True
        stage.monitor._started -= 1000.0  # it has been here for long
        await stage.until(lambda codes: codes == ["last-good-old"])
        stage.look, asleep = list, 8 * 3600.0
        before = len(stage.told)
        await asyncio.sleep(1)
        assert len(stage.told) <= before + 1  # one look may have been on its way
        stage.dumping = False
        await stage.until(lambda codes: codes == [])

    stage.run(script)


@pytest.mark.parametrize("ticks", range(5))
def test_it_ends_though_it_is_woken_at_the_same_moment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, ticks: int
) -> None:
    monkeypatch.setattr(module, "_FIRST_SECONDS", 100.0)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 100.0)

    async def main() -> None:
        running = asyncio.create_task(stage.monitor.run())
        await asyncio.sleep(0)  # in its first step it comes to where it waits
        stage.monitor.wake()
        for _ in range(ticks):
            await asyncio.sleep(0)
        running.cancel()
        _, pending = await asyncio.wait([running], timeout=2)
        running.cancel()
        assert not pending

    asyncio.run(main())
