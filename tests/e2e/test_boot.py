"""Before migrations, on every boot: a real backend that migrates as it starts, held by the kernel's freezer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from arcbackupd.operations.before import BootDump
from arcbackupd.operations.boot import BootWatch
from arcbackupd.operations.holder import Holder
from arcbackupd.operations.own_starts import OwnStarts
from arcbackupd.settings import Boot
from arcbackupd.settings import Engine as EngineSettings
from arcbackupd.stack import open_engine
from arcbackupd.stack.freezer import Freezer, find_freezer
from tests.e2e.conftest import tidied
from tests.e2e.support import dump_at_hand, dump_sessions, table_locked, waiting_dumps
from tests.harness import images
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine, EngineUnavailable
from tests.harness.own_engine import OwnEngine
from tests.harness.process import DeadlinePassed, wait_until
from tests.harness.stack import PROBE, ArcsecondStack
from tests.require import require

pytestmark = pytest.mark.slow

BOOTS = 50
KILLS = 12
LONG = 90.0
"""Seconds that a busy machine may take for anything."""

NEVER = {"dump": {"enabled": False}, "prune": {"enabled": False}}
SOON = {"min_interval": "1ms"}
MIGRATION = "0004_remarks"
UNDO = f"""ALTER TABLE targets_target DROP COLUMN IF EXISTS remarks;
    DELETE FROM django_migrations WHERE name = '{MIGRATION}'"""
BULK = """CREATE TABLE IF NOT EXISTS bulk AS
    SELECT n, md5(n::text) || md5((-n)::text) AS hex FROM generate_series(1, 1000000) AS n"""


# What the tests share


@pytest.fixture(scope="module")
def observatory(docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return the module's stack, whose backend has a health check and a migration that is pending at each start."""
    try:
        images.postgres(docker_engine, 16)
        images.backend(docker_engine)
    except EngineUnavailable as error:
        require("docker", str(error))
    with ArcsecondStack(docker_engine, 16, healthcheck=True) as stack:
        stack.add_migration()
        yield stack


@pytest.fixture
def stack(observatory: ArcsecondStack) -> ArcsecondStack:
    """Return that stack, running, without backups, its migration pending."""
    let_go(observatory)
    tidied(observatory)
    observatory.wait_backend()
    observatory.psql(f"{UNDO}; DROP TABLE IF EXISTS bulk")
    return observatory


def let_go(stack: ArcsecondStack) -> None:
    """Let a backend go that a failed test left standing still."""
    with contextlib.suppress(Exception):
        freezer(stack).thaw()


def freezer(stack: ArcsecondStack) -> Freezer:
    """Return the freezer of the stack's backend as it runs now."""
    return find_freezer(container(stack), stack.state(stack.backend)["Pid"])


def container(stack: ArcsecondStack) -> str:
    """Return the id of the stack's backend."""
    return stack.engine.run("inspect", "--format", "{{.Id}}", stack.backend).stdout.strip()


def wait_held(stack: ArcsecondStack) -> Freezer:
    """Wait until the backend stands still."""
    file = freezer(stack)
    wait_until(file.is_frozen, "the backend to stand still", seconds=LONG, interval=0.01)
    return file


def wait_let_go(file: Freezer, daemon: Daemon | None = None) -> None:
    """Wait until it doesn't any more."""
    try:
        wait_until(lambda: not file.is_frozen(), "the backend to go on", seconds=LONG, interval=0.02)
    except DeadlinePassed as error:
        raise DeadlinePassed(f"{error}\n{daemon.log() if daemon else ''}") from error


def is_migrated(stack: ArcsecondStack) -> bool:
    """Return whether the pending migration is recorded."""
    return stack.psql(f"SELECT count(*) FROM django_migrations WHERE name = '{MIGRATION}'") == "1"


def wait_migrated(stack: ArcsecondStack) -> None:
    """Wait until the backend has migrated and is healthy; it was never unhealthy on the way."""

    def healthy() -> bool:
        health = stack.health()
        assert health != "unhealthy"
        return health == "healthy" and is_migrated(stack)

    wait_until(healthy, "the backend to be healthy and migrated", seconds=LONG, interval=0.1)


def newest(daemon: Daemon) -> dict[str, object]:
    """Return the newest backup in full."""
    return dict(daemon.json("inspect", daemon.names()[-1])["backup"])


def surely_before(daemon: Daemon) -> bool:
    """Return whether the newest backup says that it was taken before migrations, and lacks the pending one."""
    row = newest(daemon)
    migrations = row["migrations_list"]
    assert isinstance(migrations, list)
    assert row["reason"] == "boot"
    assert row["before_migrations"], f"{row['not_surely_before']}\n{daemon.log()}"
    return f"targets.{MIGRATION}" not in migrations


# The main line


@pytest.mark.timeout(900)
def test_boots_in_a_row_are_each_dumped_before_their_migration(stack: ArcsecondStack) -> None:
    """Every one of many starts gives a dump without the pending migration, which is applied after it."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        for number in range(BOOTS):
            stack.psql(UNDO)
            stack.restart_backend(wait=False)
            daemon.wait_boot_dumps(number + 2, LONG)
            wait_migrated(stack)
        rows = daemon.listed()
        dumps = [daemon.json("inspect", row["name"])["backup"] for row in rows[:-1]]
        assert len(dumps) == BOOTS
        for dump in dumps:
            assert dump["before_migrations"] is True, dump["not_surely_before"]
            assert f"targets.{MIGRATION}" not in dump["migrations_list"]
        assert "before migrations" in daemon.ctl("list").out
        assert "(+1 migration applied since)" in daemon.ctl("list").out
        assert "taken surely before the migrations" in daemon.ctl("inspect", rows[0]["name"]).out
        assert not (stack.state_dir / "hold.json").exists()


def test_a_daemon_that_is_killed_at_any_moment_lets_the_backend_go(stack: ArcsecondStack) -> None:
    """However far the hold was when the daemon is killed, the backend goes on, migrates and becomes healthy."""
    moments = random.Random(4)
    for _ in range(KILLS):
        stack.psql(UNDO)
        with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
            wait_until(partial(daemon.children, "events"), "the daemon to listen", seconds=LONG)
            stack.restart_backend(wait=False)
            time.sleep(moments.uniform(0, 0.9))
            daemon.kill()
            wait_let_go(freezer(stack))
            wait_migrated(stack)


def test_a_held_backend_goes_on_when_the_daemon_is_killed(stack: ArcsecondStack) -> None:
    """While the hold waits for a dump that gets no further, SIGKILL of the daemon lets the backend go."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with table_locked(stack):
            stack.restart_backend(wait=False)
            file = wait_held(stack)
            wait_until(lambda: waiting_dumps(stack) == 1, "the dump to wait", seconds=LONG)
            daemon.kill()
            wait_let_go(file)
        wait_migrated(stack)


# Limits


def test_a_hold_ends_after_max_hold_and_the_dump_goes_on(stack: ArcsecondStack) -> None:
    """A dump that takes longer than boot.max_hold holds nobody any longer, and is good all the same."""
    with Daemon(stack, boot={**SOON, "max_hold": "3s"}, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with table_locked(stack):
            stack.restart_backend(wait=False)
            file = wait_held(stack)
            daemon.wait_log("The backend goes on: its dump takes longer than boot.max_hold", LONG)
            wait_let_go(file)
        daemon.wait_boot_dumps(2, LONG)
        row = newest(daemon)
        assert row["before_migrations"] is False
        assert "hold was over" in str(row["not_surely_before"])
        wait_migrated(stack)


def test_a_hold_leaves_half_of_the_start_period_to_the_backend(docker_engine: Engine) -> None:
    """Where the health check allows less than boot.max_hold, it limits the hold; the backend becomes healthy."""
    with ArcsecondStack(docker_engine, 16, healthcheck=True) as stack:
        stack.engine.run("rm", "-f", stack.backend)
        with Daemon(stack, boot=SOON, jobs=NEVER) as daemon, table_locked(stack):
            stack.create_backend_container(probe=[*PROBE[:-1], "--health-start-period=10s"])
            file = wait_held(stack)
            daemon.wait_log("half of what its health check allows", LONG)
            wait_let_go(file)
            assert stack.health() != "unhealthy"
        stack.wait_backend()


def test_a_database_that_is_not_there_holds_the_backend_no_longer_than_it_may(stack: ArcsecondStack) -> None:
    """Without a database the backend is let go after boot.max_hold at the latest."""
    boot = {**SOON, "max_hold": "2s"}
    with Daemon(stack, boot=boot, dump={"wait_for_database": "4s"}, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        stack.stop_container(stack.database)
        stack.engine.run("restart", stack.backend)
        daemon.wait_log("The backend goes on: its dump takes longer than boot.max_hold", LONG)
        stack.start_container(stack.database)
        stack.wait_database()


def test_a_start_without_need_of_a_dump_is_let_go_at_once(stack: ArcsecondStack) -> None:
    """Within boot.min_interval a further start is seen, let go and not dumped: a restart loop fills no disk."""
    with Daemon(stack, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        for number in range(1, 11):
            stack.restart_backend(wait=False)
            wait_until(partial(_starts_seen, daemon, number), "a start to be seen", seconds=LONG)
        wait_migrated(stack)
        assert len(daemon.names()) == 1


def _starts_seen(daemon: Daemon, number: int) -> bool:
    return len(daemon.log_lines("stands for this one too")) >= number


def test_without_hold_the_start_is_only_dumped(stack: ArcsecondStack) -> None:
    """With boot.hold off the backend never stands still, and its dump says that it isn't sure."""
    with Daemon(stack, boot={**SOON, "hold": False}, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        stack.restart_backend(wait=False)
        daemon.wait_boot_dumps(2, LONG)
        row = newest(daemon)
        assert (row["before_migrations"], row["not_surely_before"]) == (False, "boot.hold is off")
        assert not daemon.log_lines("stands still")
        wait_migrated(stack)


# What happens around it


def test_a_held_backend_that_is_stopped_is_let_go_at_once(stack: ArcsecondStack) -> None:
    """`docker stop` of a held backend reaches it, and its dump, which had not begun to read, is given up."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with table_locked(stack):
            stack.restart_backend(wait=False)
            wait_held(stack)
            wait_until(lambda: waiting_dumps(stack) == 1, "the dump to wait", seconds=LONG)
            stack.stop_container(stack.backend)
            daemon.wait_log("It was abandoned because the backend is being stopped", LONG)
        assert len(daemon.names()) == 1
        stack.start_container(stack.backend)
        daemon.wait_boot_dumps(2, LONG)
        assert surely_before(daemon)
        wait_migrated(stack)


def test_a_boots_dump_takes_over_from_another_one(stack: ArcsecondStack) -> None:
    """A dump by hand that runs when the backend starts gives way to the boot's own, and its caller is told."""
    stack.psql(BULK)
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with dump_at_hand(daemon, "--json") as client:
            stack.restart_backend(wait=False)
            said, _ = client.communicate(timeout=LONG)
            error = json.loads(said)["error"]
            assert (client.returncode, error["code"]) == (1, "superseded")
            daemon.wait_boot_dumps(2, LONG)
        assert surely_before(daemon)
        assert dump_sessions(stack) == 0
        wait_migrated(stack)


def test_a_dump_from_just_before_a_start_stands_for_it(stack: ArcsecondStack) -> None:
    """A backup that was taken within a minute before the start, with the same migrations, saves the boot's own."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        taken = daemon.json("backup")["name"]
        stack.restart_backend(wait=False)
        assert taken in daemon.wait_log("stands for it", LONG)
        wait_migrated(stack)
        assert daemon.names()[-1] == taken


def test_the_database_killed_under_a_boots_dump(stack: ArcsecondStack) -> None:
    """When the database is killed in the middle, the boot's dump is taken once more, still before migrations."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with table_locked(stack):
            stack.restart_backend(wait=False)
            wait_until(lambda: waiting_dumps(stack) == 1, "the dump to wait", seconds=LONG)
            stack.kill_container(stack.database)
            stack.start_container(stack.database)
        daemon.wait_boot_dumps(2, LONG)
        assert surely_before(daemon)
        assert daemon.log_lines("its dump is taken once more")
        wait_migrated(stack)


def test_a_backend_created_anew_and_a_renamed_one(stack: ArcsecondStack) -> None:
    """A new container of the same name is held and dumped; a renamed one is missed, said so, and found again."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        stack.engine.run("rm", "-f", stack.backend)
        stack.create_backend_container()
        daemon.wait_boot_dumps(2, LONG)
        assert surely_before(daemon)
        wait_migrated(stack)
        stack.engine.run("rename", stack.backend, f"{stack.backend}-old")
        try:
            daemon.wait_log("its starts can't be seen", LONG)
        finally:
            stack.engine.run("rename", f"{stack.backend}-old", stack.backend)
        stack.psql(UNDO)
        stack.restart_backend(wait=False)
        daemon.wait_boot_dumps(3, LONG)
        assert surely_before(daemon)
        wait_migrated(stack)


def test_a_stop_of_the_daemon_lets_the_backend_go(stack: ArcsecondStack) -> None:
    """SIGTERM in the middle of a hold ends it, at the latest after the grace for the dump."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with table_locked(stack):
            stack.restart_backend(wait=False)
            file = wait_held(stack)
            wait_until(lambda: waiting_dumps(stack) == 1, "the dump to wait", seconds=LONG)
            assert daemon.stop(LONG) == 0
            assert not file.is_frozen()
        wait_migrated(stack)


def test_a_service_that_waits_for_health_starts_after_a_hold(stack: ArcsecondStack) -> None:
    """As Compose does for `depends_on: service_healthy`: what waits for health sees starting, then healthy."""
    seen: list[str] = []
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with table_locked(stack):
            stack.restart_backend(wait=False)
            file = wait_held(stack)
            # three probes of the engine's fail meanwhile, which would be enough outside of the start period
            wait_until(lambda: _failed_probes(stack) >= 3, "probes", seconds=LONG, interval=0.2)
            seen.append(stack.health())
        wait_let_go(file, daemon)

        def healthy() -> bool:
            seen.append(stack.health())
            return seen[-1] == "healthy"

        wait_until(healthy, "the backend to be healthy", seconds=LONG, interval=0.1)
        assert set(seen) == {"starting", "healthy"}
        assert surely_before(daemon)


def _failed_probes(stack: ArcsecondStack) -> int:
    return len([probe for probe in stack.state(stack.backend)["Health"]["Log"] if probe["ExitCode"]])


def test_starts_that_the_daemon_makes_itself_are_neither_held_nor_dumped(
    stack: ArcsecondStack, tmp_path: Path
) -> None:
    """While a restore stops and starts the backend, it boots unhindered; its next start is held again."""
    engine = open_engine(EngineSettings.model_validate(stack.settings()["engine"]))
    own_starts, holder = OwnStarts(), Holder(engine, Boot(), tmp_path)

    async def main() -> None:
        dumped: asyncio.Queue[bool] = asyncio.Queue()

        async def dump(boot: BootDump) -> None:
            dumped.put_nowait(await asyncio.to_thread(lambda: boot.held))
            boot.release("the test has seen it")

        watch = BootWatch(
            engine, tmp_path / "boot.json", timedelta(milliseconds=1), dump, holder=holder, own_starts=own_starts
        )
        watching = asyncio.create_task(watch.run())
        await asyncio.wait_for(dumped.get(), LONG)  # at first sight; held or not, by how long ago it started
        with own_starts.expected():
            await asyncio.to_thread(stack.restart_backend)
            assert not holder.is_holding
        assert dumped.empty()
        await asyncio.to_thread(stack.restart_backend)
        assert await asyncio.wait_for(dumped.get(), LONG) is True
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(main())


def test_a_restore_is_neither_held_nor_dumped(stack: ArcsecondStack) -> None:
    """A restore starts the backend unhindered and causes no boot's dump; the next start is held again."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        [name] = daemon.wait_boot_dumps(1, LONG)
        held_before = daemon.log_lines("stands still")  # a start of a moment ago may be held at first sight
        daemon.ctl("restore", name, "--yes", timeout=280)
        daemon.wait_log("started by the daemon itself", LONG)
        assert daemon.log_lines("stands still") == held_before
        assert [row["reason"] for row in daemon.listed()] == ["pre-restore", "boot"]
        stack.psql(UNDO)
        stack.restart_backend(wait=False)
        daemon.wait_log("The backend goes on: its dump has ended", LONG)
        assert daemon.listed()[0]["before_migrations"] is True
        wait_migrated(stack)


def test_a_restart_of_the_engine(docker_engine: Engine) -> None:
    """After a restart of the engine, which stops everything, the backend's start is held and dumped as ever."""
    tags = [images.postgres(docker_engine, 16), images.backend(docker_engine)]
    try:
        own = OwnEngine(docker_engine, tags)
        with own, ArcsecondStack(own.engine, 16) as stack, Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
            daemon.wait_boot_dumps(1, LONG)
            own.restart()
            stack.start_container(stack.database)
            stack.wait_database()
            wait_until(partial(daemon.children, "events"), "the daemon to listen again", seconds=LONG)
            stack.add_migration()
            stack.start_container(stack.backend)
            daemon.wait_boot_dumps(2, LONG)
            assert surely_before(daemon)
            stack.wait_backend()
    except EngineUnavailable as error:
        require("docker", str(error))


# Nobody waits for a dump


def test_a_migration_waits_for_a_dump_no_longer_than_the_setting_says(stack: ArcsecondStack) -> None:
    """A dump that keeps an ALTER TABLE waiting for longer than dump.yield_after gives way, and says so."""
    stack.psql(BULK)
    with Daemon(stack, dump={"yield_after": "2s"}, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with dump_at_hand(daemon, "--json") as client:
            stack.psql("ALTER TABLE targets_target ALTER COLUMN priority SET DEFAULT 0", timeout=LONG)
            said, _ = client.communicate(timeout=LONG)
            assert json.loads(said)["error"]["code"] == "gave-way"
        assert dump_sessions(stack) == 0


# By hand


def test_release_by_hand_lets_a_held_backend_go(stack: ArcsecondStack) -> None:
    """`arcbackupd release` lets go what the note in the state directory tells of, and is harmless after that."""
    with Daemon(stack, boot=SOON, jobs=NEVER) as daemon:
        daemon.wait_boot_dumps(1, LONG)
        with table_locked(stack):
            stack.restart_backend(wait=False)
            file = wait_held(stack)
            os.kill(daemon.pid, signal.SIGSTOP)
            try:
                assert daemon.program("release").out == "The backend goes on.\n"
                assert not file.is_frozen()
                assert daemon.program("release").out == ""
            finally:
                os.kill(daemon.pid, signal.SIGCONT)
        wait_migrated(stack)
