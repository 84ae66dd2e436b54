"""What a job is. The built-in jobs come through the same entry points as a third party's.

A package adds a job by an entry point in the group ``arcbackupd.jobs``, whose name is that of its table::

    [project.entry-points."arcbackupd.jobs"]
    weather = "my_package:WeatherJob"

    from arcbackupd.jobs import Job, JobSettings

    class WeatherSettings(JobSettings):
        station: str

    class WeatherJob(Job[WeatherSettings]):
        name = "weather"
        Settings = WeatherSettings
        default_schedule = "every 10m"

        async def run(self) -> str:
            self.context.log.info("asking", station=self.settings.station)
            return "clear sky"

and the operator a table ``[jobs.weather]`` with ``station = "..."``, and ``schedule`` where the default won't do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from structlog.typing import FilteringBoundLogger

from arcbackupd.operations.backups import Backups
from arcbackupd.operations.drills import Drills
from arcbackupd.operations.offhost.offhost import OffHost
from arcbackupd.operations.restores import Restores
from arcbackupd.schedule import Schedule


class JobSettings(BaseModel):
    """The table ``[jobs.NAME]``; subclasses add their own keys. An unknown key is an error."""

    # The input of a failed validation may be a mistyped secret: it is never shown.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    schedule: Schedule
    """When it runs: "hourly", "daily", "every 30m" or a cron line, in UTC."""
    enabled: bool = True
    """False: never by schedule, still by hand."""


class JobStatus(StrEnum):
    """How one run of a job ended."""

    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class JobOutcome:
    """What one run came to: a sentence for the operator, and fields for the journal."""

    message: str = ""
    status: JobStatus = JobStatus.DONE
    fields: Mapping[str, object] = field(default_factory=dict)
    logged: bool = False
    """The journal has it already: it isn't logged again, only remembered."""


@dataclass(frozen=True)
class JobContext:
    """What the daemon lends to a job."""

    backups: Backups
    """The backups: ``await context.backups.take(Reason.MANUAL).result`` takes one, after whatever runs."""
    restores: Restores
    """The restores, and the databases that they replaced."""
    off_host: OffHost
    """The destinations, and what is there."""
    drills: Drills
    """The restore drills; what they have shown is in ``backups.drills``."""
    log: FilteringBoundLogger
    """Carries the job's name. The event is a sentence; keyword arguments become fields of the journal."""
    state_dir: Path
    """The daemon's own directory. What a job keeps there can be lost, and has to be rebuilt then."""
    host: str
    """The name of this host."""


# Bound to JobSettings, so that a job without settings of its own can say plain `Job`.
SettingsT = TypeVar("SettingsT", bound=JobSettings)


class Job(Generic[SettingsT]):
    """A name, settings and one verb.

    At most one run of a job is under way, and it never runs in parallel with itself. What ``run`` raises is logged
    and shown as the job's last outcome; it ends neither the daemon nor the job's schedule.
    """

    name: ClassVar[str] = ""
    Settings: ClassVar[type[JobSettings]] = JobSettings
    default_schedule: ClassVar[str] = "hourly"
    """Taken when the table has no ``schedule``."""

    def __init__(self, settings: SettingsT, context: JobContext) -> None:
        self.settings = settings
        self.context = context

    async def run(self) -> JobOutcome | str | None:
        """Do the work once. A string is the message of a run that went well. Raise what went wrong."""
        raise NotImplementedError

    def last_good(self, recorded: datetime) -> datetime | None:
        """When this job's work was last done, for catching up after downtime; ``None`` is never.

        Given the start of its last good run by the job history, or when the job was first seen. Override it where
        the truth lies elsewhere: a dump job asks its files.
        """
        return recorded
