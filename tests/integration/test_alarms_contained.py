"""An alarm that is no good at all hurts nothing: no job's run, no look at the whole, no start of the daemon."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from pydantic import field_validator

from arcbackupd.alarms import (
    AlarmError,
    AlarmSettings,
    JobAlarm,
    JobEnded,
    StateAlarm,
    StateAlarmSettings,
    alarms,
    courier,
)
from arcbackupd.alarms.alarms import Alarms
from arcbackupd.alarms.courier import Courier
from arcbackupd.alarms.memory import AlarmMemory
from arcbackupd.alarms.plugins import GROUP, FailedAlarm, LoadedAlarm, load_alarms
from arcbackupd.operations.health import Problem, Severity
from arcbackupd.settings import Settings
from tests.harness.process import wait_until

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLD = Problem("last-good-old", "The newest good backup is 7.0 hours old.", "Take one.", Severity.CRITICAL)
DONE = JobEnded("dump", "1", NOW, "", None)


class Lamp(StateAlarm[Any]):
    """A sound one, which keeps what it is told."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told = threading.Event()
        self.raises: BaseException | None = None

    def tell(self, _news: object) -> None:
        if self.raises:
            raise self.raises
        self.told.set()

    def test(self) -> None:
        """Nothing to test."""


class Forgetful(Lamp):
    def __init__(self, *_arguments: Any) -> None:
        """Without what `Alarm` keeps."""


class Bell(JobAlarm[Any]):
    """One for jobs, with the settings of none."""

    Settings = AlarmSettings

    def began(self, _signal: object) -> None:
        """Nothing to do."""

    def ended(self, _signal: object) -> None:
        """Nothing to do."""

    def test(self) -> None:
        """Nothing to test."""


class TornSettings(StateAlarmSettings):
    pin: int

    @field_validator("pin")
    @classmethod
    def _torn(cls, _value: int) -> int:
        raise KeyError("pin")


class TornLamp(Lamp):
    Settings = TornSettings


def load(name: str, **own: Any) -> LoadedAlarm | FailedAlarm:
    found = [EntryPoint("type", f"{__name__}:{name}", GROUP)]
    return load_alarms({"night": ("type", own)}, "dome", found=found)["night"]


@pytest.mark.parametrize(("name", "own"), [("Forgetful", {}), ("Bell", {}), ("TornLamp", {"pin": 1})])
def test_a_plugin_that_lacks_what_its_callers_rely_on_is_one_that_cannot_be_used(
    name: str, own: dict[str, Any]
) -> None:
    failed = load(name, **own)
    assert isinstance(failed, FailedAlarm)
    assert failed.problem.startswith("it can't be set up: ")
    assert failed.hint


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_an_alarm_that_raises_what_no_exception_is_goes_on_telling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    monkeypatch.setattr(courier, "_QUIET_SECONDS", (0.01, 0.01))
    loaded = load("Lamp")
    assert isinstance(loaded, LoadedAlarm)
    assert isinstance(loaded.alarm, Lamp)
    loaded.alarm.raises = kind("x" * 1000)
    one = Courier(loaded.alarm, AlarmMemory(tmp_path))
    one.consider([OLD], NOW)
    wait_until(lambda: one.failure, "the failure")
    assert one.failure is not None
    assert one.failure.problem.startswith(kind.__name__)
    assert len(one.failure.problem) <= 500
    loaded.alarm.raises = None

    def told() -> bool:
        one.consider([OLD], NOW)
        return one.told_at is not None

    wait_until(told, "the news")
    one.close()
    one.join(20)


def test_what_an_alarm_says_of_its_failure_is_bounded_whatever_it_is(tmp_path: Path) -> None:
    loaded = load("Lamp")
    assert isinstance(loaded, LoadedAlarm)
    assert isinstance(loaded.alarm, Lamp)
    loaded.alarm.raises = AlarmError("code" * 10**6, 7, hint="\udcff\n" * 10**6)  # type: ignore[arg-type]
    one = Courier(loaded.alarm, AlarmMemory(tmp_path))
    one.consider([OLD], NOW)
    one.close()
    one.join(20)
    assert one.failure is not None
    assert (one.failure.problem, len(one.failure.code)) == ("7", 500)
    assert AlarmMemory(tmp_path).of("night").failure == one.failure


def test_what_breaks_one_alarm_reaches_neither_who_tells_it_nor_the_other_alarms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = {"a": load("Lamp"), "b": load("Lamp")}
    monkeypatch.setattr(alarms, "load", lambda *_arguments: loaded)
    both = Alarms(Settings.model_construct(alarms={}), ["dump"], AlarmMemory(tmp_path), "dome")
    first, second = loaded["a"], loaded["b"]
    assert isinstance(first, LoadedAlarm)
    assert isinstance(second, LoadedAlarm)
    del first.alarm.settings
    both.hear(DONE)
    both.consider([OLD], NOW)
    assert isinstance(second.alarm, Lamp)
    assert second.alarm.told.wait(20)
    both.close()
    both.join(20)


def test_an_alarm_for_which_the_host_has_no_thread_is_told_so_and_delivered_when_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load("Lamp")
    assert isinstance(loaded, LoadedAlarm)
    assert isinstance(loaded.alarm, Lamp)
    one = Courier(loaded.alarm, AlarmMemory(tmp_path))

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        one.consider([OLD], NOW)
    assert one.failure is not None
    assert "can't start new thread" in one.failure.problem
    one.consider([OLD], NOW)
    assert loaded.alarm.told.wait(20)
    one.close()
    one.join(20)
