"""Faults of the clock: it is set, forward and back, by minutes and by years; the host sleeps for a day."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from datetime import timedelta

from tests.e2e.restoring import call
from tests.harness.process import wait_until
from tests.torture.rig import SECONDS, Rig

LEAPS = [timedelta(minutes=6), timedelta(hours=1), timedelta(days=1), timedelta(days=30), timedelta(days=3650)]


@dataclass(frozen=True)
class Jump:
    """The wall clock is set, by a random leap; it is put right again in the end. Nothing at all may be pruned."""

    forward: bool

    def prepare(self, rig: Rig) -> None:
        rig.age()
        rig.all_stay = True

    def strike(self, rig: Rig) -> None:
        assert rig.clock is not None
        leap = rig.chance.choice(LEAPS) * rig.chance.uniform(1, 2) * (1 if self.forward else -1)
        rig.clock.jump(leap)
        try:
            answer = rig.ask("Backup")
            rig.ask("Prune")
            assert answer, f"no dump after a jump by {leap}:\n{rig.daemon.log()}"
            assert answer["result"]["outcome"] == "published"
        finally:
            rig.clock.jump(-leap)
        rig.ask("Prune")


@dataclass(frozen=True)
class Sleep:
    """The host sleeps for a day, with hourly dumps: one is taken when it wakes up, and that was no jump."""

    def prepare(self, rig: Rig) -> None:
        wait_until(lambda: _has_run(rig), "the dump that the daemon's start brings", seconds=SECONDS)
        rig.wait_rest()

    def strike(self, rig: Rig) -> None:
        assert rig.clock is not None
        before = set(rig.daemon.names())
        os.kill(rig.daemon.pid, signal.SIGSTOP)
        rig.clock.suspend(timedelta(days=1))
        time.sleep(0.5)
        os.kill(rig.daemon.pid, signal.SIGCONT)
        wait_until(lambda: set(rig.daemon.names()) - before, "the dump that was missed", seconds=SECONDS)
        rig.wait_rest()
        assert len(set(rig.daemon.names()) - before) == 1, rig.daemon.log()
        assert not rig.daemon.log_lines("The clock jumped")


def _has_run(rig: Rig) -> bool:
    jobs = call(rig.daemon, "Jobs")["jobs"]
    return any(job["name"] == "dump" and job["last_run"] for job in jobs)
