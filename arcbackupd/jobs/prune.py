"""The scheduled pruning."""

from __future__ import annotations

from arcbackupd.errors import ArcbackupdError
from arcbackupd.jobs import Job, JobOutcome, JobSettings, JobStatus


class PruneJob(Job[JobSettings]):
    """Removes by schedule what retention no longer keeps."""

    name = "prune"
    default_schedule = "daily"

    async def run(self) -> JobOutcome:
        """Prune, after whatever runs."""
        try:
            outcome = await self.context.backups.prune().result
        except ArcbackupdError as error:
            return JobOutcome(error.message, JobStatus.FAILED, logged=True)
        if outcome.plan.plan.frozen:
            return JobOutcome(outcome.plan.plan.frozen, JobStatus.SKIPPED, logged=True)
        return JobOutcome(f"removed {len(outcome.removed)}, freed {outcome.freed} bytes", logged=True)
