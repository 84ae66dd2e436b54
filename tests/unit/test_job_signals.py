"""What the runner tells of a job's runs: begun and ended, under one id; nothing of the end of one cut short."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arcbackupd.alarms import JobBegan, JobEnded
from arcbackupd.errors import LONGEST_MESSAGE, OperationFailed, shortened
from arcbackupd.jobs import JobOutcome, JobStatus
from arcbackupd.scheduling import JobHistory, JobRunner, LoadedJob


def signals(tmp_path: Path, outcome: Any, *, stop: bool = False) -> list[JobBegan | JobEnded]:
    heard: list[JobBegan | JobEnded] = []
    at_it = asyncio.Event()

    async def work() -> Any:
        at_it.set()
        if stop:
            await asyncio.sleep(60)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def main() -> None:
        runner = JobRunner(JobHistory(tmp_path), heard.append)
        job = SimpleNamespace(name="dump", job=SimpleNamespace(run=work))
        run = runner.submit(cast("LoadedJob", cast("Any", job)))
        if stop:
            await at_it.wait()
            await runner.stop(timedelta())
        else:
            await run

    asyncio.run(main())
    return heard


@pytest.mark.parametrize(
    ("outcome", "message", "problem"),
    [
        ("published x", "published x", None),
        (None, "done", None),
        (JobOutcome("nothing to do", JobStatus.SKIPPED), "nothing to do", None),
        (OperationFailed("disk-full", "The disk is full."), "The disk is full.", "The disk is full."),
        (JobOutcome("", JobStatus.FAILED), "failed", "it failed"),
        (ValueError("no"), "ValueError: no", "ValueError: no"),
    ],
)
def test_a_run_is_told_when_it_begins_and_how_it_ended_under_one_id(
    tmp_path: Path, outcome: Any, message: str, problem: str | None
) -> None:
    began, ended = signals(tmp_path, outcome)
    assert isinstance(began, JobBegan)
    assert isinstance(ended, JobEnded)
    assert (began.job, ended.job, began.run) == ("dump", "dump", ended.run)
    assert (ended.message, ended.problem) == (message, problem)


def test_of_a_run_that_the_daemons_end_cut_short_only_the_beginning_is_told(tmp_path: Path) -> None:
    (began,) = signals(tmp_path, None, stop=True)
    assert isinstance(began, JobBegan)


def test_what_is_too_long_is_cut_between_words_so_that_no_half_of_a_secret_is_left() -> None:
    words = "word " * (LONGEST_MESSAGE // 5 - 1)
    assert shortened(words + "hunter2-S3cr3t") == f"{words}…"
    assert shortened("x" * 2 * LONGEST_MESSAGE) == "…"
    assert shortened(words) == words
