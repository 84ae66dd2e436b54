"""The scheduled upload of what is missing off this host."""

from __future__ import annotations

import asyncio

from arcbackupd.errors import ArcbackupdError
from arcbackupd.jobs import Job, JobOutcome, JobSettings, JobStatus


class UploadJob(Job[JobSettings]):
    """Brings every destination up to date, all at the same time, after the dump that is being taken."""

    name = "upload"
    default_schedule = "hourly"

    async def run(self) -> JobOutcome:
        """Upload to each; one that fails keeps none of the others."""
        off_host = self.context.off_host
        if not off_host.used:
            return JobOutcome("no destination is configured", JobStatus.SKIPPED, logged=True)
        await self.context.backups.settled()
        results = await asyncio.gather(
            *(off_host.upload(place).result for place in off_host.used), return_exceptions=True
        )
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed:
            first = failed[0]
            if not isinstance(first, ArcbackupdError):
                raise first
            others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            return JobOutcome(f"{first.message}{others}", JobStatus.FAILED, logged=True)
        files = sum(result.files for result in results if not isinstance(result, BaseException))
        return JobOutcome(f"uploaded {files} files to {len(results)} destinations", logged=True)
