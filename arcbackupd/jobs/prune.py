"""The scheduled pruning."""

from __future__ import annotations

from arcbackupd.jobs import Job, JobOutcome, JobSettings, JobStatus


class PruneJob(Job[JobSettings]):
    """Removes by schedule what retention no longer keeps."""

    name = "prune"
    default_schedule = "daily"

    async def run(self) -> JobOutcome:
        """Prune, after whatever runs."""
        outcome = await self.context.backups.prune().result
        if outcome.plan.plan.frozen:
            return JobOutcome(outcome.plan.plan.frozen, JobStatus.SKIPPED, logged=True)
        return JobOutcome(f"removed {len(outcome.removed)}, freed {outcome.freed} bytes", logged=True)
