"""When jobs run: plugins, the runner, the scheduler, the watch of the clock."""

from arcbackupd.scheduling.clock import ClockReading, ClockWatch, read_clock
from arcbackupd.scheduling.plugins import BUILT_IN, GROUP, FailedJob, LoadedJob, check_jobs, load_jobs
from arcbackupd.scheduling.runner import JobHistory, JobRunner, LastRun
from arcbackupd.scheduling.scheduler import JobState, Scheduler

__all__ = [
    "BUILT_IN",
    "GROUP",
    "ClockReading",
    "ClockWatch",
    "FailedJob",
    "JobHistory",
    "JobRunner",
    "JobState",
    "LastRun",
    "LoadedJob",
    "Scheduler",
    "check_jobs",
    "load_jobs",
    "read_clock",
]
