"""Submit each job when it is due, whatever the clock does. The only importer of APScheduler.

APScheduler only tells *when*: what it calls does nothing but hand a job to the runner, because its own running of
jobs drops one that overlaps, and cancels what runs when it shuts down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from arcbackupd.errors import ArcbackupdError, OperationFailed, UsageError
from arcbackupd.log import get_logger
from arcbackupd.schedule import Schedule, overdue
from arcbackupd.scheduling.clock import ClockJump, ClockWatch
from arcbackupd.scheduling.plugins import FailedJob, LoadedJob
from arcbackupd.scheduling.runner import JobHistory, LastRun

HEARTBEAT = timedelta(seconds=30)
_log = get_logger()


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
    last_success: datetime | None = None
    problem: str | None = None
    hint: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the control socket and ``--json``; times are ISO 8601."""
        return {
            **asdict(self),
            "next_run": self.next_run and self.next_run.isoformat(),
            "last_run": self.last_run and self.last_run.as_dict(),
            "last_success": self.last_success and self.last_success.isoformat(),
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

    def _next_run(self, job: LoadedJob, timed: Any) -> datetime | None:
        """When it runs next, known before the scheduler has started; ``None`` when it is paused or disabled."""
        if not self._is_active(job):
            return None
        known: datetime | None = getattr(timed, "next_run_time", None)
        return known or job.schedule.next_after(datetime.now(UTC))

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
            next_run=self._next_run(self._jobs[name], timed),
            last_run=last_run,
            last_success=self._history.last_success(name),
        )
