"""Faults of what a dump and a restore rest on: pg_dump, psql, docker's client, the server, its container."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.harness.own_engine import OwnEngine
from tests.torture import checker
from tests.torture.rig import Rig

_BUSY = "application_name ~ '^arcbackupd-(dump|load)'"


@dataclass(frozen=True)
class InADump:
    """Something ends in the middle of a dump."""

    what: str

    def prepare(self, rig: Rig) -> None:
        pass

    def strike(self, rig: Rig) -> None:
        with rig.dump_in_its_middle() as pid:
            ENDS[self.what](rig, pid)
        put_right(rig)


@dataclass(frozen=True)
class InALoad:
    """Something ends while a restore loads."""

    what: str
    in_place: bool = False

    def prepare(self, rig: Rig) -> None:
        rig.live = [rig.new]

    def strike(self, rig: Rig) -> None:
        name = rig.quick.drop_in_held()
        with rig.quick.held(), rig.asking("Restore", name=name, in_place=self.in_place, safety_backup=True):
            rig.quick.wait_held()
            [pid] = rig.in_container("psql")
            ENDS[self.what](rig, pid)
            put_right(rig)
            rig.quick.let_go()


@dataclass(frozen=True)
class EngineRestarts:
    """The engine is restarted, which stops all containers, in the middle of a dump or of a load."""

    engine: OwnEngine
    loading: bool

    def prepare(self, rig: Rig) -> None:
        rig.live = [rig.new] if self.loading else []

    def strike(self, rig: Rig) -> None:
        rig.pipes_may_stay = True
        if self.loading:
            name = rig.quick.drop_in_held()
            with rig.quick.held(), rig.asking("Restore", name=name, safety_backup=True):
                rig.quick.wait_held()
                self._restart(rig)
        else:
            with rig.dump_in_its_middle():
                self._restart(rig)

    def _restart(self, rig: Rig) -> None:
        self.engine.restart()
        put_right(rig)


def put_right(rig: Rig) -> None:
    """Start what an operator would start again."""
    stack = rig.quick.stack
    for name in (stack.database, rig.quick.service):
        if not stack.state(name)["Running"]:
            stack.start_container(name)
    stack.wait_database()


# How things end


def program_killed(rig: Rig, pid: int) -> None:
    """The program dies in its container."""
    os.kill(pid, signal.SIGKILL)


def client_ended(rig: Rig, pid: int) -> None:
    """The docker client ends with status 0 and a cut stream, as by `systemctl stop` of all."""
    for child in rig.daemon.children("exec", rig.quick.stack.database):
        os.kill(child, signal.SIGTERM)


def client_killed(rig: Rig, pid: int) -> None:
    """The docker client dies."""
    for child in rig.daemon.children("exec", rig.quick.stack.database):
        os.kill(child, signal.SIGKILL)


def session_ended(rig: Rig, pid: int) -> None:
    """An administrator ends the session on the server."""
    checker.psql(rig.site, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_BUSY}", "postgres")


def server_crashed(rig: Rig, pid: int) -> None:
    """A process of the server dies, and with it all sessions: it recovers by itself."""
    for backend in rig.in_container("postgres"):
        if b"arcsecond" in Path(f"/proc/{backend}/cmdline").read_bytes():
            os.kill(backend, signal.SIGKILL)
            break


def container_killed(rig: Rig, pid: int) -> None:
    """The database's container dies."""
    rig.pipes_may_stay = True
    rig.quick.stack.kill_container(rig.quick.stack.database)


def container_restarted(rig: Rig, pid: int) -> None:
    """Somebody restarts the database's container."""
    rig.pipes_may_stay = True
    rig.quick.stack.engine.run("restart", "--time", "1", rig.quick.stack.database)


def container_paused(rig: Rig, pid: int) -> None:
    """Somebody pauses the database's container for a while: nothing ends, and all goes on."""
    stack = rig.quick.stack
    stack.engine.run("pause", stack.database)
    time.sleep(rig.chance.uniform(1, 6))
    stack.engine.run("unpause", stack.database)


ENDS = {
    "its program is killed": program_killed,
    "docker's client is ended": client_ended,
    "docker's client is killed": client_killed,
    "its session is ended": session_ended,
    "the server crashes": server_crashed,
    "the container is killed": container_killed,
    "the container is restarted": container_restarted,
    "the container is paused": container_paused,
}
