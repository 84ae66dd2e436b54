"""How much dumps give way, in programs and in threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from arcbackupd.niceness import NORMAL, IoClass, Niceness

TOLD: dict[IoClass, str] = {"normal": "none", "low": "best-effort: prio 7", "idle": "idle"}
SHOW = 'import os, subprocess; print(os.nice(0), flush=True); subprocess.run(["ionice", "-p", str(os.getpid())])'


@pytest.mark.parametrize("io", TOLD)
def test_a_program_runs_as_nice_as_it_is_told(io: IoClass) -> None:
    argv = [*Niceness(12, io).wrapper(), sys.executable, "-c", SHOW, "with spaces", "$HOME"]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert told[0] == "12"
    # Without a class of its own it has the level that goes with its niceness.
    assert told[1].startswith(TOLD[io])


def test_arguments_come_through_unchanged_and_the_status_back() -> None:
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    arguments = ["a b", "$(touch x)", "'", ""]
    done = subprocess.run(
        [*Niceness(1).wrapper(), sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == (str(arguments), 7)


def test_nothing_stands_before_a_program_of_normal_priority() -> None:
    assert NORMAL.wrapper() == ()


@pytest.mark.parametrize("io", TOLD)
def test_a_thread_adopts_it_for_itself_alone(io: IoClass) -> None:
    seen: list[tuple[int, str]] = []

    def work() -> None:
        Niceness(9, io).adopt()
        mine = threading.get_native_id()
        told = subprocess.run(["ionice", "-p", str(mine)], capture_output=True, text=True, check=True).stdout
        seen.append((os.getpriority(os.PRIO_PROCESS, mine), told))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    [(cpu, told)] = seen
    assert cpu == 9
    assert told.startswith(TOLD[io])
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 9


def test_who_is_nicer_already_stays_so() -> None:
    code = "from arcbackupd.niceness import Niceness; import os; Niceness(3).adopt(); print(os.nice(0))"
    done = subprocess.run(
        ["nice", "-n", "8", sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "8"
