"""Jobs: loaded as plugins, run when due, on clocks that change, sleep and jump.

The scheduler under test is the real one, with APScheduler and asyncio; only time is simulated: the event loop waits
by moving its own clock, the wall's and the boot's, so that a month passes in seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import pytest
import time_machine
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from structlog.typing import EventDict

from arcbackupd.errors import OperationFailed, UsageError
from arcbackupd.jobs import Job, JobContext, JobOutcome, JobSettings, JobStatus
from arcbackupd.log import get_logger
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.drills import Drills
from arcbackupd.operations.offhost.offhost import OffHost
from arcbackupd.operations.restores import Restores
from arcbackupd.schedule import Schedule
from arcbackupd.scheduling import (
    GROUP,
    ClockReading,
    ClockWatch,
    FailedJob,
    JobHistory,
    JobRunner,
    JobState,
    LoadedJob,
    Scheduler,
    check_jobs,
    clock,
    load_jobs,
    read_clock,
)

SECOND, MINUTE, HOUR, DAY = (timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days"))
MARCH = datetime(2026, 3, 20, 6, 30, tzinfo=UTC)  # before Berlin's change, on the 29th
DUMP = EntryPoint("dump", "arcbackupd.jobs:Job", GROUP)  # stands for a built-in one


# --- A world whose time is ours ---


@dataclass
class World:
    """The clocks of a host."""

    wall: datetime
    traveller: time_machine.Traveller
    loop_seconds: float = 0.0
    """CLOCK_MONOTONIC, which stands still in suspend; asyncio's timers go by it."""
    boot_seconds: float = 1000.0
    boot_id: str = "boot-1"

    def wait(self, seconds: float) -> None:
        self.loop_seconds += seconds
        self.suspend(timedelta(seconds=seconds))

    def suspend(self, span: timedelta) -> None:
        self.boot_seconds += span.total_seconds()
        self.set_clock(span)

    def set_clock(self, by: timedelta) -> None:
        self.wall += by
        self.traveller.move_to(self.wall)

    def read(self) -> ClockReading:
        return ClockReading(self.wall, self.boot_seconds, self.boot_id)

    def live(self, main: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in an event loop of this world."""
        with asyncio.Runner(loop_factory=lambda: _Loop(self)) as runner:
            runner.run(main)


class _Selector(selectors.DefaultSelector):
    """Waits by moving the world's time, when nothing is ready."""

    world: World

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("the loop would wait for ever")
        if not ready and timeout:
            self.world.wait(timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, world: World) -> None:
        selector = _Selector()
        selector.world = world
        self._world = world
        super().__init__(selector)
        # Finer than a float can tell after a simulated year, a timer would never be reached.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._world.loop_seconds


@pytest.fixture(params=["Europe/Berlin", "America/Santiago"])
def any_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # A simulated month saves the clock's state thousands of times; only the disk would notice.
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    with time_machine.travel(MARCH, tick=False) as traveller:
        yield World(MARCH, traveller)


# --- Jobs ---


class Recorder(Job[JobSettings]):
    """Remembers when it ran."""

    name = "recorder"
    takes = timedelta(0)

    def __init__(self, settings: JobSettings, context: JobContext) -> None:
        super().__init__(settings, context)
        self.runs: list[datetime] = []
        self.parallel = 0

    async def run(self) -> JobOutcome | str | None:
        assert self.parallel == 0, "it runs in parallel with itself"
        self.parallel += 1
        self.runs.append(datetime.now(UTC))
        await asyncio.sleep(self.takes.total_seconds())
        self.parallel -= 1
        return None


class Stern(Job[JobSettings]):
    """Does what it was told."""

    does: Callable[[], Any] = staticmethod(lambda: None)

    async def run(self) -> Any:
        return self.does()


class WeatherSettings(JobSettings):
    station: str
    token: int = 0


class Weather(Job[WeatherSettings]):
    Settings = WeatherSettings
    default_schedule = "every 10m"


class BadConstructor(Job[JobSettings]):
    def __init__(self, settings: JobSettings, context: JobContext) -> None:
        raise SystemExit(3)


class BadDefault(Job[JobSettings]):
    default_schedule = "now and then"


class OtherScheduleSettings(JobSettings):
    schedule: str = "daily"  # type: ignore[assignment]  # what an author may take for the way to say it


class OtherSchedule(Job[OtherScheduleSettings]):
    Settings = OtherScheduleSettings


class NoSettings(Job[JobSettings]):
    Settings = dict  # type: ignore[assignment]


def exploding() -> None:
    raise SystemExit(3)


def context(name: str = "recorder", tmp_path: Path = Path("/nonexistent")) -> JobContext:
    no_backups = cast("Backups", None)
    no_restores = cast("Restores", None)
    off_host = cast("OffHost", None)
    drills = cast("Drills", None)
    log = get_logger().bind(job=name)
    return JobContext(no_backups, no_restores, off_host, drills, log=log, state_dir=tmp_path, host="host")


def loaded(kind: type[Job[Any]] = Recorder, *, schedule: str = "hourly", enabled: bool = True) -> LoadedJob:
    settings = JobSettings(schedule=Schedule.parse(schedule), enabled=enabled)
    name = kind.name or "stern"
    return LoadedJob(name, kind(settings, context(name)), settings, settings.schedule.on_host("host"))


def does(what: Callable[[], Any]) -> LoadedJob:
    job = loaded(Stern)
    job.job.does = what  # type: ignore[attr-defined]
    return job


@dataclass
class Daemon:
    """The wiring, as the daemon does it."""

    world: World
    state_dir: Path
    jobs: list[LoadedJob | FailedJob] = field(default_factory=list)
    heartbeat: timedelta = 5 * MINUTE

    def __post_init__(self) -> None:
        self.history = JobHistory(self.state_dir)
        self.runner = JobRunner(self.history)
        self.clock = ClockWatch(self.state_dir, self.world.read)
        self.scheduler = Scheduler(
            self.jobs, submit=self.runner.submit, history=self.history, clock=self.clock, heartbeat=self.heartbeat
        )

    async def __aenter__(self) -> Daemon:
        self.scheduler.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.scheduler.stop()
        await self.runner.stop(SECOND)

    def runs(self) -> list[datetime]:
        job = self.jobs[0]
        assert isinstance(job, LoadedJob)
        assert isinstance(job.job, Recorder)
        return job.job.runs


async def pass_time(span: timedelta) -> None:
    await asyncio.sleep(span.total_seconds())


# --- When ---


@pytest.mark.parametrize("text", ["hourly", "17 * * * *"])
def test_over_changes_of_daylight_saving_time_each_hour_has_exactly_one_run(
    any_zone: str, world: World, tmp_path: Path, text: str
) -> None:
    # Berlin changes on March 29th, Santiago on April 5th.
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded(schedule=text)], heartbeat=10 * MINUTE) as daemon:
            await pass_time(20 * DAY)
            hours = Counter(f"{run:%m-%d %H}" for run in daemon.runs())
            assert set(hours.values()) == {1}
            assert len(hours) == 20 * 24
            late = {run - world_schedule.next_after(run - HOUR) for run in daemon.runs()}
            assert max(late) < SECOND

    world_schedule = Schedule.parse(text).on_host("host")
    world.live(main())


@pytest.mark.slow
def test_a_year_on_the_real_scheduler_has_8760_hourly_runs(any_zone: str, world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded()], heartbeat=HOUR / 2) as daemon:
            await pass_time(365 * DAY)
            hours = Counter(f"{run:%Y-%m-%d %H}" for run in daemon.runs())
            assert set(hours.values()) == {1}
            assert len(hours) == 8760

    world.live(main())


def test_eight_hours_of_suspend_bring_one_catch_up_and_no_doubt(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded(schedule="0 * * * *")]) as daemon:
            await pass_time(HOUR)
            world.suspend(8 * HOUR)
            await pass_time(HOUR)
            assert len(daemon.runs()) == 3
            before, catch_up, after = daemon.runs()
            assert before == MARCH + HOUR / 2
            assert MARCH + 9 * HOUR <= catch_up <= MARCH + 9 * HOUR + daemon.heartbeat
            assert after == MARCH + 9.5 * HOUR
            assert daemon.clock.doubt() is None

    world.live(main())


@pytest.mark.parametrize("text", ["0 * * * *", "every 10s"])
def test_a_clock_set_forward_by_a_century_costs_one_run(world: World, tmp_path: Path, text: str) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded(schedule=text)]) as daemon:
            await pass_time(SECOND)
            world.set_clock(36500 * DAY)
            await pass_time(daemon.heartbeat)
            assert len(daemon.runs()) <= 1 + daemon.heartbeat / (10 * SECOND)
            assert daemon.runs()[0] > MARCH + 36500 * DAY
            doubt = daemon.clock.doubt()
            assert doubt is not None
            assert "jumped forward by 36500 days" in doubt

    world.live(main())


def test_after_a_clock_set_back_by_three_days_the_next_hour_has_its_run(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded(schedule="0 * * * *")]) as daemon:
            await pass_time(HOUR)
            world.set_clock(-3 * DAY)
            await pass_time(4 * HOUR)
            expected = [MARCH + HOUR / 2, *(MARCH - 3 * DAY + (n + 0.5) * HOUR for n in range(1, 5))]
            assert [run.replace(microsecond=0) for run in daemon.runs()] == expected
            assert "jumped backward by 3 days" in str(daemon.clock.doubt())

    world.live(main())


def test_a_jump_that_somebody_else_noticed_first_is_heeded_all_the_same(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded()]) as daemon:
            await pass_time(HOUR)
            for back in (3 * DAY, 2 * DAY):
                world.set_clock(-back)
                assert daemon.clock.doubt() is not None
                before = len(daemon.runs())
                await pass_time(4 * HOUR)
                assert len(daemon.runs()) == before + 4

    world.live(main())


def test_a_jump_forward_and_back_between_two_heartbeats_leaves_nothing_far_ahead(
    world: World, tmp_path: Path
) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded()]) as daemon:
            await pass_time(SECOND)
            world.set_clock(30 * DAY)
            daemon.scheduler.pause("recorder")
            daemon.scheduler.resume("recorder")
            daemon.clock.doubt()
            world.set_clock(-30 * DAY)
            daemon.clock.doubt()
            await pass_time(4 * HOUR)
            assert len(daemon.runs()) == 4

    world.live(main())


def test_the_clock_may_be_asked_from_many_threads_and_a_jump_is_told_once(world: World, tmp_path: Path) -> None:
    def log_slowly(_logger: object, _method: str, event: EventDict) -> EventDict:
        time.sleep(0.1)  # long enough for the others to notice the same jump, were they let in
        return event

    watch = ClockWatch(tmp_path, world.read)
    watch.observe()
    world.set_clock(DAY)
    with ThreadPoolExecutor(8) as pool, capture_logs(processors=[log_slowly]) as logs:
        doubts = list(pool.map(lambda _: watch.doubt(), range(8)))
    assert len(set(doubts)) == 1
    assert len(logs) == 1


def test_a_paused_job_stays_paused_over_a_jump(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded()]) as daemon:
            daemon.scheduler.pause("recorder")
            world.set_clock(-3 * DAY)
            await pass_time(4 * HOUR)
            world.set_clock(6 * DAY)
            await pass_time(4 * HOUR)
            assert not daemon.runs()

    world.live(main())


def test_a_clock_corrected_by_seconds_around_a_run_neither_repeats_nor_loses_it(
    world: World, tmp_path: Path
) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded(schedule="0 * * * *")], heartbeat=SECOND) as daemon:
            for correction in (2 * SECOND, -2 * SECOND, 30 * SECOND, -30 * SECOND):
                until = daemon.scheduler.states()[0].next_run
                assert until is not None
                await pass_time(until - world.wall + SECOND / 2)
                world.set_clock(correction)
                await pass_time(HOUR / 2)
            assert len(daemon.runs()) == 4
            assert daemon.clock.doubt() is None

    world.live(main())


def test_a_run_longer_than_its_period_is_followed_by_one_and_never_overlaps(world: World, tmp_path: Path) -> None:
    job = loaded(schedule="every 1h")
    job.job.takes = 3.5 * HOUR  # type: ignore[attr-defined]

    async def main() -> None:
        async with Daemon(world, tmp_path, [job]) as daemon:
            await pass_time(8 * HOUR)
            first = MARCH + HOUR / 2
            assert daemon.runs() == [first, first + 3.5 * HOUR, first + 7 * HOUR]

    world.live(main())


def test_disabled_jobs_run_by_hand_only(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded(enabled=False)]) as daemon:
            await pass_time(3 * HOUR)
            assert not daemon.runs()
            assert not daemon.scheduler.catch_up(MARCH + 3 * DAY)
            await daemon.scheduler.run_now("recorder")
            assert len(daemon.runs()) == 1
            assert daemon.scheduler.states()[0].next_run is None

    world.live(main())


# --- jobs list, run, pause, resume ---


def test_a_job_shows_its_next_and_its_last_run(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded(schedule="0 * * * *")]) as daemon:
            half_past_seven = MARCH + HOUR
            assert daemon.scheduler.states() == [
                JobState("recorder", "0 * * * *", enabled=True, next_run=MARCH + HOUR / 2)
            ]
            await pass_time(HOUR)
            state = daemon.scheduler.states()[0]
            assert state.next_run == half_past_seven + HOUR / 2
            assert state.last_run is not None
            assert (state.last_run.started_at, state.last_run.status) == (MARCH + HOUR / 2, JobStatus.DONE)
            shown = json.loads(json.dumps(state.as_dict()))
            assert shown["next_run"] == "2026-03-20T08:00:00+00:00"
            assert shown["last_run"]["status"] == "done"

    world.live(main())


def test_a_job_that_runs_is_shown_as_running_and_giving_up_the_wait_does_not_touch_it(
    world: World, tmp_path: Path
) -> None:
    job = loaded()
    job.job.takes = MINUTE  # type: ignore[attr-defined]

    async def main() -> None:
        async with Daemon(world, tmp_path, [job]) as daemon:
            waiting = asyncio.ensure_future(daemon.scheduler.run_now("recorder"))
            await pass_time(SECOND)
            assert daemon.scheduler.states()[0].running
            waiting.cancel()
            await pass_time(MINUTE)
            state = daemon.scheduler.states()[0]
            assert not state.running
            assert state.last_run is not None
            assert state.last_run.status is JobStatus.DONE

    world.live(main())


def test_a_pause_survives_a_restart_and_resume_takes_up_the_schedule(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded()]) as daemon:
            daemon.scheduler.pause("recorder")
            await pass_time(3 * HOUR)
            assert not daemon.runs()
        async with Daemon(world, tmp_path, [loaded()]) as daemon:
            await pass_time(3 * HOUR)
            assert not daemon.runs()
            assert not daemon.scheduler.catch_up()
            state = daemon.scheduler.states()[0]
            assert (state.paused, state.next_run) == (True, None)
            daemon.scheduler.resume("recorder")
            await pass_time(3 * HOUR)
            assert len(daemon.runs()) == 3
        async with Daemon(world, tmp_path, [loaded()]) as daemon:
            assert not daemon.scheduler.states()[0].paused

    world.live(main())


def test_a_pause_before_the_start_and_one_said_twice_are_fine(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        daemon = Daemon(world, tmp_path, [loaded()])
        daemon.scheduler.pause("recorder")
        assert daemon.scheduler.states()[0].paused
        async with daemon:
            daemon.scheduler.pause("recorder")
            daemon.scheduler.resume("recorder")
            daemon.scheduler.resume("recorder")
            await pass_time(HOUR)
            assert len(daemon.runs()) == 1

    world.live(main())


def test_an_unknown_job_is_named_with_the_known_ones_and_a_failed_one_with_its_problem(
    world: World, tmp_path: Path
) -> None:
    scheduler = Daemon(world, tmp_path, [loaded(), FailedJob("weather", "it broke", "Mend it.")]).scheduler
    with pytest.raises(UsageError, match="no job nap") as unknown:
        scheduler.run_now("nap")
    assert "recorder" in unknown.value.hint
    with pytest.raises(OperationFailed, match="it broke"):
        scheduler.pause("weather")
    assert [state.problem for state in scheduler.states()] == [None, "it broke"]


def test_after_downtime_only_what_missed_a_run_is_caught_up(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        async with Daemon(world, tmp_path, [loaded(schedule="daily")]) as daemon:
            assert daemon.scheduler.catch_up() == []  # first seen now
        world.suspend(20 * HOUR)
        async with Daemon(world, tmp_path, [loaded(schedule="daily")]) as daemon:
            assert daemon.scheduler.catch_up() == []
        world.suspend(5 * HOUR)
        async with Daemon(world, tmp_path, [loaded(schedule="daily")]) as daemon:
            assert daemon.scheduler.catch_up() == ["recorder"]
            await pass_time(SECOND)
            assert len(daemon.runs()) == 1
        async with Daemon(world, tmp_path, [loaded(schedule="daily")]) as daemon:
            assert daemon.scheduler.catch_up() == []

    world.live(main())


def test_a_job_may_say_itself_when_its_work_was_last_done(world: World, tmp_path: Path) -> None:
    class Never(Recorder):
        def last_good(self, recorded: datetime) -> None:
            return None

    class Broken(Recorder):
        def last_good(self, recorded: datetime) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        async with Daemon(world, tmp_path / "1", [loaded(Never)]) as daemon:
            assert daemon.scheduler.catch_up() == ["recorder"]
        async with Daemon(world, tmp_path / "2", [loaded(Broken)]) as daemon:
            assert daemon.scheduler.catch_up() == []

    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    world.live(main())


# --- Running ---


def run_once(world: World, tmp_path: Path, job: LoadedJob) -> tuple[JobState, list[Any]]:
    states: list[JobState] = []

    async def main() -> None:
        async with Daemon(world, tmp_path, [job]) as daemon:
            await daemon.scheduler.run_now(job.name)
            states.extend(daemon.scheduler.states())

    with capture_logs(processors=[merge_contextvars]) as logs:
        world.live(main())
    return states[0], [entry for entry in logs if entry.get("job") == job.name]


def raising(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no\nsuch thing"), "ValueError: no such thing"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError(), "it cancelled itself"),
        (StopIteration(), "RuntimeError: coroutine raised StopIteration"),
        (Unprintable(), "Unprintable"),
        (OperationFailed("x", "The disk is full.", hint="Make room."), "The disk is full."),
    ],
)
def test_what_a_job_raises_is_logged_once_and_ends_nothing(
    world: World, tmp_path: Path, error: BaseException, message: str
) -> None:
    state, logs = run_once(world, tmp_path, does(raising(error)))
    assert state.last_run is not None
    assert (state.last_run.status, state.last_run.message) == (JobStatus.FAILED, message)
    assert state.next_run is not None
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [("error", f"Job stern failed: {message}")]


def test_an_error_for_operators_is_logged_with_its_hint_and_without_a_traceback(
    world: World, tmp_path: Path
) -> None:
    error = OperationFailed("disk-full", "The disk is full.", hint="Make room.")
    _, logs = run_once(world, tmp_path, does(raising(error)))
    assert logs[0]["hint"] == "Make room."
    assert logs[0]["error_code"] == "disk-full"
    assert "exc_info" not in logs[0]


@pytest.mark.parametrize(
    ("returned", "status", "event"),
    [
        (None, JobStatus.DONE, "Job stern done"),
        ("clear sky", JobStatus.DONE, "Job stern done: clear sky"),
        (JobOutcome("frozen", JobStatus.SKIPPED), JobStatus.SKIPPED, "Job stern skipped: frozen"),
        (
            5,
            JobStatus.FAILED,
            "Job stern failed: TypeError: run() returned a int, not a JobOutcome, a string or None",
        ),
    ],
)
def test_what_a_job_returns_becomes_its_outcome(
    world: World, tmp_path: Path, returned: object, status: JobStatus, event: str
) -> None:
    state, logs = run_once(world, tmp_path, does(lambda: returned))
    assert state.last_run is not None
    assert state.last_run.status is status
    assert [entry["event"] for entry in logs] == [event]


def test_the_fields_of_an_outcome_reach_the_journal_whatever_they_are_called(world: World, tmp_path: Path) -> None:
    outcome = JobOutcome("fine", fields={"stars": 7, "event": "x", "job": "y", "level": "z"})
    _, logs = run_once(world, tmp_path, does(lambda: outcome))
    assert (logs[0]["event"], logs[0]["stars"]) == ("Job stern done: fine", 7)


def test_what_a_job_logged_itself_is_not_logged_again(world: World, tmp_path: Path) -> None:
    state, logs = run_once(world, tmp_path, does(lambda: JobOutcome("published", logged=True)))
    assert state.last_run is not None
    assert state.last_run.message == "published"
    assert not logs


def test_a_logger_of_any_module_carries_the_job_while_it_runs(world: World, tmp_path: Path) -> None:
    _, logs = run_once(world, tmp_path, does(lambda: get_logger().info("deep inside")))
    assert [entry["event"] for entry in logs] == ["deep inside", "Job stern done"]


def test_requests_while_one_waits_are_one_run(world: World, tmp_path: Path) -> None:
    job = loaded()
    job.job.takes = MINUTE  # type: ignore[attr-defined]

    async def main() -> None:
        async with Daemon(world, tmp_path, [job]) as daemon:
            first = daemon.runner.submit(job)
            await pass_time(SECOND)
            others = await asyncio.gather(*(daemon.runner.submit(job) for _ in range(5)))
            assert len(daemon.runs()) == 2
            assert len(set(map(id, others))) == 1
            assert (await first).ended_at <= others[0].started_at

    world.live(main())


def test_stopping_lets_a_run_end_in_its_grace_and_starts_nothing_that_waits(world: World, tmp_path: Path) -> None:
    job = loaded()
    job.job.takes = MINUTE  # type: ignore[attr-defined]

    async def main() -> None:
        daemon = Daemon(world, tmp_path, [job])
        first, second = daemon.runner.submit(job), None
        await pass_time(SECOND)
        second = daemon.runner.submit(job)
        await daemon.runner.stop(2 * MINUTE)
        assert (await first).status is JobStatus.DONE
        assert second.cancelled()
        assert len(daemon.runs()) == 1

    world.live(main())


def test_a_run_cut_short_by_the_stop_is_remembered_as_interrupted(world: World, tmp_path: Path) -> None:
    job = loaded()
    job.job.takes = HOUR  # type: ignore[attr-defined]

    async def main() -> None:
        daemon = Daemon(world, tmp_path, [job])
        daemon.runner.submit(job)
        await pass_time(SECOND)
        await daemon.runner.stop(SECOND)
        last = JobHistory(tmp_path).last_run("recorder")
        assert last is not None
        assert last.status is JobStatus.INTERRUPTED
        assert JobHistory(tmp_path).last_good("recorder", MARCH + DAY) == MARCH + DAY

    world.live(main())


# --- Memory ---


def test_a_failed_run_does_not_count_as_the_last_good_one(world: World, tmp_path: Path) -> None:
    run_once(world, tmp_path, does(lambda: None))
    good = world.wall
    world.suspend(HOUR)
    run_once(world, tmp_path, does(raising(ValueError())))
    history = JobHistory(tmp_path)
    assert history.last_good("stern", world.wall) == good
    last = history.last_run("stern")
    assert last is not None
    assert last.status is JobStatus.FAILED


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"stern": 5}',
        '{"stern": {"paused": "yes", "since": "soon", "last_run": {}}}',
        '{"stern": {"last_good": "2026-01-01T00:00:00", "last_run": {"started_at": 1}}}',
        '{"base": {"wall": "x", "boottime": 1.0, "boot_id": "b"}, "seen": 7, "jump": {"at": 1}}',
        '{"base": 5, "jump": {"at": "2026-01-01T00:00:00+00:00", "by": 1e300, "across_boots": false}}',
        "\xff\xfe",
    ],
)
def test_a_damaged_state_file_is_as_good_as_none(world: World, tmp_path: Path, text: str) -> None:
    for name in ("jobs.json", "clock.json"):
        (tmp_path / name).write_text(text, encoding="latin-1")
    history = JobHistory(tmp_path)
    assert not history.is_paused("stern")
    assert history.last_run("stern") is None
    assert ClockWatch(tmp_path, world.read).doubt() is None


def test_a_pause_that_cannot_be_remembered_is_an_error_and_no_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = JobHistory(tmp_path / "missing")
    with pytest.raises(OperationFailed, match="job dump is not paused: No such file") as caught:
        history.set_paused("dump", paused=True)
    assert caught.value.hint
    assert not history.is_paused("dump")


def test_a_state_directory_that_cannot_be_written_stops_no_job(world: World, tmp_path: Path) -> None:
    state, _ = run_once(world, tmp_path / "missing", does(lambda: None))
    assert state.last_run is not None
    assert state.last_run.status is JobStatus.DONE


# --- The clock ---


def test_small_corrections_and_suspend_are_no_jumps(world: World, tmp_path: Path) -> None:
    watch = ClockWatch(tmp_path, world.read)
    for correction in (MINUTE, -4 * MINUTE, 5 * MINUTE):
        world.suspend(9 * HOUR)
        world.set_clock(correction)
        assert watch.observe() is None
    assert watch.doubt() is None


def test_a_slow_clock_corrected_by_seconds_a_day_never_adds_up_to_a_jump(world: World, tmp_path: Path) -> None:
    watch = ClockWatch(tmp_path, world.read)
    for _ in range(24 * 100):
        world.suspend(HOUR)
        world.set_clock(SECOND)
        assert watch.observe() is None


@pytest.mark.parametrize(
    ("by", "phrase"),
    [
        (3 * DAY, "jumped forward by 3 days"),
        (-3 * DAY, "jumped backward by 3 days"),
        (6 * MINUTE, "forward by 6 minutes"),
        (-20 * HOUR, "backward by 20 hours"),
    ],
)
def test_a_jump_is_doubted_for_a_day_in_a_sentence_that_says_what_to_check(
    world: World, tmp_path: Path, by: timedelta, phrase: str
) -> None:
    watch = ClockWatch(tmp_path, world.read)
    watch.observe()
    world.set_clock(by)
    doubt = watch.doubt()
    assert doubt is not None
    assert phrase in doubt
    assert f"pruning waits until {world.wall + DAY:%Y-%m-%d %H:%M UTC}" in doubt
    assert "`timedatectl`" in doubt
    world.suspend(DAY - SECOND)
    assert watch.doubt() is not None
    world.suspend(SECOND)
    assert watch.doubt() is None


def test_a_jump_just_after_the_look_at_the_clocks_ends_no_doubt(world: World, tmp_path: Path) -> None:
    def read() -> ClockReading:
        reading = world.read()
        world.set_clock(leap)
        return reading

    leap = timedelta()
    watch = ClockWatch(tmp_path, read)
    watch.observe()
    world.set_clock(-DAY)
    watch.observe()
    leap = 2 * DAY
    assert "backward by 24 hours" in str(watch.doubt()).replace("1 day", "24 hours")


def test_a_host_that_slept_between_the_looks_at_its_clocks_made_no_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    boottimes = iter([100.0, 50_000.0, 50_001.0, 50_001.5])
    monkeypatch.setattr(clock, "_boottime", lambda: next(boottimes))
    assert read_clock().boottime == 50_001.5


def test_a_jump_while_the_daemon_was_down_is_noticed_at_its_next_start(world: World, tmp_path: Path) -> None:
    ClockWatch(tmp_path, world.read).observe()
    world.suspend(2 * HOUR)
    world.set_clock(3 * DAY)
    assert "forward by 3 days" in str(ClockWatch(tmp_path, world.read).doubt())


def test_a_doubt_survives_a_restart(world: World, tmp_path: Path) -> None:
    watch = ClockWatch(tmp_path, world.read)
    watch.observe()
    world.set_clock(-DAY)
    doubt = watch.doubt()
    assert doubt is not None
    world.suspend(HOUR)
    assert ClockWatch(tmp_path, world.read).doubt() == doubt


@pytest.mark.parametrize(
    ("off", "phrase"),
    [
        (6 * DAY, None),
        (MINUTE, None),
        (-DAY, "jumped backward by 1 day"),
        (-400 * DAY, "jumped backward by 400 days"),
        (40 * DAY, "The host was off for 40 days or its clock jumped forward"),
    ],
)
def test_across_boots_the_last_time_seen_tells(
    world: World, tmp_path: Path, off: timedelta, phrase: str | None
) -> None:
    ClockWatch(tmp_path, world.read).observe()
    world.boot_id, world.boot_seconds = "boot-2", 20.0
    world.set_clock(off)
    doubt = ClockWatch(tmp_path, world.read).doubt()
    assert (phrase or "None") in str(doubt).replace("24 hours", "1 day")


def test_the_first_start_ever_doubts_nothing(world: World, tmp_path: Path) -> None:
    assert ClockWatch(tmp_path, world.read).doubt() is None


def test_the_real_clocks_can_be_read(tmp_path: Path) -> None:
    first, second = read_clock(), read_clock()
    assert first.boot_id == second.boot_id != ""
    assert second.boottime >= first.boottime > 0
    assert ClockWatch(tmp_path).doubt() is None


# --- Plugins ---


def points(**targets: str) -> list[EntryPoint]:
    return [EntryPoint(name, f"{__name__}:{target}", GROUP) for name, target in targets.items()]


def load(tables: dict[str, Any], *found: EntryPoint) -> list[LoadedJob | FailedJob]:
    return load_jobs(tables, context, host_id="host", always=("dump",), found=[DUMP, *found])


def failed(job: LoadedJob | FailedJob) -> FailedJob:
    assert isinstance(job, FailedJob)
    return job


def test_a_third_party_job_comes_with_its_own_settings_and_default_schedule() -> None:
    dump, weather = load({"weather": {"station": "Paranal"}}, *points(weather="Weather"))
    assert isinstance(dump, LoadedJob)
    assert isinstance(weather, LoadedJob)
    assert isinstance(weather.settings, WeatherSettings)
    assert (weather.name, weather.settings.station, str(weather.schedule)) == ("weather", "Paranal", "every 10m")
    assert (dump.name, str(dump.schedule)) == ("dump", "hourly")
    assert dump.schedule == Schedule.parse("hourly").on_host("host")


def test_an_installed_plugin_without_a_table_is_not_loaded() -> None:
    assert [job.name for job in load({}, *points(weather="Weather"))] == ["dump"]


def test_a_table_without_a_plugin_is_a_configuration_error_that_names_the_installed_ones() -> None:
    with pytest.raises(UsageError, match=r"jobs\.wether: no installed plugin") as caught:
        load({"wether": {}}, *points(weather="Weather"))
    assert caught.value.code == "configuration"
    assert "dump, weather" in caught.value.hint


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"schedule": "61 hunter2 * * *"}, "jobs.dump.schedule: in the cron line: bad minute field"),
        ({"schedul": "hunter2"}, "jobs.dump.schedul: no such setting"),
        ({"enabled": "hunter2"}, "jobs.dump.enabled: input should be a valid boolean"),
        ({"schedule": ["hunter2"]}, "jobs.dump.schedule: not a text"),
        ({"schedule": "hunter2", "x": 1}, "jobs.dump.schedule: expected"),
        ("hunter2", "jobs.dump: not a table"),
    ],
)
def test_wrong_settings_of_a_built_in_job_are_a_configuration_error_without_the_value(
    table: Any, problem: str
) -> None:
    with pytest.raises(UsageError) as caught:
        load({"dump": table})
    assert caught.value.message.startswith(problem)
    assert "hunter2" not in caught.value.message + caught.value.hint
    assert caught.value.code == "configuration"


def test_wrong_settings_of_a_third_party_job_fail_that_job_alone() -> None:
    dump, weather = load({"weather": {"station": 5, "token": "hunter2"}}, *points(weather="Weather"))
    assert isinstance(dump, LoadedJob)
    problem = failed(weather).problem
    assert "jobs.weather.station: input should be a valid string" in problem
    assert "jobs.weather.token" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("missing", "AttributeError"),
        ("exploding", "not a subclass of arcbackupd.jobs.Job"),
        ("World", "not a subclass of arcbackupd.jobs.Job"),
        ("NoSettings", "not a subclass of arcbackupd.jobs.JobSettings"),
        ("BadConstructor", "can't be set up: SystemExit: 3"),
        ("BadDefault", "jobs.odd.schedule: expected"),
        ("OtherSchedule", "can't be set up: AttributeError"),
    ],
)
def test_a_plugin_that_fails_to_load_is_reported_and_takes_nothing_down(target: str, problem: str) -> None:
    dump, odd = load({"odd": {}}, *points(odd=target))
    assert isinstance(dump, LoadedJob)
    assert problem in failed(odd).problem
    assert failed(odd).hint


def test_a_missing_module_is_reported_too() -> None:
    _, odd = load({"odd": {}}, EntryPoint("odd", "no_such_module:Job", GROUP))
    assert "ModuleNotFoundError" in failed(odd).problem


def test_a_built_in_name_cannot_be_taken_over() -> None:
    (dump,) = load({}, *points(dump="Weather"))
    assert isinstance(dump, LoadedJob)
    assert type(dump.job) is Job


def test_two_packages_with_one_name_are_both_left_out() -> None:
    _, weather = load({"weather": {"station": "x"}}, *points(weather="Weather"), *points(weather="Recorder"))
    assert "2 installed packages" in failed(weather).problem


def test_a_check_finds_the_same_without_constructing_anything() -> None:
    found = [DUMP, *points(bad="BadConstructor", weather="Weather")]
    assert [job.name for job in check_jobs({"bad": {}, "weather": {}}, always=(), found=found)] == ["weather"]
    with pytest.raises(UsageError):
        check_jobs({"dump": {"x": 1}}, found=found)
