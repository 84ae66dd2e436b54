"""The scheduled dump."""

from __future__ import annotations

from datetime import datetime

from arcbackupd.dumps.manifest import Reason
from arcbackupd.errors import ArcbackupdError
from arcbackupd.jobs import Job, JobOutcome, JobSettings, JobStatus
from arcbackupd.operations.cancellation import SUPERSEDED


class DumpJob(Job[JobSettings]):
    """Takes a dump by schedule; catches up when the newest good automatic one is older than a period."""

    name = "dump"
    default_schedule = "hourly"

    async def run(self) -> JobOutcome:
        """Take a dump, after whatever runs."""
        try:
            outcome = await self.context.backups.take(Reason.SCHEDULED).result
        except ArcbackupdError as error:
            status = JobStatus.SKIPPED if error.code == SUPERSEDED else JobStatus.FAILED
            return JobOutcome(error.message, status, logged=True)
        status = JobStatus.SKIPPED if outcome.name is None else JobStatus.DONE
        return JobOutcome(f"{outcome.outcome} {outcome.name or ''}".strip(), status, logged=True)

    def last_good(self, recorded: datetime) -> datetime | None:
        """The time of the newest good automatic dump: the files know it, whatever became of our records."""
        del recorded
        newest = self.context.backups.newest_automatic()
        return newest.taken_at if newest else None
