"""The server in a process of its own, attacked: its memory and descriptors, and others' patience."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from arcbackupd.control.client import Connection
from tests.unit.control_service import HOSTILE, LIST, Raw, eventually


@contextmanager
def process(path: Path, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Run the small service in a process of its own."""
    command = [sys.executable, "-m", "tests.unit.control_service", str(path), json.dumps(settings)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root) as served:
        assert served.stdout
        assert served.stdout.readline() == "ready\n"
        try:
            yield served
        finally:
            served.send_signal(signal.SIGTERM)
            served.wait(20)


def descriptors(served: subprocess.Popen[str]) -> int:
    return sum(1 for _ in Path(f"/proc/{served.pid}/fd").iterdir())


def resident(served: subprocess.Popen[str]) -> int:
    """Return the process's resident memory in bytes."""
    pages = int(Path(f"/proc/{served.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def polite(path: Path, done: threading.Event, latencies: list[float]) -> None:
    """Do as arcbackupctl does, again and again: dial, list, hang up."""
    while not done.is_set():
        begun = time.monotonic()
        with Connection(str(path)) as daemon:
            assert len(daemon.call("List")["backups"]) == 20
        latencies.append(time.monotonic() - begun)
        done.wait(0.02)


def attack(path: Path, count: int) -> list[str]:
    """Send so many bad messages, each on a connection of its own; return what became of each."""
    kinds = [*(message + b"\0" for message in HOSTILE.values()), b"x" * 70_000, b'{"half": ', b""]
    fates, open_ones = [], []
    for number in range(count):
        message = kinds[number % len(kinds)]
        raw = Raw(path)
        raw.sent(message)
        if message[-1:] != b"\0" and len(message) < 65_536:
            open_ones.append(raw)  # half or slow: left standing, for others to push out
            fates.append("left standing")
        else:
            fates.append("answered" if raw.reply() else "dropped")
            raw.close()
        if len(open_ones) > 100:
            open_ones.pop(0).close()
    for raw in open_ones:
        raw.close()
    return fates


def test_ten_thousand_bad_messages_cost_others_little_and_leave_nothing(tmp_path: Path) -> None:
    path, latencies, done = tmp_path / "s", list[float](), threading.Event()
    with process(path, limits={"request_seconds": 1.0}) as served:
        at_rest = descriptors(served)
        well_behaved = threading.Thread(target=polite, args=(path, done, latencies))
        well_behaved.start()
        attack(path, 500)
        eventually(lambda: len(latencies) > 20)
        memory = resident(served)
        fates = attack(path, 10_000)
        done.set()
        well_behaved.join()
        eventually(lambda: descriptors(served) <= at_rest)
        grown = resident(served) - memory
        with Raw(path) as raw:
            assert raw.ask(LIST) is not None
    assert served.returncode == 0
    assert len(fates) == 10_000
    assert fates.count("dropped") < 2 * fates.count("answered") / len(HOSTILE)
    assert grown < 8 * 1024 * 1024, f"grew by {grown} bytes"
    assert max(latencies) < 2.0, f"slowest of {len(latencies)}: {max(latencies)}"


def test_when_descriptors_run_out_the_server_neither_dies_nor_spins_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with process(path, descriptors=20, limits={"accept_pause": 0.1}) as served:
        crowd = [Raw(path) for _ in range(40)]
        eventually(lambda: descriptors(served) >= 19)
        with Raw(path) as raw:
            assert raw.ask(LIST) is not None  # the idle ones have given way
        ticks = cpu_ticks(served)
        time.sleep(0.5)
        assert cpu_ticks(served) - ticks < 25, "it spins"
        for connection in crowd:
            connection.close()
        eventually(lambda: descriptors(served) < 12)
        with Raw(path) as raw:
            assert raw.ask(LIST) is not None
        served.send_signal(signal.SIGTERM)
        assert served.stderr
        said = served.stderr.read()
    assert said.count("No connection can be accepted") == 1
    assert "Too many open files" in said


def cpu_ticks(served: subprocess.Popen[str]) -> int:
    fields = Path(f"/proc/{served.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_client_that_sends_call_after_call_without_reading_holds_nobody_up(tmp_path: Path) -> None:
    path, latencies, done = tmp_path / "s", list[float](), threading.Event()
    with process(path, limits={"write_seconds": 0.5}) as served:
        well_behaved = threading.Thread(target=polite, args=(path, done, latencies))
        well_behaved.start()
        flood = json.dumps(LIST).encode() + b"\0"
        for _ in range(5):
            with Raw(path) as raw:
                eventually(lambda raw=raw: not raw.sent(flood * 100))  # type: ignore[misc]
        done.set()
        well_behaved.join()
        assert resident(served) < 120 * 1024 * 1024
    assert max(latencies) < 2.0


def test_sigterm_ends_the_process_cleanly_and_takes_the_socket_away(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with process(path) as served, closing(Raw(path)) as raw:
        served.send_signal(signal.SIGTERM)
        assert raw.reply() is None
        assert served.stdout
        assert served.stdout.read() == "stopped\n"
    assert served.returncode == 0
    assert not path.exists()
