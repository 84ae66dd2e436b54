"""Jobs come in as plugins and run when they are due, whatever the clock does. The only importer of APScheduler.

Bottom up: state files, the clock's watch, loading of plugins, the memory of what ran, the runner, the scheduler.
APScheduler only tells *when*: what it calls does nothing but hand a job to the runner, because its own running of
jobs drops one that overlaps, and cancels what runs when it shuts down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from arcbackupd.errors import ArcbackupdError, OperationFailed, UsageError
from arcbackupd.jobs import Job, JobContext, JobOutcome, JobSettings, JobStatus
from arcbackupd.log import bound, get_logger
from arcbackupd.schedule import Schedule, overdue

GROUP = "arcbackupd.jobs"
BUILT_IN = ("dump", "prune")
HEARTBEAT = timedelta(seconds=30)
JUMP = timedelta(minutes=5)
DOUBT = timedelta(hours=24)

_ABSENCE = timedelta(days=7)
_REBASE = timedelta(days=1)
_SAVE_SEEN = timedelta(minutes=5)
_LONGEST_MESSAGE = 500
_STATE_HINT = "Check the space in the daemon's state directory, and who owns it."
_log = get_logger()


# --- State files -----------------------------------------------------------------------------------------------


class StateFile:
    """A small JSON object in the state directory. It may be lost at any time: whoever keeps one can start anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Any]:
        """Its content; empty when there is none or it can't be read."""
        try:
            value = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            _log.warning(f"{self._path} can't be read; starting without what it held", error=_describe(error))
            return {}
        return value if isinstance(value, dict) else {}

    def save(self, value: Mapping[str, Any]) -> None:
        """Replace it whole, durably. Raise OSError when that fails; the old one is then still there."""
        partial = self._path.with_name(f".{self._path.name}.partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)

    def try_save(self, value: Mapping[str, Any]) -> None:
        """Like save, for what may be lost: a failure is only logged."""
        try:
            self.save(value)
        except OSError as error:
            _log.warning(f"{self._path} can't be written", error=_describe(error), hint=_STATE_HINT)


def _time_or_none(value: object) -> datetime | None:
    """A time read back from a state file; ``None`` for anything that isn't an aware one."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None


# --- The clock -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClockReading:
    """Both clocks at one moment: the wall's, which can be set, and the boot's, which can't and counts suspend."""

    wall: datetime
    boottime: float
    """Seconds since boot, CLOCK_BOOTTIME."""
    boot_id: str


@dataclass(frozen=True)
class ClockJump:
    """The wall clock moved otherwise than time did."""

    at: datetime
    """When it was noticed, by the new time."""
    by: timedelta
    """Positive when it went forward."""
    across_boots: bool = False
    """It happened while nobody watched; forward, that could also be a host that was off."""

    def sentence(self) -> str:
        """What happened, until when it matters, and what to check."""
        until = f"pruning waits until {_minute(self.at + DOUBT)}. Check `timedatectl`."
        return f"{self._what()} at {_minute(self.at)}; {until}"

    def _what(self) -> str:
        span = _span(abs(self.by))
        if self.by < timedelta(0):
            return f"The clock jumped backward by {span}"
        if self.across_boots:
            return f"The host was off for {span} or its clock jumped forward, noticed"
        return f"The clock jumped forward by {span}"


def read_clock() -> ClockReading:
    """This host's clocks, now."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot_id = ""
    return ClockReading(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id)


class ClockWatch:
    """Notices jumps of the wall clock of more than 5 minutes, also those that happened while the daemon was down.

    Within a boot it compares the progress of both clocks. Across boots there is only the last time seen: an earlier
    one means a jump backward (an empty battery), a much later one may mean a jump forward or a long absence, which
    is doubted as well, since waiting for a day costs nothing.

    May be asked from any thread.
    """

    def __init__(self, state_dir: Path, read: Callable[[], ClockReading] = read_clock) -> None:
        self._read = read
        self._file = StateFile(state_dir / "clock.json")
        saved = self._file.load()
        self._base = _reading_from(saved.get("base"))
        self._seen = _time_or_none(saved.get("seen"))
        self._saved: datetime | None = None
        self._lock = threading.Lock()
        self.last_jump = _jump_from(saved.get("jump"))

    def observe(self) -> ClockJump | None:
        """Look at the clocks. Return the jump, if one happened since the last look, whoever looked then."""
        with self._lock:
            return self._observe()

    def _observe(self) -> ClockJump | None:
        reading = self._read()
        jump = self._jump_until(reading)
        if jump is not None:
            self.last_jump = jump
            _log.warning(jump.sentence(), jump_seconds=jump.by.total_seconds())
        if jump is not None or self._base_is_stale(reading):
            self._base = reading
        self._seen = reading.wall
        if jump is not None or self._saved is None or abs(reading.wall - self._saved) >= _SAVE_SEEN:
            self._save(reading.wall)
        return jump

    def doubt(self, now: datetime | None = None) -> str | None:
        """Why nothing may be pruned now: a sentence, for 24 hours after a jump; else ``None``.

        Looks at the clocks first, so that a jump between two heartbeats counts too.
        """
        self.observe()
        moment = now if now is not None else self._read().wall
        if self.last_jump is None or moment >= self.last_jump.at + DOUBT:
            return None
        return self.last_jump.sentence()

    def _jump_until(self, reading: ClockReading) -> ClockJump | None:
        base = self._base
        if base is not None and base.boot_id == reading.boot_id:
            by = (reading.wall - base.wall) - timedelta(seconds=reading.boottime - base.boottime)
            return ClockJump(reading.wall, by) if abs(by) > JUMP else None
        if self._seen is None:
            return None
        by = reading.wall - self._seen
        return ClockJump(reading.wall, by, across_boots=True) if by < -JUMP or by > _ABSENCE else None

    def _base_is_stale(self, reading: ClockReading) -> bool:
        """A boot clock that runs wrong by seconds a day, corrected step by step, must not add up to a jump."""
        base = self._base
        if base is None or base.boot_id != reading.boot_id:
            return True
        return reading.boottime - base.boottime > _REBASE.total_seconds()

    def _save(self, wall: datetime) -> None:
        self._saved = wall
        base, jump = self._base, self.last_jump
        value = {
            "seen": wall.isoformat(),
            "base": base and {**asdict(base), "wall": base.wall.isoformat()},
            "jump": jump and {**asdict(jump), "at": jump.at.isoformat(), "by": jump.by.total_seconds()},
        }
        self._file.try_save(value)


def _reading_from(saved: object) -> ClockReading | None:
    match saved:
        case {"wall": str(wall), "boottime": float(boottime), "boot_id": str(boot_id)}:
            moment = _time_or_none(wall)
            return ClockReading(moment, boottime, boot_id) if moment is not None else None
    return None


def _jump_from(saved: object) -> ClockJump | None:
    match saved:
        case {"at": str(at), "by": float(by), "across_boots": bool(across)}:
            moment = _time_or_none(at)
            with contextlib.suppress(OverflowError, ValueError):
                return ClockJump(moment, timedelta(seconds=by), across) if moment is not None else None
    return None


def _span(span: timedelta) -> str:
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute")):
        if span >= 2 * unit or name == "minute":
            count = round(span / unit)
            return f"{count} {name}" if count == 1 else f"{count} {name}s"
    raise AssertionError("the last unit always returns")


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


# --- Plugins ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedJob:
    """A job that can run."""

    name: str
    job: Job[Any]
    settings: JobSettings
    schedule: Schedule
    """The one of its settings, with this host's jitter."""


@dataclass(frozen=True)
class FailedJob:
    """A job whose plugin doesn't load. It is shown as such; all else goes on."""

    name: str
    problem: str
    hint: str


def load_jobs(
    tables: Mapping[str, Mapping[str, Any]],
    context: Callable[[str], JobContext],
    *,
    host_id: str,
    always: Collection[str] = BUILT_IN,
    found: Iterable[EntryPoint] | None = None,
) -> list[LoadedJob | FailedJob]:
    """Given the ``[jobs.NAME]`` tables, return the jobs, in the order of their names.

    Those of ``always`` are loaded with their defaults when they have no table. ``context`` makes what the daemon
    lends to the job of that name, ``host_id`` decides on the jitter, ``found`` are the entry points (default: those
    installed). Raise UsageError ``configuration`` for a table without an installed plugin, and for wrong settings
    of a built-in job; any failure of a third party's plugin is a FailedJob.
    """
    checked = _checked(tables, always, found)
    return [item if isinstance(item, FailedJob) else _construct(item, context, host_id) for item in checked]


def check_jobs(
    tables: Mapping[str, Mapping[str, Any]],
    *,
    always: Collection[str] = BUILT_IN,
    found: Iterable[EntryPoint] | None = None,
) -> list[FailedJob]:
    """What ``load_jobs`` would object to, without constructing a job. Raises as it does."""
    return [item for item in _checked(tables, always, found) if isinstance(item, FailedJob)]


@dataclass(frozen=True)
class _Checked:
    name: str
    plugin: type[Job[Any]]
    settings: JobSettings


def _checked(
    tables: Mapping[str, Mapping[str, Any]], always: Collection[str], found: Iterable[EntryPoint] | None
) -> list[_Checked | FailedJob]:
    installed = _installed(entry_points(group=GROUP) if found is None else found)
    return [_check(name, tables.get(name, {}), installed) for name in sorted({*tables, *always})]


def _installed(found: Iterable[EntryPoint]) -> dict[str, list[EntryPoint]]:
    """Entry points by name. A built-in job's name can't be taken over."""
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in found:
        by_name[point.name].append(point)
    return {name: [p for p in points if _is_built_in(p)][:1] or points for name, points in by_name.items()}


def _is_built_in(point: EntryPoint) -> bool:
    return point.module.split(".")[0] == "arcbackupd"


def _check(name: str, table: object, installed: Mapping[str, list[EntryPoint]]) -> _Checked | FailedJob:
    points = installed.get(name)
    if not points:
        raise UsageError(
            "configuration",
            f"jobs.{name}: no installed plugin provides this job",
            hint=f"Installed: {', '.join(sorted(installed)) or 'none'}. Install its package, or remove the table.",
        )
    if len(points) > 1:
        return FailedJob(name, f"{len(points)} installed packages provide it", "Uninstall all but one of them.")
    if not isinstance(table, Mapping):
        raise UsageError("configuration", f"jobs.{name}: not a table", hint=f"Write a section [jobs.{name}].")
    return _check_plugin(name, table, points[0])


def _check_plugin(name: str, table: Mapping[str, Any], point: EntryPoint) -> _Checked | FailedJob:
    try:
        plugin = _import_plugin(point)
        settings = plugin.Settings.model_validate({"schedule": plugin.default_schedule, **table})
    except ValidationError as error:
        return _wrong_settings(name, error, point)
    # SystemExit too: a plugin that calls sys.exit() as it is imported must not end the daemon.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
        _log.error(f"Job {name} doesn't load", job=name, exc_info=error)
        return FailedJob(name, f"its plugin doesn't load: {_describe(error)}", _reinstall(point))
    return _Checked(name, plugin, settings)


def _import_plugin(point: EntryPoint) -> type[Job[Any]]:
    plugin = point.load()
    if not (isinstance(plugin, type) and issubclass(plugin, Job)):
        raise TypeError(f"{point.value} is not a subclass of arcbackupd.jobs.Job")
    if not (isinstance(plugin.Settings, type) and issubclass(plugin.Settings, JobSettings)):
        raise TypeError(f"{point.value}.Settings is not a subclass of arcbackupd.jobs.JobSettings")
    return plugin


def _wrong_settings(name: str, error: ValidationError, point: EntryPoint) -> FailedJob:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    problem = "; ".join(f"{_key_path(name, detail)}: {_reason(detail)}" for detail in details)
    if _is_built_in(point):
        raise UsageError("configuration", problem, hint="Correct the configuration file.") from None
    return FailedJob(name, problem, "Correct the configuration file, then `systemctl reload arcbackupd`.")


def _key_path(name: str, detail: ErrorDetails) -> str:
    return ".".join(["jobs", name, *(str(part) for part in detail["loc"])])


def _reason(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return "no such setting"
    reason = detail["msg"].removeprefix("Value error, ")
    return reason[:1].lower() + reason[1:]


def _construct(checked: _Checked, context: Callable[[str], JobContext], host_id: str) -> LoadedJob | FailedJob:
    name = checked.name
    try:
        job = checked.plugin(checked.settings, context(name))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
        _log.error(f"Job {name} can't be set up", job=name, exc_info=error)
        return FailedJob(name, f"it can't be set up: {_describe(error)}", "Look at the journal for the traceback.")
    return LoadedJob(name, job, checked.settings, checked.settings.schedule.on_host(host_id))


def _reinstall(point: EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else point.module
    return f"Update or reinstall {package}; the journal has the traceback."


def _describe(error: BaseException) -> str:
    """An error in a line; also for one whose own text fails."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a plugin's exception can do anything
        text = ""
    kind = type(error).__name__
    return (f"{kind}: {text}" if text else kind)[:_LONGEST_MESSAGE]


# --- What ran --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LastRun:
    """How a job's last run went."""

    started_at: datetime
    ended_at: datetime
    status: JobStatus
    message: str

    def as_dict(self) -> dict[str, str]:
        """For the control socket, ``--json`` and the state file; times are ISO 8601."""
        return {
            "started_at": self.started_at.isoformat(),
            "ended_at": self.ended_at.isoformat(),
            "status": self.status.value,
            "message": self.message,
        }


@dataclass(frozen=True)
class _Memory:
    paused: bool = False
    since: datetime | None = None
    last_good: datetime | None = None
    last_run: LastRun | None = None


class JobHistory:
    """What is remembered of each job across restarts: paused or not, its last run, its last good one."""

    def __init__(self, state_dir: Path) -> None:
        self._file = StateFile(state_dir / "jobs.json")
        self._memories = {name: _memory_from(saved) for name, saved in self._file.load().items()}
        self._running: set[str] = set()

    def is_paused(self, name: str) -> bool:
        """Whether an operator paused it."""
        return self._of(name).paused

    def set_paused(self, name: str, *, paused: bool) -> None:
        """Remember it. Raise OperationFailed when that can't be written: the next start would forget it."""
        before = self._memories
        self._memories = {**before, name: replace(self._of(name), paused=paused)}
        try:
            self._file.save(self._as_json())
        except OSError as error:
            self._memories = before
            raise OperationFailed(
                "state-not-written",
                f"job {name} is {'not paused' if paused else 'still paused'}: {error.strerror or error}",
                hint=_STATE_HINT,
            ) from error

    def is_running(self, name: str) -> bool:
        """Whether a run of it is under way."""
        return name in self._running

    def last_run(self, name: str) -> LastRun | None:
        """How its last run ended, if it ever ran."""
        return self._of(name).last_run

    def last_good(self, name: str, now: datetime) -> datetime:
        """When its last good run started, or else when the job was first seen, which may be now."""
        memory = self._of(name)
        if memory.last_good is not None:
            return memory.last_good
        if memory.since is None:
            self._remember(name, replace(memory, since=now))
        return memory.since or now

    def begin(self, name: str) -> None:
        """A run of it starts."""
        self._running.add(name)

    def end(self, name: str, run: LastRun) -> None:
        """That run ended."""
        self._running.discard(name)
        good = self._of(name).last_good if run.status in _NOT_GOOD else run.started_at
        self._remember(name, replace(self._of(name), last_run=run, last_good=good))

    def _of(self, name: str) -> _Memory:
        return self._memories.get(name, _Memory())

    def _remember(self, name: str, memory: _Memory) -> None:
        self._memories[name] = memory
        self._file.try_save(self._as_json())

    def _as_json(self) -> dict[str, Any]:
        return {
            name: {
                "paused": memory.paused,
                "since": memory.since and memory.since.isoformat(),
                "last_good": memory.last_good and memory.last_good.isoformat(),
                "last_run": memory.last_run and memory.last_run.as_dict(),
            }
            for name, memory in self._memories.items()
        }


_NOT_GOOD = (JobStatus.FAILED, JobStatus.INTERRUPTED)


def _memory_from(saved: object) -> _Memory:
    if not isinstance(saved, dict):
        return _Memory()
    return _Memory(
        paused=saved.get("paused") is True,
        since=_time_or_none(saved.get("since")),
        last_good=_time_or_none(saved.get("last_good")),
        last_run=_run_from(saved.get("last_run")),
    )


def _run_from(saved: object) -> LastRun | None:
    match saved:
        case {"started_at": started, "ended_at": ended, "status": str(status), "message": str(message)}:
            started_at, ended_at = _time_or_none(started), _time_or_none(ended)
            if started_at and ended_at and status in {known.value for known in JobStatus}:
                return LastRun(started_at, ended_at, JobStatus(status), message)
    return None


# --- Running ---------------------------------------------------------------------------------------------------


class JobRunner:
    """Runs jobs in the event loop: different ones side by side, each by itself one run at a time.

    A request that comes while the job runs waits for its turn; one that comes while another waits is the same one.
    """

    def __init__(self, history: JobHistory) -> None:
        self._history = history
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: dict[str, asyncio.Task[LastRun]] = {}
        self._tasks: set[asyncio.Task[LastRun]] = set()

    def submit(self, job: LoadedJob) -> asyncio.Future[LastRun]:
        """Ask for a run; return its end. Giving up the wait doesn't touch the run. Call it in the event loop."""
        task = self._waiting.get(job.name)
        if task is None:
            task = asyncio.create_task(self._run_in_turn(job), name=f"job {job.name}")
            self._waiting[job.name] = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return asyncio.shield(task)

    async def stop(self, grace: timedelta) -> None:
        """Start nothing that waits; let what runs end within ``grace``, then cancel it and wait for that."""
        for task in self._waiting.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace.total_seconds())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run_in_turn(self, job: LoadedJob) -> LastRun:
        me = asyncio.current_task()
        try:
            async with self._turns[job.name]:
                del self._waiting[job.name]
                return await self._run(job)
        finally:
            if self._waiting.get(job.name) is me:
                del self._waiting[job.name]

    async def _run(self, job: LoadedJob) -> LastRun:
        started = datetime.now(UTC)
        self._history.begin(job.name)
        outcome = JobOutcome("the daemon stopped before it was done", JobStatus.INTERRUPTED)
        try:
            # Bound here: what the job logs by a logger of its own, from any module, carries its name too.
            with bound(job=job.name):
                outcome = await _outcome_of(job)
                _log_outcome(job.name, outcome)
        finally:
            run = LastRun(started, datetime.now(UTC), outcome.status, outcome.message[:_LONGEST_MESSAGE])
            self._history.end(job.name, run)
        return run


async def _outcome_of(job: LoadedJob) -> JobOutcome:
    """Run it; whatever it raises becomes an outcome, except that the daemon cancels it."""
    try:
        return _as_outcome(await job.job.run())
    except ArcbackupdError as error:
        return JobOutcome(error.message, JobStatus.FAILED, {"error_code": error.code, "hint": error.hint})
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return JobOutcome("it cancelled itself", JobStatus.FAILED)
    # SystemExit too: raised in a task, it would end the event loop.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin can raise anything
        return JobOutcome(_describe(error), JobStatus.FAILED, {"exc_info": error})


def _as_outcome(returned: object) -> JobOutcome:
    if isinstance(returned, JobOutcome):
        return returned
    if returned is None or isinstance(returned, str):
        return JobOutcome(returned or "")
    raise TypeError(f"run() returned a {type(returned).__name__}, not a JobOutcome, a string or None")


def _log_outcome(name: str, outcome: JobOutcome) -> None:
    if outcome.logged:
        return
    level = _log.error if outcome.status is JobStatus.FAILED else _log.info
    sentence = f"Job {name} {outcome.status}" + (f": {outcome.message}" if outcome.message else "")
    fields = {key: value for key, value in outcome.fields.items() if key not in {"event", "job"}}
    try:
        level(sentence, job=name, **fields)
    except Exception as error:  # noqa: BLE001 - a third party's fields can be anything
        _log.error(sentence, job=name, error=_describe(error))


# --- When ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobState:
    """A job as ``jobs`` shows it."""

    name: str
    schedule: str | None
    """``None`` for one that failed to load."""
    enabled: bool = False
    paused: bool = False
    running: bool = False
    next_run: datetime | None = None
    last_run: LastRun | None = None
    problem: str | None = None
    hint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the control socket and ``--json``; times are ISO 8601."""
        return {
            **asdict(self),
            "next_run": self.next_run and self.next_run.isoformat(),
            "last_run": self.last_run and self.last_run.as_dict(),
        }


class _ScheduleTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """A schedule as APScheduler asks for it.

    It goes by now, never by the previous run: else a clock that jumped ahead by years would cost one step for each
    run missed, all of which APScheduler lists in memory (its issue 1066).
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        del previous
        return self._schedule.next_after(now)


class Scheduler:
    """Submits each job when it is due, once for however many runs were missed.

    Timers don't count suspend and know nothing of a clock that is set, so a heartbeat wakes APScheduler, which then
    goes by the wall clock; after a jump backward all jobs are scheduled anew, or they would be silent until the old
    time comes again.
    """

    def __init__(
        self,
        jobs: Sequence[LoadedJob | FailedJob],
        *,
        submit: Callable[[LoadedJob], Awaitable[LastRun]],
        history: JobHistory,
        clock: ClockWatch,
        heartbeat: timedelta = HEARTBEAT,
    ) -> None:
        self._failed = {job.name: job for job in jobs if isinstance(job, FailedJob)}
        self._jobs = {job.name: job for job in jobs if isinstance(job, LoadedJob)}
        self._submit = submit
        self._history = history
        self._clock = clock
        self._heartbeat = heartbeat
        self._timer = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
        )
        self._heart: asyncio.Task[None] | None = None
        self._jump_handled: ClockJump | None = None

    def start(self) -> None:
        """Begin. Call it in the event loop; jobs that are paused or disabled stay silent."""
        self._clock.observe()
        self._jump_handled = self._clock.last_jump
        for job in self._jobs.values():
            if job.settings.enabled:
                self._timer.add_job(self._enqueue, _ScheduleTrigger(job.schedule), args=[job], id=job.name)
        self._timer.start()
        for name in self._jobs:
            if self._is_timed(name) and self._history.is_paused(name):
                self._timer.pause_job(name)
        self._heart = asyncio.create_task(self._beat(), name="scheduler heartbeat")

    async def stop(self) -> None:
        """Submit nothing more. What was submitted isn't touched."""
        if self._heart is None:
            return
        self._heart.cancel()
        await asyncio.gather(self._heart, return_exceptions=True)
        self._heart = None
        self._timer.shutdown(wait=False)
        # APScheduler shuts down in a callback; when this returns it is done.
        await asyncio.sleep(0)

    def catch_up(self, now: datetime | None = None) -> list[str]:
        """Submit each job that missed a run while the daemon was down; return their names."""
        moment = now if now is not None else datetime.now(UTC)
        missed = [job for job in self._jobs.values() if self._is_active(job) and self._missed(job, moment)]
        for job in missed:
            _log.info(f"Job {job.name} missed a run; catching up", job=job.name)
            self._submit(job)
        return [job.name for job in missed]

    def run_now(self, name: str) -> Awaitable[LastRun]:
        """Submit a job, also one that is paused or disabled.

        Raise UsageError ``no-such-job``, or OperationFailed ``job-not-loaded``.
        """
        return self._submit(self._find(name))

    def pause(self, name: str) -> None:
        """Leave a job out until it is resumed, across restarts. What runs now runs on."""
        self._find(name)
        self._history.set_paused(name, paused=True)
        if self._is_timed(name):
            self._timer.pause_job(name)

    def resume(self, name: str) -> None:
        """Schedule a paused job again, from its next run on."""
        self._find(name)
        self._history.set_paused(name, paused=False)
        if self._is_timed(name):
            self._timer.resume_job(name)

    def period(self, name: str) -> timedelta | None:
        """How far the runs of a job lie apart; ``None`` for one that isn't there."""
        job = self._jobs.get(name)
        return job.schedule.period() if job else None

    def states(self) -> list[JobState]:
        """All jobs, in the order of their names; those that failed to load too."""
        names = sorted({*self._jobs, *self._failed})
        return [self._state(name) for name in names]

    async def _enqueue(self, job: LoadedJob) -> None:
        # A coroutine although it awaits nothing: APScheduler runs a plain function in a thread.
        self._submit(job)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat.total_seconds())
            try:
                self._look_at_clock()
            except Exception as error:  # noqa: BLE001 - the heart must go on
                _log.error("The scheduler's heartbeat failed", exc_info=error)

    def _look_at_clock(self) -> None:
        self._clock.observe()
        # Not what observe returns: somebody else may have looked, and been told, since the last heartbeat.
        jump = self._clock.last_jump
        if jump is not self._jump_handled:
            self._jump_handled = jump
            self._schedule_anew_if_needed()
        self._timer.wakeup()

    def _schedule_anew_if_needed(self) -> None:
        """Bring forward what now lies too far ahead. What is overdue stays so, and has its one run."""
        now = datetime.now(UTC)
        for name, job in self._jobs.items():
            planned = getattr(self._timer.get_job(name), "next_run_time", None)
            following = job.schedule.next_after(now)
            if planned is not None and planned > following:
                self._timer.modify_job(name, next_run_time=following)

    def _is_timed(self, name: str) -> bool:
        return self._timer.get_job(name) is not None

    def _is_active(self, job: LoadedJob) -> bool:
        return job.settings.enabled and not self._history.is_paused(job.name)

    def _missed(self, job: LoadedJob, now: datetime) -> bool:
        try:
            newest = job.job.last_good(self._history.last_good(job.name, now))
            return overdue(job.schedule, newest, now)
        except ArcbackupdError:
            return True  # its run will say what is wrong, and what to do
        except Exception as error:  # noqa: BLE001 - a plugin can raise anything
            _log.error(f"Job {job.name} can't tell when it last ran", job=job.name, exc_info=error)
            return False

    def _find(self, name: str) -> LoadedJob:
        if name in self._failed:
            failed = self._failed[name]
            raise OperationFailed("job-not-loaded", f"job {name} doesn't run: {failed.problem}", hint=failed.hint)
        if name not in self._jobs:
            known = ", ".join(sorted(self._jobs))
            raise UsageError("no-such-job", f"there is no job {name}", hint=f"The jobs are: {known or 'none'}.")
        return self._jobs[name]

    def _state(self, name: str) -> JobState:
        last_run = self._history.last_run(name)
        if name in self._failed:
            failed = self._failed[name]
            return JobState(name, None, last_run=last_run, problem=failed.problem, hint=failed.hint)
        timed = self._timer.get_job(name)
        return JobState(
            name,
            str(self._jobs[name].schedule),
            enabled=self._jobs[name].settings.enabled,
            paused=self._history.is_paused(name),
            running=self._history.is_running(name),
            # A paused one has none, and one not started yet lacks the attribute.
            next_run=getattr(timed, "next_run_time", None),
            last_run=last_run,
        )
