"""The cost of a piece of work: wall time, and CPU time by who spent it; memory of processes.

What the database's container spent (the server, and what runs beside it in there, pg_dump first of all) its control
group tells. What the whole machine spent beyond that is everything else: clients, compressors, the engine, our
daemon, the kernel's own threads. On a machine with other work to do that is too much, never too little.
"""

from __future__ import annotations

import os
import re
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.harness.process import CommandFailed
from tests.harness.stack import ArcsecondStack

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
ENGINE = ("dockerd", "containerd", "containerd-shim")


@dataclass
class Cost:
    """What a piece of work cost, in seconds."""

    wall: float = 0.0
    cpu_machine: float = 0.0
    cpu_database: float = 0.0
    cpu_commands: float = 0.0
    cpu_engine: float = 0.0
    cpu_daemon: float = 0.0

    def record(self, round_: int, **more: Any) -> dict[str, Any]:
        """Return it as one run of a method."""
        outside = self.cpu_machine - self.cpu_database
        return {"round": round_, **asdict(self), "cpu_outside": outside, **more}


@contextmanager
def measured(stack: ArcsecondStack, daemon: int | None = None) -> Iterator[Cost]:
    """Measure what is done inside; the cost is filled in at the end. `daemon` is our process, if one runs."""
    group = _cpu_file(stack)
    cost = Cost()
    before = _clocks(group, daemon)
    yield cost
    after = _clocks(group, daemon)
    for name, value in after.items():
        setattr(cost, name, value - before[name])


def _clocks(group: Path, daemon: int | None) -> dict[str, float]:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall": time.monotonic(),
        "cpu_machine": _machine_cpu(),
        "cpu_database": _group_cpu(group),
        "cpu_commands": children.ru_utime + children.ru_stime,
        # Without their children: the shim is the parent of what runs in the containers.
        "cpu_engine": sum(own_cpu(pid) for pid in _engine_pids()),
        "cpu_daemon": tree_cpu(daemon) if daemon else 0.0,
    }


def _machine_cpu() -> float:
    line = (PROC / "stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, line.split()[1:8])
    return (user + nice + system + irq + softirq) / TICK


def _cpu_file(stack: ArcsecondStack) -> Path:
    """Return the file that tells what the database's container has spent, in either version of control groups."""
    pid = stack.engine.run("inspect", "--format", "{{.State.Pid}}", stack.database).stdout.strip()
    for line in (PROC / pid / "cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            return _first(Path(f"/sys/fs/cgroup/{name}{path}/cpuacct.usage") for name in ("cpuacct", controllers))
    unified = (PROC / pid / "cgroup").read_text(encoding="utf-8").rsplit("0::", 1)[-1].strip()
    return _first([Path(f"/sys/fs/cgroup{unified}/cpu.stat")])


def _first(candidates: Any) -> Path:
    for path in candidates:
        if path.exists():
            return Path(path)
    raise CommandFailed("no control group tells what the database's container spends: /sys/fs/cgroup lacks it")


def _group_cpu(path: Path) -> float:
    text = path.read_text(encoding="ascii")
    if path.name == "cpuacct.usage":
        return int(text) / 1e9
    return int(dict(line.split() for line in text.splitlines())["usage_usec"]) / 1e6


def _engine_pids() -> list[int]:
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "comm").read_text().strip().startswith(ENGINE):
                    found.append(int(entry.name))
    return found


def own_cpu(pid: int) -> float:
    """Return what a process has spent by itself, its ended threads too; nothing when it has ended meanwhile."""
    try:
        return time.clock_gettime(_cpu_clock(pid))
    except OSError:
        return 0.0


def _cpu_clock(pid: int) -> int:
    """Return the id of a process's CPU clock, as clock_getcpuclockid(3) makes it: /proc only tells hundredths."""
    return (~pid << 3) | 2


def tree_cpu(pid: int) -> float:
    """Return what a process, its ended children and those that run have spent. Raise CommandFailed if it ended."""
    fields = _stat(pid)
    if not fields:
        raise CommandFailed(f"process {pid}, which is measured, has ended")
    ended = (int(fields[13]) + int(fields[14])) / TICK
    return own_cpu(pid) + ended + sum(own_cpu(child) for child in descendants(pid))


def _stat(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, and of theirs."""
    found: list[int] = []
    for task in (PROC / str(pid) / "task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text(encoding="ascii").split()):
                found += [child, *descendants(child)]
    return found


# Memory


def memory(pid: int) -> dict[str, int]:
    """Return a process's resident memory, its peak, and the proportional share of it and its children, in bytes."""
    return {
        "rss": _status(pid, "VmRSS"),
        "peak": _status(pid, "VmHWM"),
        "pss": _pss(pid),
        "pss_tree": _pss(pid) + sum(_pss(child, gone=0) for child in descendants(pid)),
    }


def reset_peak(pid: int) -> None:
    """Let the peak of a process's resident memory begin anew at what it has now."""
    (PROC / str(pid) / "clear_refs").write_text("5", encoding="ascii")


@contextmanager
def peaks(pid: int, every: float = 0.2) -> Iterator[dict[str, int]]:
    """Take a process's peak during what is done inside, and the highest sum seen of it and its children."""
    found: dict[str, int] = {}
    ending = threading.Event()
    sums: list[int] = []

    def watch() -> None:
        while not ending.wait(every):
            sums.append(sum(_pss(each, gone=0) for each in (pid, *descendants(pid))))

    reset_peak(pid)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ending.set()
        thread.join()
    found["peak"] = _status(pid, "VmHWM")
    found["peak_tree"] = max(sums, default=0) or found["peak"]


def _status(pid: int, name: str) -> int:
    text = (PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if match is None:
        raise CommandFailed(f"process {pid} tells no {name}")
    return int(match[1]) << 10


def _pss(pid: int, gone: int | None = None) -> int:
    try:
        text = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except OSError:
        if gone is None:
            raise
        return gone
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) << 10 if match else 0
