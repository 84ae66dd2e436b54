"""The main job once on podman, behind its API socket."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import tidied
from tests.e2e.support import (
    dump_at_hand,
    dump_sessions,
    table_locked,
    wait_for_no_process,
    waiting_dumps,
)
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine, EngineUnavailable
from tests.harness.process import run, wait_until
from tests.harness.stack import ArcsecondStack
from tests.require import require

BULK = """CREATE TABLE bulk AS
    SELECT n, md5(n::text) || md5((-n)::text) AS hex FROM generate_series(1, 1500000) AS n"""


@pytest.fixture(scope="module")
def pod_stack(podman_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return the module's stack on podman."""
    try:
        # Without journald podman's events are read from a file, four times a second. Django itself is imported in
        # less on a fast machine, an application such as Arcsecond isn't.
        stack = ArcsecondStack(podman_engine, 16, import_seconds=1)
        with stack:
            yield stack
    except EngineUnavailable as error:
        require("podman", str(error))


def test_main_job_on_podman(pod_stack: ArcsecondStack) -> None:
    """Starts of the backend are seen in podman's events and dumped; scheduled dumps come; list has the badges."""
    boot, jobs = {"min_interval": "1ms"}, {"dump": {"schedule": "every 2s"}}
    with Daemon(tidied(pod_stack), boot=boot, jobs=jobs) as daemon:
        wait_until(lambda: _reasons(daemon)[:1] == ["boot"], "the boot's dump")
        wait_until(lambda: "scheduled" in _reasons(daemon), "a scheduled dump")
        migration = pod_stack.add_migration()
        try:
            pod_stack.restart_backend()
            wait_until(
                lambda: _reasons(daemon).count("boot") == 2 or daemon.log_lines("stands for it"),
                "the second boot's dump, or the use of one from just before it",
            )
            wait_until(lambda: daemon.listed()[0]["status"] == "compatible", "a dump with the new migration")
            taken = daemon.json("backup")
            rows = {row["name"]: row for row in daemon.listed()}
            assert rows[taken["name"]]["status"] == "compatible"
            assert rows[min(rows)]["status"] == "older-snapshot"
            assert rows[min(rows)]["only_in_code"] == ["targets.0004_remarks"]
            pod_stack.stop_container(pod_stack.backend)
            wait_until(lambda: daemon.listed()[0]["problem"] == "backend not running", "the backend's end")
        finally:
            pod_stack.start_container(pod_stack.backend)
            pod_stack.wait_backend()  # while it is held, nothing can be run in it
            pod_stack.manage("migrate", "targets", "0003_object_class_index")
            pod_stack.remove_migration(migration)


def test_podman_answers_who_has_no_home_and_may_not_mount(podman_engine: Engine) -> None:
    """So it is within the unit's sandbox, where podman takes itself for one of an ordinary user."""
    look = (
        "from arcbackupd.settings import Engine; from arcbackupd.stack import open_engine;"
        f"print(open_engine(Engine(kind='podman', socket='{podman_engine.url}')).version())"
    )
    may_not_mount = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    for home in ((), ("HOME=/home/nobody-has-this",)):
        environment = ["env", "-i", f"PATH={os.environ['PATH']}", *home]
        said = run([*environment, *may_not_mount, sys.executable, "-c", look])
        assert said.stdout.startswith("Podman ")


def test_a_drill_in_a_container_on_podman_leaves_nothing(pod_stack: ArcsecondStack) -> None:
    """A dump is proved restorable in a throwaway container of podman's, which is gone afterwards."""
    drill = {"place": "container", "max_load": 10_000}
    with Daemon(tidied(pod_stack), drill=drill, jobs={"dump": {"enabled": False}}) as daemon:
        daemon.wait_boot_dumps(1, 90)
        proved = daemon.json("verify", "latest", timeout=400)
        assert (proved["outcome"], proved["place"], proved["problem"]) == ("proved", "container", None)
        # Its name is noted before it is made, and forgotten once it is gone: others' tests have theirs here too.
        assert (pod_stack.state_dir / "drill.json").read_text() == '{"made":[]}'


def test_a_start_is_held_until_its_dump_is_taken_on_podman(pod_stack: ArcsecondStack) -> None:
    """A boot's dump on podman, too, is surely from before the migration that its start brings."""
    migration = pod_stack.add_migration()
    try:
        with Daemon(tidied(pod_stack), boot={"min_interval": "1ms"}, jobs={"dump": {"enabled": False}}) as daemon:
            daemon.wait_boot_dumps(1, 90)
            pod_stack.restart_backend(wait=False)
            names = daemon.wait_boot_dumps(2, 90)
            row = daemon.json("inspect", names[-1])["backup"]
            assert row["before_migrations"] is True, row["not_surely_before"]
            assert "targets.0004_remarks" not in row["migrations_list"]
            pod_stack.wait_backend()
            applied = "SELECT count(*) FROM django_migrations WHERE name = '0004_remarks'"
            wait_until(lambda: pod_stack.psql(applied) == "1", "the migration", seconds=90)
    finally:
        pod_stack.wait_backend()
        pod_stack.manage("migrate", "targets", "0003_object_class_index")
        pod_stack.remove_migration(migration)


def test_a_held_backend_that_is_stopped_is_let_go_on_podman(pod_stack: ArcsecondStack) -> None:
    """`podman stop` of a held backend reaches it, though podman tells of it only when it has ended."""
    with Daemon(tidied(pod_stack), boot={"min_interval": "1ms"}, jobs={"dump": {"enabled": False}}) as daemon:
        daemon.wait_boot_dumps(1, 90)
        with table_locked(pod_stack):
            pod_stack.restart_backend(wait=False)
            wait_until(lambda: waiting_dumps(pod_stack) == 1, "the dump to wait", seconds=90)
            pod_stack.engine.run("stop", "--time", "600", pod_stack.backend, timeout=90)
            daemon.wait_log("The backend goes on: it is being stopped", 90)
    pod_stack.start_container(pod_stack.backend)
    pod_stack.wait_backend()


def test_database_container_stopped_on_podman(pod_stack: ArcsecondStack) -> None:
    """A dump whose container is stopped fails with a sentence, leaves nothing, and the next one is good."""
    pod_stack.psql(BULK)
    with Daemon(tidied(pod_stack), jobs={"dump": {"enabled": False}}) as daemon:
        [boot] = daemon.wait_backups(1)
        with dump_at_hand(daemon) as client:
            pod_stack.stop_container(pod_stack.database)
            said, _ = client.communicate(timeout=60)
        assert client.returncode == 1
        assert "  hint: " in said
        assert (daemon.names(), daemon.leftovers()) == ([boot], [])
        error = daemon.json("backup", status=1)["error"]
        assert error["message"] == f"The database container {pod_stack.database} is not running."
        assert f"podman start {pod_stack.database}" in error["hint"]
        pod_stack.start_container(pod_stack.database)
        pod_stack.wait_database()
        wait_for_no_process(pod_stack)
        assert dump_sessions(pod_stack) == 0
        assert daemon.json("backup")["outcome"] == "unchanged"


def _reasons(daemon: Daemon) -> list[str]:
    return [row["reason"] for row in reversed(daemon.listed())]
