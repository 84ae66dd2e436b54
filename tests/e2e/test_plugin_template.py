"""The template for plugins is a package: it builds, its own test passes, and its job runs in the real daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.restoring import BY_HAND
from tests.harness.daemon import Daemon
from tests.harness.process import run
from tests.harness.stack import ArcsecondStack
from tests.harness.systemd_host import build_wheel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template, as somebody makes one."""
    copy = tmp_path_factory.mktemp("template") / "weather"
    shutil.copytree(repository / "docs" / "plugin-template", copy)
    return copy


@pytest.fixture(scope="module")
def site(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip has installed it from its wheel."""
    wheel = build_wheel(source, tmp_path_factory.mktemp("wheel"))
    assert wheel.name == "arcbackupd_weather-1.0-py3-none-any.whl"
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    run([*pip, str(wheel)], timeout=120)
    return target


def test_its_own_test_passes(source: Path, site: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_its_job_runs_in_the_daemon(stack16: ArcsecondStack, site: Path, tmp_path: Path) -> None:
    station = tmp_path / "station.txt"
    station.write_text("12.3 C, clear\n")
    jobs = {**BY_HAND, "weather": {"file": str(station), "schedule": "every 1s"}}
    with Daemon(stack16, environment={"PYTHONPATH": str(site)}, jobs=jobs) as daemon:
        assert "station=station.txt" in daemon.wait_log("12.3 C, clear", seconds=60)
        job = next(job for job in daemon.json("jobs")["jobs"] if job["name"] == "weather")
        assert (job["state"], job["last_outcome"], job["last_error"]) == ("active", "done", None)


def test_what_its_table_has_wrong_is_told_and_the_rest_runs(stack16: ArcsecondStack, site: Path) -> None:
    jobs = {**BY_HAND, "weather": {"fiel": "/x"}}
    with Daemon(stack16, environment={"PYTHONPATH": str(site)}, jobs=jobs) as daemon:
        problems = {problem["code"]: problem for problem in daemon.json("status", status=None)["problems"]}
        assert "jobs.weather.fiel: no such setting" in problems["job-failed-to-load"]["message"]
        daemon.wait_boot_dumps(1)
        assert daemon.json("backup")["outcome"] in ("published", "unchanged")
