"""Run jobs in the event loop, and remember how their last runs ended."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from arcbackupd.alarms import JobBegan, JobEnded
from arcbackupd.errors import ArcbackupdError, OperationFailed, describe, shortened
from arcbackupd.jobs import JobOutcome, JobStatus
from arcbackupd.log import bound, get_logger
from arcbackupd.scheduling.plugins import LoadedJob
from arcbackupd.scheduling.state import STATE_HINT, StateFile, time_or_none

_log = get_logger()


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
                hint=STATE_HINT,
            ) from error

    def is_running(self, name: str) -> bool:
        """Whether a run of it is under way."""
        return name in self._running

    def last_run(self, name: str) -> LastRun | None:
        """How its last run ended, if it ever ran."""
        return self._of(name).last_run

    def last_success(self, name: str) -> datetime | None:
        """When its last good run started; ``None`` when it had none yet."""
        return self._of(name).last_good

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
        since=time_or_none(saved.get("since")),
        last_good=time_or_none(saved.get("last_good")),
        last_run=_run_from(saved.get("last_run")),
    )


def _run_from(saved: object) -> LastRun | None:
    match saved:
        case {"started_at": started, "ended_at": ended, "status": str(status), "message": str(message)}:
            started_at, ended_at = time_or_none(started), time_or_none(ended)
            if started_at and ended_at and status in {known.value for known in JobStatus}:
                return LastRun(started_at, ended_at, JobStatus(status), message)
    return None


class JobRunner:
    """Runs jobs in the event loop: different ones side by side, each by itself one run at a time.

    A request that comes while the job runs waits for its turn; one that comes while another waits is the same one.
    """

    def __init__(
        self, history: JobHistory, tell: Callable[[JobBegan | JobEnded], None] = lambda _signal: None
    ) -> None:
        """``tell`` is called, in the event loop, when a run begins and when it has ended."""
        self._history = history
        self._tell = tell
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
        identity = str(uuid.uuid4())
        self._tell(JobBegan(job.name, identity))
        outcome = JobOutcome("the daemon stopped before it was done", JobStatus.INTERRUPTED)
        try:
            # Bound here: what the job logs by a logger of its own, from any module, carries its name too.
            with bound(job=job.name):
                outcome = await _outcome_of(job)
                _log_outcome(job.name, outcome)
        finally:
            run = LastRun(started, datetime.now(UTC), outcome.status, shortened(outcome.message))
            self._history.end(job.name, run)
            if run.status is not JobStatus.INTERRUPTED:  # it is begun anew, or missed
                self._tell(_ended(job.name, identity, run))
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
        return JobOutcome(describe(error), JobStatus.FAILED, {"exc_info": error})


def _ended(name: str, identity: str, run: LastRun) -> JobEnded:
    problem = (run.message or "it failed") if run.status is JobStatus.FAILED else None
    return JobEnded(name, identity, run.ended_at, run.message or str(run.status), problem)


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
        _log.error(sentence, job=name, error=describe(error))
