"""A third party's jobs, installed as real packages: found, configured, run and, when they are bad, survived.

Each package is built as a wheel and installed by pip beside, not into, the environment of the tests; a process of
its own then finds it as the daemon would, by its entry point.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.harness.plugins import build_plugin

WEATHER = """
    from arcbackupd.jobs import Job, JobOutcome, JobSettings

    class WeatherSettings(JobSettings):
        station: str
        interval_limit: int = 5

    class WeatherJob(Job[WeatherSettings]):
        name = "weather"
        Settings = WeatherSettings
        default_schedule = "every 1s"

        async def run(self) -> JobOutcome:
            self.context.log.info("Asked the station", station=self.settings.station)
            return JobOutcome("clear sky", fields={"clouds": 0})
"""

BAD_IMPORT = "import sys\nsys.exit('this plugin ends the process that imports it')\n"

BAD_RUN = """
    from arcbackupd.jobs import Job, JobSettings

    class BadRun(Job):
        name = "badrun"
        default_schedule = "every 1s"

        async def run(self):
            raise SystemExit("this job ends the process that runs it")
"""

# What the daemon does, without the daemon: load, schedule, run, stop.
DRIVER = """
    import asyncio, json, sys
    from datetime import UTC, datetime, timedelta
    from pathlib import Path

    import structlog
    from arcbackupd.errors import UsageError
    from arcbackupd.jobs import JobContext
    from arcbackupd.log import get_logger
    from arcbackupd.scheduling import ClockWatch, FailedJob, JobHistory, JobRunner, Scheduler, load_jobs

    structlog.configure(processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ])
    tables, state_dir = json.loads(sys.argv[1]), Path(sys.argv[2])
    runs = {name: 0 for name in tables}

    def context(name):
        log = get_logger().bind(job=name)
        nothing = {"backups": None, "restores": None, "off_host": None, "drills": None}
        return JobContext(**nothing, log=log, state_dir=state_dir, host="host")

    async def main(jobs):
        history, wanted, enough = JobHistory(state_dir), 2, asyncio.Event()
        runner = JobRunner(history)
        expected = {job.name for job in jobs if not isinstance(job, FailedJob)}

        def counted(job):
            runs[job.name] += 1
            if all(runs[name] > wanted for name in expected):
                enough.set()
            return runner.submit(job)

        scheduler = Scheduler(jobs, submit=counted, history=history, clock=ClockWatch(state_dir))
        scheduler.start()
        await asyncio.wait_for(enough.wait(), 60)
        await scheduler.stop()
        await runner.stop(timedelta(seconds=10))
        return [state.as_dict() for state in scheduler.states()]

    try:
        jobs = load_jobs(tables, context, host_id="host", always=())
    except UsageError as error:
        print(json.dumps({"error": error.as_dict()}))
    else:
        states = asyncio.run(main(jobs))
        print(json.dumps({"states": states, "runs": runs}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip has installed three packages of third parties."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    built = [
        build_plugin(wheels, "observatory_weather", WEATHER, "weather = observatory_weather:WeatherJob"),
        build_plugin(wheels, "observatory_badimport", BAD_IMPORT, "badimport = observatory_badimport:Job"),
        build_plugin(wheels, "observatory_badrun", BAD_RUN, "badrun = observatory_badrun:BadRun"),
    ]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, *map(str, built)], check=True, timeout=120)
    return target


@pytest.fixture
def drive(site: Path, tmp_path: Path, repository: Path) -> Any:
    """Run the given tables in a process that has those packages; return its last line and its log."""

    def run(tables: dict[str, dict[str, object]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        driver = tmp_path / "driver.py"
        driver.write_text(textwrap.dedent(DRIVER), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(driver), json.dumps(tables), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": f"{site}:{repository}"},
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0
        *log, result = map(json.loads, done.stdout.splitlines())
        return result, log

    return run


def test_a_third_party_job_is_found_validated_run_on_its_schedule_and_logged_with_its_fields(drive: Any) -> None:
    result, log = drive({"weather": {"station": "Paranal"}})
    (state,) = result["states"]
    assert (state["name"], state["schedule"], state["enabled"], state["problem"]) == (
        "weather",
        "every 1s",
        True,
        None,
    )
    assert (state["last_run"]["status"], state["last_run"]["message"]) == ("done", "clear sky")
    assert result["runs"]["weather"] == 3
    asked = {"event": "Asked the station", "job": "weather", "station": "Paranal", "level": "info"}
    ended = {"event": "Job weather done: clear sky", "job": "weather", "clouds": 0, "level": "info"}
    assert log == [asked, ended] * 3


def test_the_schedule_of_the_table_goes_before_the_default_one(drive: Any) -> None:
    result, _ = drive({"weather": {"station": "Paranal", "schedule": "every 2s"}})
    assert result["states"][0]["schedule"] == "every 2s"


def test_plugins_that_end_the_process_at_import_or_in_run_take_nothing_down(drive: Any) -> None:
    result, log = drive({"weather": {"station": "Paranal"}, "badimport": {}, "badrun": {}})
    states = {state["name"]: state for state in result["states"]}
    assert "SystemExit: this plugin ends the process" in states["badimport"]["problem"]
    assert "observatory" in states["badimport"]["hint"]
    assert states["badrun"]["last_run"]["status"] == "failed"
    assert "SystemExit: this job ends the process" in states["badrun"]["last_run"]["message"]
    assert states["weather"]["last_run"]["status"] == "done"
    assert result["runs"]["badrun"] >= 3
    assert {entry["job"] for entry in log if entry["level"] == "error"} == {"badimport", "badrun"}


def test_wrong_settings_of_a_third_party_job_are_reported_with_their_key_and_without_their_value(
    drive: Any,
) -> None:
    result, _ = drive({"weather": {"station": "Paranal", "interval_limit": "hunter2"}, "badrun": {}})
    states = {state["name"]: state for state in result["states"]}
    assert states["weather"]["problem"].startswith("jobs.weather.interval_limit: input should be a valid integer")
    assert "hunter2" not in json.dumps(result)
    assert states["badrun"]["last_run"] is not None


def test_a_table_whose_package_is_not_installed_is_a_configuration_error_that_names_those_that_are(
    drive: Any,
) -> None:
    result, _ = drive({"seeing": {}})
    assert result["error"]["code"] == "configuration"
    assert "jobs.seeing" in result["error"]["message"]
    assert "weather" in result["error"]["hint"]
