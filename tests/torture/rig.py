"""A daemon on a stack of its own, to be tortured: what is done to it in rounds, and looked at after each.

A round is: note what is there, strike, let the daemon come to rest (it is started again if it died), and let the
checker look, which knows nothing of the daemon.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from arcbackupd.errors import ArcbackupdError
from tests.e2e.restoring import BY_HAND, NEW, Quick, call
from tests.harness.daemon import Daemon
from tests.harness.dying import VARIABLE
from tests.harness.faked_clock import FakedClock
from tests.harness.faulty_fs import FaultyFilesystem
from tests.harness.loop_disk import LoopDisk
from tests.harness.process import wait_until
from tests.torture import checker
from tests.torture.checker import Ledger, Site

ROOT = Path(__file__).parents[2]
SECONDS = 90.0
"""How long a busy machine may take for what takes one."""
LOADED_SHARE = 0.34
"""How many of the backups that are taken after a fault are loaded by hand."""
GROWTH = 32 << 20
"""Bytes that a daemon may have grown by between its first round and its last: what an allocator keeps."""

BULK = """
    CREATE TABLE bulk AS SELECT n, md5(n::text) || md5((-n)::text) AS hex FROM generate_series(1, 150000) AS n;
"""
"""Rows for both states of the database: a dump of 11 MB, long enough to be caught in its middle."""

JOBS: dict[str, Any] = {**BY_HAND, "prune": {"enabled": False}}
PATIENCE = {"stall_timeout": "60s", "wait_for_database": "60s"}


class MortalDaemon(Daemon):
    """The real daemon, run by what lets it die: see tests/harness/dying.py."""

    module = "tests.harness.dying"


def site_of(quick: Quick) -> Site:
    """Return what a checker is to look at of a quick stack."""
    stack = quick.stack
    return Site(
        docker_host=stack.engine.url,
        database=stack.database,
        services=(quick.service,),
        user=stack.user,
        db=stack.db,
        secret=stack.password,
        backups=stack.backups,
        state_dir=stack.state_dir,
        log=stack.directory / "daemon.log",
        databases=("state_old", "state_new"),
    )


@dataclass
class Rig:
    """What a fault has at hand.

    `live` are contents that the live database may have after the round's fault, besides what it had; `damaged` the
    names of backups that the fault itself spoils.
    """

    quick: Quick
    daemon: Daemon
    chance: random.Random = field(default_factory=random.Random)
    live: list[dict[str, str]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    pipes_may_stay: bool = False
    all_stay: bool = False
    """Whether this round's fault keeps retention from removing anything."""
    disk: FaultyFilesystem | None = None
    mount: LoopDisk | None = None
    clock: FakedClock | None = None
    new: dict[str, str] = field(default_factory=dict)
    """The content of the backup that restores bring in."""
    changes: dict[str, int] = field(default_factory=dict)
    """How many changes of the disk an operation makes, by its name."""
    sizes: dict[int, checker.Size] = field(default_factory=dict)
    """How large each daemon was after its first round, by its process id."""
    _untried: dict[str, list[int]] = field(default_factory=dict)

    @cached_property
    def site(self) -> Site:
        """Return what the checker is to look at."""
        return site_of(self.quick)

    @property
    def place(self) -> Path:
        """Return the file that tells the daemon where to die."""
        return self.quick.stack.directory / "dying-at"

    # What is done to the daemon

    def change(self) -> None:
        """Change the live database, so that the next dump is another one.

        After a checkpoint a crash of the server doesn't let its sequences skip values, as it may else.
        """
        self.quick.stack.psql("INSERT INTO frames (hex) SELECT md5(random()::text);\nCHECKPOINT")

    def age(self, count: int = 3) -> list[str]:
        """Give the newest of the daemon's dumps more names, of a month ago, so that there is something to prune."""
        newest = max(checker.published(self.site).items(), key=lambda item: item[1].stat().st_mtime)[1]
        names = [f"backup-20260{month}0{day}-000000.sql.gz" for month in (1, 2) for day in range(1, 10)]
        free = [name for name in names if not (newest.parent / name).exists()][:count]
        for name in free:
            os.link(newest, newest.parent / name)
        return free

    def bring_new(self) -> None:
        """Put the backup of the other state there again, if a pruning took it."""
        path = self.quick.stack.backups / NEW
        if not path.exists():
            shutil.copyfile(self.quick.kept, path)

    def ask(self, method: str, **parameters: object) -> dict[str, Any] | None:
        """Call the daemon; `None` when it couldn't do it, or died of it."""
        with suppress(ArcbackupdError):
            return call(self.daemon, method, **parameters)
        return None

    @contextmanager
    def asking(self, method: str, **parameters: object) -> Iterator[threading.Thread]:
        """Call the daemon beside what is done within; its answer, or its end, is waited for."""
        asking = threading.Thread(target=self.ask, args=(method,), kwargs=parameters)
        asking.start()
        try:
            yield asking
        finally:
            asking.join(SECONDS)
            assert not asking.is_alive(), f"{method} has no end:\n{self.daemon.log()}"

    @contextmanager
    def dump_in_its_middle(self) -> Iterator[int]:
        """Ask for a dump and stop its pg_dump when a part of it is written; it goes on in the end."""
        with self.asking("Backup") as asking:
            [pid] = wait_until(partial(self._dumping, asking), "a dump", seconds=SECONDS, interval=0.001)
            wait_until(partial(self._stepped, pid, asking), "a part of a dump", seconds=SECONDS, interval=0)
            try:
                yield pid
            finally:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _dumping(self, asking: threading.Thread) -> list[int]:
        assert asking.is_alive(), f"the dump has ended already:\n{self.daemon.log()}"
        return self.in_container("pg_dump")[:1]

    def _stepped(self, pid: int, asking: threading.Thread) -> bool:
        """Let pg_dump go on for a moment, unless a part is written already; return whether it is."""
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.02)  # what it has written so far gets through
        if self._written():
            return True
        assert asking.is_alive(), f"the dump has ended already:\n{self.daemon.log()}"
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.002)
        return False

    def _written(self) -> bool:
        with suppress(FileNotFoundError):
            return sum(self.daemon.path(name).stat().st_size for name in self.daemon.leftovers()) > 200_000
        return False

    def in_container(self, program: str) -> list[int]:
        """Return the processes of a program in the database's container, as the host has them."""
        found = []
        for pid, words in checker.command_lines().items():
            with suppress(OSError):  # it has ended
                is_ours = self.container in Path(f"/proc/{pid}/cgroup").read_text()
                if is_ours and Path(words[0].split()[0].rstrip(":")).name == program:
                    found.append(pid)
        return found

    def wait_scanned(self) -> list[dict[str, Any]]:
        """Wait until no dump waits to be scanned; return the rows of `list`."""

        def scanned() -> list[dict[str, Any]] | None:
            rows = self.daemon.listed()
            return None if any(row["problem"] == "not scanned yet" for row in rows) else rows

        return wait_until(scanned, "all dumps to be scanned", seconds=SECONDS, interval=0.5) or []

    @cached_property
    def container(self) -> str:
        """Return the id of the database's container."""
        stack = self.quick.stack
        return stack.engine.run("inspect", "--format", "{{.Id}}", stack.database).stdout.strip()

    # Where to die

    def next_change(self, doing: str) -> int:
        """Return one of an operation's changes, in random order, none twice before all were had."""
        if not self._untried.get(doing):
            self._untried[doing] = list(range(1, self.changes[doing] + 1))
            self.chance.shuffle(self._untried[doing])
        return self._untried[doing].pop()

    def wait_dead(self) -> bool:
        """Wait until the daemon has died where it was told to, or came through; return whether it lives."""
        wait_until(
            lambda: not self.daemon.runs() or self._came_through(), "the daemon to die or rest", seconds=SECONDS
        )
        return self.daemon.runs()

    def _came_through(self) -> bool:
        try:
            return self._rests()
        except (ArcbackupdError, AssertionError):  # it dies now
            return False

    # Rounds

    def wait_rest(self) -> None:
        """Wait until the daemon rests."""
        wait_until(self._rests, "the daemon to rest", seconds=SECONDS, interval=0.1)

    def settle(self) -> None:
        """Start the daemon again if it died, and wait until it rests."""
        self.place.unlink(missing_ok=True)
        if not self.daemon.runs():
            self.daemon.kill()
            self.daemon.start()
        self.wait_rest()

    def _rests(self) -> bool:
        self.daemon.require_running()
        status = call(self.daemon, "Status")
        unfinished = status["restore"] and status["restore"]["outcome"] == "unfinished"
        return status["operation"] is None and not unfinished and not self.quick.journal.exists()

    def findings(self, ledger: Ledger) -> list[str]:
        """Let the checker look. What is about to end is looked at again for some seconds."""
        replaced = [kept["database"] for kept in call(self.daemon, "Status")["replaced"]]
        deadline = time.monotonic() + 10
        while found := checker.check(
            self.site,
            ledger,
            live=[ledger.live, *self.live],
            damaged=self.damaged,
            replaced=replaced,
            pipes_may_stay=self.pipes_may_stay,
            all_stay=self.all_stay,
        ):
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
        return found

    def proof_of_life(self) -> list[str]:
        """Take a backup; load one of three by hand."""
        answer = self.daemon.json("backup", timeout=SECONDS)
        if self.chance.random() > LOADED_SHARE:
            return []
        wrong = checker.loads(self.site, self.daemon.path(answer["name"]))
        return [wrong] if wrong else []


class Fault(Protocol):
    """What strikes. `prepare` makes what the strike needs, before what is there is noted."""

    def prepare(self, rig: Rig) -> None: ...
    def strike(self, rig: Rig) -> None: ...


def rounds(rig: Rig, fault: Fault, count: int, seconds: float = 0) -> tuple[int, list[str]]:
    """Strike `count` times, and on until so many seconds are over; return how often, and what was found."""
    begun, done, found = time.monotonic(), 0, list[str]()
    while not found and (done < count or time.monotonic() - begun < seconds):
        done += 1
        found = one_round(rig, fault)
        if not found and rig.daemon.pid not in rig.sizes:
            rig.sizes[rig.daemon.pid] = settled_size(rig.daemon.pid)
    found = found or [*grown(rig.sizes[rig.daemon.pid], rig.daemon.pid), *rig.proof_of_life()]
    return done, [f"round {done}: {sentence}" for sentence in found]


def one_round(rig: Rig, fault: Fault) -> list[str]:
    """Strike once; return what was found."""
    thin_out(rig)
    rig.live, rig.damaged, rig.pipes_may_stay, rig.all_stay = [], [], False, False
    fault.prepare(rig)
    rig.change()
    ledger = checker.take_ledger(rig.site)
    with watching_for(rig.site.secret) as told:
        fault.strike(rig)
        rig.settle()
    return [*rig.findings(ledger), *told]


def thin_out(rig: Rig) -> None:
    """Keep the directory small: what earlier rounds left isn't read again and again."""
    paths = sorted(checker.published(rig.site).values(), key=lambda path: path.stat().st_mtime)
    for path in paths[:-6]:
        if path.name != NEW:
            path.unlink()


def settled_size(pid: int) -> checker.Size:
    """Return a process's size once its threads and descriptors have been the same for a while."""
    sizes = [checker.size_of(pid)]

    def settled() -> bool:
        sizes.append(checker.size_of(pid))
        return sizes[-1].descriptors == sizes[-2].descriptors and sizes[-1].threads == sizes[-2].threads

    wait_until(settled, "the daemon's size to settle", seconds=SECONDS, interval=0.3)
    return sizes[-1]


def grown(first: checker.Size, pid: int) -> list[str]:
    """Return what a process has more of than at its first round; what goes away within seconds isn't told."""
    deadline = time.monotonic() + 10
    while found := _grown(first, checker.size_of(pid)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    return found


def _grown(first: checker.Size, now: checker.Size) -> list[str]:
    found = []
    if now.descriptors > first.descriptors + 2:
        more = {kind: number for kind, number in now.kinds.items() if number > first.kinds.get(kind, 0)}
        found.append(f"the daemon's descriptors grew from {first.descriptors} to {now.descriptors}: {more}")
    if now.threads > first.threads + 6:  # a pool's threads are made one by one, and stay
        found.append(f"the daemon's threads grew from {first.threads} to {now.threads}")
    if now.memory > first.memory + GROWTH:
        found.append(f"the daemon grew from {first.memory >> 20} to {now.memory >> 20} MiB")
    return found


@contextmanager
def watching_for(secret: str) -> Iterator[list[str]]:
    """Collect the command lines that have a secret in them, for as long as it lasts."""
    found: list[str] = []
    ending = threading.Event()

    def watch() -> None:
        while not ending.wait(0.1):
            told = [words[0] for words in checker.command_lines().values() if secret in " ".join(words)]
            found.extend(f"the password is in the arguments of {program}" for program in told)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ending.set()
        thread.join()


@contextmanager
def rig_on(quick: Quick, clock: FakedClock | None = None, **settings: Any) -> Iterator[Rig]:
    """Run a daemon that can be told to die on a quick stack, put back as new."""
    quick.reset()
    (quick.stack.directory / "dying-at").unlink(missing_ok=True)
    environment = {VARIABLE: str(quick.stack.directory / "dying-at"), "PYTHONPATH": str(ROOT)}
    environment.update(clock.environment if clock else {})
    settings = {"dump": PATIENCE, "jobs": JOBS, "restore": {"keep_replaced": "1s"}, **settings}
    with MortalDaemon(quick.stack, environment=environment, **settings) as daemon:
        rig = Rig(quick, daemon, clock=clock)
        rig.new = checker.content(rig.site, "state_new")
        daemon.json("backup")
        yield rig
