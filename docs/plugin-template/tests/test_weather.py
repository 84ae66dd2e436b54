"""The job by itself: no daemon is needed to see what it does."""

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest
from arcbackupd_weather import WeatherJob
from pydantic import ValidationError

from arcbackupd.jobs import JobContext, JobOutcome, JobStatus


def run(file: Path) -> JobOutcome:
    settings = WeatherJob.Settings.model_validate({"schedule": WeatherJob.default_schedule, "file": str(file)})
    return asyncio.run(WeatherJob(settings, Mock(spec=JobContext)).run())


def test_it_tells_the_last_line(tmp_path: Path) -> None:
    (tmp_path / "station.txt").write_text("11.9 C, cloudy\n12.3 C, clear\n")
    assert run(tmp_path / "station.txt").message == "12.3 C, clear"


def test_without_a_file_it_is_skipped(tmp_path: Path) -> None:
    assert run(tmp_path / "station.txt").status is JobStatus.SKIPPED


def test_a_mistyped_setting_is_an_error() -> None:
    with pytest.raises(ValidationError, match="fiel"):
        WeatherJob.Settings.model_validate({"schedule": "hourly", "fiel": "/x"})
