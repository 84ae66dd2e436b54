"""Faults: the daemon dies by SIGKILL, before any one change of the disk, at any step, at any time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.e2e.restoring import NEW
from tests.torture.rig import SECONDS, Rig

MANY = 10_000
Doing = Callable[[Rig], None]


def dump(rig: Rig) -> None:
    """Take a dump of something new."""
    rig.ask("Backup")


def prune(rig: Rig) -> None:
    """Prune what is a month old."""
    rig.ask("Prune")


def restore(rig: Rig) -> None:
    """Restore the other state, beside the live database."""
    rig.ask("Restore", name=NEW, safety_backup=True)


def restore_in_place(rig: Rig) -> None:
    """Restore the other state in the live database's place."""
    rig.ask("Restore", name=NEW, in_place=True)


def rollback(rig: Rig) -> None:
    """Restore the other state and roll it back."""
    rig.ask("Restore", name=NEW, safety_backup=False)
    rig.ask("Rollback")


def make_ready(rig: Rig, doing: Doing) -> None:
    """Make what an operation needs, and allow what it may do."""
    if doing is prune:
        rig.age()
    if doing in (restore, restore_in_place, rollback):
        rig.live = [rig.new]
        rig.bring_new()


@dataclass(frozen=True)
class AtAChange:
    """Death before one of the changes that an operation makes to the disk: each one's turn comes."""

    doing: Doing

    def prepare(self, rig: Rig) -> None:
        make_ready(rig, self.doing)
        if self.doing.__name__ not in rig.changes:
            rig.change()
            rig.changes[self.doing.__name__] = count_changes(rig, self.doing)
            make_ready(rig, self.doing)

    def strike(self, rig: Rig) -> None:
        rig.place.write_text(f"change:{rig.next_change(self.doing.__name__)}", encoding="ascii")
        self.doing(rig)
        rig.wait_dead()


def count_changes(rig: Rig, doing: Doing) -> int:
    """Let an operation go through, and count its changes."""
    rig.place.write_text(f"change:{MANY}", encoding="ascii")
    doing(rig)
    rig.wait_rest()
    left = int(rig.place.read_text(encoding="ascii").removeprefix("change:"))
    rig.place.unlink()
    assert left < MANY, f"{doing.__name__} did nothing:\n{rig.daemon.log()}"
    return MANY - left


@dataclass(frozen=True)
class AtStep:
    """Death as an operation says that it comes to a step."""

    step: str
    doing: Doing

    def prepare(self, rig: Rig) -> None:
        make_ready(rig, self.doing)

    def strike(self, rig: Rig) -> None:
        rig.place.write_text(f"step:{self.step}", encoding="ascii")
        self.doing(rig)
        assert not rig.wait_dead(), f"there is no step {self.step}"


@dataclass(frozen=True)
class AtAnyTime:
    """Death at a random time within an operation of about so many seconds."""

    seconds: float
    doing: Doing

    def prepare(self, rig: Rig) -> None:
        make_ready(rig, self.doing)

    def strike(self, rig: Rig) -> None:
        working = threading.Thread(target=self.doing, args=(rig,))
        working.start()
        time.sleep(rig.chance.uniform(0, self.seconds))
        rig.daemon.kill()
        working.join(SECONDS)


@dataclass(frozen=True)
class Hanging:
    """A daemon that stands still in the middle of a dump, and dies like that."""

    def prepare(self, rig: Rig) -> None:
        pass

    def strike(self, rig: Rig) -> None:
        with rig.dump_in_its_middle():
            os.kill(rig.daemon.pid, signal.SIGSTOP)
            time.sleep(rig.chance.uniform(0, 1))
            rig.daemon.kill()
