"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import arcbackupd
from bench.site import Site
from tests.harness.engine import work_dir
from tests.harness.process import run


def describe() -> dict[str, str]:
    """Return the machine, by name of what is told."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    usage = shutil.disk_usage(work_dir())
    return {
        "CPU": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "disk": f"{_file_system()}, {usage.total / 1e9:.0f} GB, {usage.free / 1e9:.0f} GB free at the beginning",
        "kernel": f"{platform.system()} {platform.release()}",
        "load at the beginning": f"{os.getloadavg()[0]:.2f}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def versions(site: Site) -> dict[str, str]:
    """Return the versions of what takes part; the peers' are with their figures."""
    return {
        "arcbackupd": f"{arcbackupd.__version__}{_commit()}",
        "Python": platform.python_version(),
        "PostgreSQL": site.stack.psql("SHOW server_version"),
        "Docker": site.engine.run("version", "--format", "{{.Server.Version}}").stdout.strip(),
        "gzip": run(["gzip", "--version"]).stdout.splitlines()[0].removeprefix("gzip "),
    }


def _file_system() -> str:
    done = run(["stat", "--file-system", "--format", "%T", str(work_dir())], check=False)
    return done.stdout.strip() or "unknown file system"


def _commit() -> str:
    """Return the commit that was measured, where this is a checkout."""
    here = str(Path(__file__).parent)
    if shutil.which("git") is None:
        return ""
    done = run(["git", "-C", here, "describe", "--always", "--dirty"], check=False)
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""
