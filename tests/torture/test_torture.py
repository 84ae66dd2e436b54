"""The real daemon under real faults; what must hold after each is in tests/torture/checker.py.

`make torture` goes on for TORTURE_SECONDS; `make test` lets each fault strike a few times.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.harness.own_engine import OwnEngine
from tests.torture import changed_files, clocks, crowd, disks, kills, outages
from tests.torture.conftest import SECONDS, Ground, Grounds, Note
from tests.torture.rig import Fault, Rig, rounds

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A fault, how often it strikes at least, and the settings of the daemon that it needs."""

    name: str
    fault: Fault
    rounds: int = 1
    ground: Ground = "plain"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def least(self) -> int:
        """How often it strikes at least: a part of it where not torture is asked for, but a test."""
        return self.rounds if SECONDS else max(1, self.rounds // 3)


KILLS = [
    Case("SIGKILL before a change that a dump makes", kills.AtAChange(kills.dump), 6),
    Case("SIGKILL before a change that a prune makes", kills.AtAChange(kills.prune), 4),
    Case("SIGKILL before a change that a restore makes", kills.AtAChange(kills.restore), 4),
    Case("SIGKILL before a change that a restore in place makes", kills.AtAChange(kills.restore_in_place), 3),
    Case("SIGKILL before a change that a rollback makes", kills.AtAChange(kills.rollback), 3),
    *(
        Case(f"SIGKILL as a dump comes to step {name}", kills.AtStep(name, kills.dump))
        for name in ("wait", "dump", "prove", "publish")
    ),
    Case("SIGKILL as a prune comes to step remove", kills.AtStep("remove", kills.prune)),
    Case("SIGKILL at any time of a dump", kills.AtAnyTime(1.0, kills.dump), 2),
    Case("SIGKILL at any time of a restore", kills.AtAnyTime(4.0, kills.restore), 2),
    Case("SIGKILL of a daemon that hangs in a dump", kills.Hanging()),
]
DISKS = [
    *(Case(name, fault, ground="failing") for name, fault in disks.FAULTS.items()),
    Case("a disk that fills up in a dump", disks.FillingUp(), ground="small"),
    Case("a disk that is full", disks.AlreadyFull(), ground="small"),
    Case("a disk that becomes read-only", disks.ReadOnly(), ground="small"),
    Case("a thin disk out of blocks in a dump", disks.OutOfBlocks(), ground="loop"),
]
OUTAGES = [
    *(Case(f"in a dump {what}", outages.InADump(what)) for what in outages.ENDS),
    *(Case(f"in a load {what}", outages.InALoad(what)) for what in outages.ENDS),
    Case("in a load in place the server crashes", outages.InALoad("the server crashes", in_place=True)),
    Case(
        "in a load in place the container is restarted",
        outages.InALoad("the container is restarted", in_place=True),
    ),
]
HOURLY: dict[str, Any] = {"jobs": {"dump": {"schedule": "hourly"}, "prune": {"enabled": False}}}
CLOCKS = [
    Case("the clock jumps forward", clocks.Jump(forward=True), 2, ground="clock"),
    Case("the clock jumps backward", clocks.Jump(forward=False), 2, ground="clock"),
    Case("a day of suspend", clocks.Sleep(), ground="clock", settings=HOURLY),
]
FILES = [
    Case("files changed while scanned", changed_files.WhileScanned(), 3),
    Case("files changed while restored", changed_files.WhileRestored(), 2),
    Case("files changed while pruned", changed_files.WhilePruned()),
    Case("files changed while uploaded", changed_files.WhileUploaded(), 3, ground="nas"),
]
CROWDS = [Case("500 clients at once", crowd.Crowd())]
CASES = [*KILLS, *DISKS, *OUTAGES, *CLOCKS, *FILES, *CROWDS]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name.replace(" ", "-")) for case in CASES])
def test_every_promise_holds_after(case: Case, grounds: Grounds, chance: random.Random, note: Note) -> None:
    """After each strike: nothing published that isn't whole, nothing lost, the stack whole, nothing left over."""
    tortured = grounds.rig(case.ground, case.settings)
    tortured.chance = chance
    done, found = 0, ["it came to no end"]
    try:
        done, found = rounds(tortured, case.fault, case.least, SECONDS / len(CASES))
        assert not found, f"{found}\n{tortured.daemon.log()}"
    finally:
        note(case.name, done, found)
        if found:
            grounds.close()


@pytest.mark.parametrize("loading", [False, True], ids=["in-a-dump", "in-a-load"])
def test_every_promise_holds_after_a_restart_of_the_engine(
    loading: bool, own_ground: tuple[OwnEngine, Rig], chance: random.Random, note: Note
) -> None:
    """The engine is restarted and stops everything; what it interrupted is undone or done again."""
    engine, tortured = own_ground
    tortured.chance = chance
    done, found = rounds(tortured, outages.EngineRestarts(engine, loading), 1)
    note(f"the engine is restarted in a {'load' if loading else 'dump'}", done, found)
    assert not found, f"{found}\n{tortured.daemon.log()}"
