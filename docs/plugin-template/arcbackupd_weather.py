"""A job for arcbackupd: notes, by schedule, what the weather station wrote last."""

from __future__ import annotations

from pathlib import Path

from arcbackupd.jobs import Job, JobOutcome, JobSettings, JobStatus


class WeatherSettings(JobSettings):
    """The table ``[jobs.weather]``; ``schedule`` and ``enabled`` come from JobSettings."""

    file: Path
    """What the station writes its lines to, such as "12.3 C, clear"."""


class WeatherJob(Job[WeatherSettings]):
    """Says what the station says. What ``run`` raises is logged, and shown by `arcbackupctl jobs`."""

    name = "weather"
    Settings = WeatherSettings
    default_schedule = "every 10m"

    async def run(self) -> JobOutcome:
        """Read the file once."""
        if not self.settings.file.exists():
            return JobOutcome(f"{self.settings.file} is not there yet", JobStatus.SKIPPED)
        lines = self.settings.file.read_text(encoding="utf-8").splitlines()
        return JobOutcome(lines[-1] if lines else "no weather yet", fields={"station": self.settings.file.name})
