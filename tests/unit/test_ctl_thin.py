"""The client half is thin: what it loads, and how soon it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.control_service import SmallService, backup_row, serving

ROOT = Path(__file__).parents[2]
HEAVY = {"pydantic", "pydantic_settings", "sh", "apscheduler", "structlog", "isal", "cysystemd", "asyncio", "rich"}
OURS = {
    "arcbackupd",
    "arcbackupd.control",
    "arcbackupd.control.client",
    "arcbackupd.ctl",
    "arcbackupd.ctl.alarms",
    "arcbackupd.ctl.anomalies",
    "arcbackupd.ctl.doctor",
    "arcbackupd.ctl.drill",
    "arcbackupd.ctl.following",
    "arcbackupd.ctl.interrupts",
    "arcbackupd.ctl.main",
    "arcbackupd.ctl.nagios",
    "arcbackupd.ctl.names",
    "arcbackupd.ctl.offhost",
    "arcbackupd.ctl.progress",
    "arcbackupd.ctl.render",
    "arcbackupd.ctl.render_alarms",
    "arcbackupd.ctl.render_doctor",
    "arcbackupd.ctl.render_drill",
    "arcbackupd.ctl.render_offhost",
    "arcbackupd.ctl.render_restore",
    "arcbackupd.ctl.render_status",
    "arcbackupd.ctl.report",
    "arcbackupd.ctl.report.command",
    "arcbackupd.ctl.restore",
    "arcbackupd.ctl.session",
    "arcbackupd.ctl.watching",
    "arcbackupd.ctl.words",
    "arcbackupd.errors",
}
RUN = """
import contextlib, io, json, sys
from arcbackupd.ctl.main import main
with contextlib.redirect_stdout(io.StringIO()):
    status = main(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]))
"""


def modules_of(*arguments: str) -> set[str]:
    """Return the modules that are loaded when the client has run."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    status, modules = json.loads(done.stdout)
    assert status == 0
    return set(modules)


@pytest.mark.parametrize(
    "command",
    [
        "--version",
        "list",
        "list --json",
        "status",
        "doctor",
        "inspect 1",
        "backup",
        f"restore {backup_row()['name']} --yes",
    ],
)
def test_the_client_loads_nothing_heavy_and_nothing_of_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("ARCBACKUPD_SOCKET", str(tmp_path / "s"))
    with serving(tmp_path / "s"):
        loaded = modules_of(*command.split())
    assert {name for name in loaded if name.partition(".")[0] == "arcbackupd"} <= OURS
    assert loaded & HEAVY == set()


def test_the_dialler_loads_the_standard_library_only() -> None:
    code = "import sys, arcbackupd.control.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "arcbackupd" in loaded
    assert loaded - {"arcbackupd", "__main__"} <= sys.stdlib_module_names


def test_a_list_of_two_weeks_takes_little_more_than_the_start_of_python_and_click(tmp_path: Path) -> None:
    rows = [backup_row(number) for number in range(1, 337)]
    with serving(tmp_path / "s", SmallService(rows)):
        client = cpu_seconds("-m", "arcbackupd.ctl.main", "--socket", str(tmp_path / "s"), "list", "--json")
    least = cpu_seconds("-c", "import click, json, socket")
    assert client < 2.5 * least


def cpu_seconds(*arguments: str) -> float:
    """Return what Python takes with these arguments: of the processor, since the machine may have more to do."""
    seconds = []
    for _ in range(9):
        client = os.posix_spawn(
            sys.executable,
            [sys.executable, *arguments],
            {**os.environ, "PYTHONPATH": str(ROOT)},
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(client, 0)
        assert status == 0
        seconds.append(usage.ru_utime + usage.ru_stime)
    return min(seconds)
