"""How the scheduled dump tells of its end: one that gave way to a boot's dump was skipped, it didn't fail."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arcbackupd.errors import OperationFailed
from arcbackupd.jobs import JobContext, JobSettings, JobStatus
from arcbackupd.jobs.dump import DumpJob
from arcbackupd.operations.cancellation import GAVE_WAY, SUPERSEDED


@pytest.mark.parametrize(
    ("code", "status"),
    [(SUPERSEDED, JobStatus.SKIPPED), (GAVE_WAY, JobStatus.FAILED), ("disk-full", JobStatus.FAILED)],
)
def test_a_dump_that_a_boots_took_over_from_is_skipped_others_fail(code: str, status: JobStatus) -> None:
    async def main() -> JobStatus:
        result: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        result.set_exception(OperationFailed(code, "It was abandoned."))
        backups = SimpleNamespace(take=lambda _reason: SimpleNamespace(result=result))
        context = cast("JobContext", cast("Any", SimpleNamespace(backups=backups)))
        return (await DumpJob(JobSettings.model_validate({"schedule": "hourly"}), context).run()).status

    assert asyncio.run(main()) is status
