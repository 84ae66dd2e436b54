"""The scheduled restore drill."""

from __future__ import annotations

from datetime import datetime

from arcbackupd.errors import ArcbackupdError, Refused
from arcbackupd.jobs import Job, JobOutcome, JobSettings, JobStatus
from arcbackupd.operations.cancellation import INTERRUPTED, SUPERSEDED

_INTERRUPTED = (SUPERSEDED, *INTERRUPTED)


class DrillJob(Job[JobSettings]):
    """Proves by schedule that the newest good backup can be restored."""

    name = "drill"
    default_schedule = "daily"

    async def run(self) -> JobOutcome:
        """Drill it, after whatever runs."""
        try:
            record = await self.context.drills.scheduled().result
        except Refused as error:
            return JobOutcome(error.message, JobStatus.SKIPPED)
        except ArcbackupdError as error:
            if error.code in _INTERRUPTED:
                return JobOutcome(error.message, JobStatus.INTERRUPTED)
            return JobOutcome(error.message, JobStatus.FAILED, {"error_code": error.code, "hint": error.hint})
        if not record.proved:
            return JobOutcome(record.problem or "it failed", JobStatus.FAILED, logged=True)
        return JobOutcome(f"{record.name} proved restorable in {record.duration_s:.1f} s", logged=True)

    def last_good(self, recorded: datetime) -> datetime | None:
        """When a drill last proved something: after downtime one is caught up with by that."""
        proved = self.context.backups.drills.last_proved()
        return proved.drilled_at if proved else recorded
