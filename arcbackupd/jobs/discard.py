"""The scheduled dropping of the databases that restores replaced."""

from __future__ import annotations

from arcbackupd.errors import ArcbackupdError
from arcbackupd.jobs import Job, JobOutcome, JobSettings, JobStatus


class DiscardJob(Job[JobSettings]):
    """Drops by schedule what was kept long enough for a rollback and is in a backup."""

    name = "discard"
    default_schedule = "every 15m"

    async def run(self) -> JobOutcome:
        """Drop them, after whatever runs; nothing is asked of the server when none is kept."""
        restores = self.context.restores
        if not restores.replaced():
            return JobOutcome("no replaced database is kept", JobStatus.SKIPPED, logged=True)
        try:
            dropped = await restores.expire().result
        except ArcbackupdError as error:
            return JobOutcome(error.message, JobStatus.FAILED)
        return JobOutcome(f"dropped {len(dropped)}", logged=not dropped)
