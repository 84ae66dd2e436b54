"""A job and a destination that hang as they are imported: the real daemon starts, dumps and stops."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.daemon import Daemon
from tests.harness.plugins import build_plugin
from tests.harness.stack import ArcsecondStack

HANG = "import threading\nthreading.Event().wait()\n"
PROBLEM = "it isn't set up after 10 s"


def test_plugins_that_hang_at_import_keep_the_daemon_from_nothing(stack16: ArcsecondStack, tmp_path: Path) -> None:
    wheels = [
        build_plugin(tmp_path, "slow_weather", HANG, "weather = slow_weather:Weather"),
        build_plugin(tmp_path, "slow_tape", HANG, "tape = slow_tape:Tape", group="arcbackupd.destinations"),
    ]
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, *map(str, wheels)], check=True, timeout=120)

    settings: dict[str, Any] = {
        "jobs": {"weather": {}},
        "destinations": {"vault": {"type": "tape"}},
        "upload": {"dumps": {"to": ["vault"]}},
    }
    with Daemon(stack16, environment={"PYTHONPATH": str(site)}, **settings) as daemon:
        daemon.wait_boot_dumps(1)
        assert daemon.log_lines("Job weather failed to load")
        status = daemon.json("status", status=None)
        assert PROBLEM in str([job for job in status["jobs"] if job["name"] == "weather"])
        assert PROBLEM in str(status["destinations"])
        assert len(daemon.names()) == 1

        daemon.signal(signal.SIGHUP)
        assert daemon.json("jobs")["jobs"]
        assert not daemon.log_lines("was read again"), "it answers only after it has waited for the plugins"
        daemon.wait_log("was read again", seconds=60)

        daemon.signal(signal.SIGHUP)
        daemon.json("jobs")
        assert daemon.stop() == 0
        assert len(daemon.log_lines("was read again")) == 1, "the stop has waited for the plugins"
