"""The main job on real stacks: dumps come by themselves, tell of themselves, and restore with nothing but psql."""

from __future__ import annotations

import gzip
import os
import re
import secrets
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from arcbackupd.dumps.dumpfile import MEMBER_SIZE
from tests.e2e.support import (
    change,
    fingerprint,
    restore_by_hand,
    table_locked,
    waiting_dumps,
    watching_arguments,
)
from tests.harness.daemon import Daemon
from tests.harness.images import MAJORS
from tests.harness.process import wait_until
from tests.harness.stack import ArcsecondStack

SOON = {"boot": {"min_interval": "1ms"}}
"""Settings with which every start of the backend is worth a dump."""

OLD = "backup-20260101-{:06}.sql.gz"
TRAILER = b"--\n-- PostgreSQL database dump complete\n--\n\n"


# When dumps are taken


def test_first_sight_of_the_backend_gives_a_boot_dump(stack: ArcsecondStack) -> None:
    """A dump comes when the daemon first sees a running backend, with the rights and facts it should have."""
    with Daemon(stack) as daemon:
        [name] = daemon.wait_backups(1)
        [row] = daemon.listed()
        told = daemon.json("inspect", name)["backup"]
    status = daemon.path(name).stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (row["reason"], row["status"], row["kind"], row["manifest"]) == ("boot", "compatible", "backup", True)
    assert row["size"] == status.st_size
    assert told["server_version"].startswith(f"{stack.major}.")
    assert told["rows"]["public.observations_photometry"] == 20_000
    assert stack.manage("showmigrations", "--plan").count("[X]") == row["migrations"]


def test_every_start_of_the_backend_gives_a_boot_dump(stack: ArcsecondStack) -> None:
    """Each start is dumped whole, also when nothing changed since the one before."""
    with Daemon(stack, **SOON) as daemon:
        daemon.wait_boot_dumps(1)
        stack.restart_backend()
        names = daemon.wait_boot_dumps(2)
        assert [row["reason"] for row in daemon.listed()] == ["boot", "boot"]
    assert [daemon.path(name).stat().st_nlink for name in names] == [1, 1]


def test_starts_within_the_minimal_interval_share_a_dump(stack16: ArcsecondStack) -> None:
    """A backend that starts again within boot.min_interval gets no further dump."""
    with Daemon(stack16) as daemon:
        daemon.wait_boot_dumps(1)
        stack16.restart_backend()
        daemon.wait_log("its last boot's dump stands for this one too")
        assert len(daemon.names()) == 1


def test_starts_missed_while_the_daemon_was_down_are_found(stack16: ArcsecondStack) -> None:
    """A start that nobody watched is dumped when the daemon is back, one that it has seen isn't dumped again."""
    with Daemon(stack16, **SOON) as daemon:
        daemon.wait_boot_dumps(1)
        daemon.stop()
        stack16.restart_backend()
        daemon.start()
        daemon.wait_boot_dumps(2)
        daemon.restart()
        stack16.restart_backend()  # by its dump it shows that the restart before gave none
        daemon.wait_boot_dumps(3)
        assert [row["reason"] for row in daemon.listed()] == ["boot"] * 3


def test_scheduled_dumps_come_and_unchanged_ones_take_no_space(stack: ArcsecondStack) -> None:
    """Dumps come by schedule; while nothing changes they share one file, after a change there is another."""
    with Daemon(stack, jobs={"dump": {"schedule": "every 2s"}}) as daemon:
        first, *_, third = daemon.wait_backups(3)
        assert daemon.path(third).samefile(daemon.path(first))
        before = daemon.names()
        change(stack)
        wait_until(lambda: not daemon.path(daemon.names()[-1]).samefile(daemon.path(first)), "a changed dump")
        daemon.stop()
        other = next(name for name in daemon.names() if not daemon.path(name).samefile(daemon.path(first)))
        assert other > before[-1]
        daemon.configure(jobs={"dump": {"schedule": "hourly"}})
        daemon.start()
        rows = {row["name"]: row for row in daemon.listed()}
    assert rows[first]["reason"] == "boot"
    assert rows[third]["reason"] == rows[other]["reason"] == "scheduled"


# What list and inspect tell


def test_a_daemon_that_starts_knows_what_the_backend_told_the_one_before(stack16: ArcsecondStack) -> None:
    """A run of the backend is asked for its migrations once, also by several daemons; its next run anew."""
    with Daemon(stack16, **SOON) as daemon:
        daemon.wait_boot_dumps(1)
        assert [row["status"] for row in daemon.listed()] == ["compatible"]
        program = stack16.app / "manage.py"
        hidden = program.rename(program.with_suffix(".hidden"))
        try:
            daemon.restart()
            assert [row["status"] for row in daemon.listed()] == ["compatible"]
        finally:
            hidden.rename(program)
        migration = stack16.add_migration()
        try:
            stack16.restart_backend()
            daemon.wait_boot_dumps(2)
            assert [row["status"] for row in daemon.listed()][-1] == "older-snapshot"
        finally:
            stack16.manage("migrate", "targets", "0003_object_class_index")
            stack16.remove_migration(migration)


def test_badges_follow_the_running_code(stack: ArcsecondStack) -> None:
    """The same dump is compatible, an older snapshot or incompatible, as the backend's code goes on and back."""
    with Daemon(stack) as daemon:
        [old] = daemon.wait_backups(1)
        assert _badges(daemon) == {old: "compatible"}
        migration = stack.add_migration()
        try:
            stack.restart_backend()
            new = daemon.json("backup")["name"]
            assert _badges(daemon) == {old: "older-snapshot", new: "compatible"}
            assert "older snapshot (+1 migration applied since)" in daemon.ctl("list").out
            older = daemon.json("inspect", old)["backup"]
            assert (older["only_in_backup"], older["only_in_code"]) == ([], ["targets.0004_remarks"])
        finally:
            stack.manage("migrate", "targets", "0003_object_class_index")
            stack.remove_migration(migration)
            stack.restart_backend()
        assert _badges(daemon) == {old: "compatible", new: "incompatible"}
        shown = daemon.ctl("list").out
        assert "incompatible (-1 not in code, +0 applied since)" in shown
        assert f"The newest backup, {new}, is incompatible" in shown
        assert daemon.json("inspect", new)["backup"]["only_in_backup"] == ["targets.0004_remarks"]
        assert "targets.0004_remarks" in daemon.ctl("inspect", new).out


def test_without_the_backend_nothing_is_known_of_the_code(stack16: ArcsecondStack) -> None:
    """While the backend is stopped, backups are unknown because it isn't running, and may still be taken."""
    with Daemon(stack16) as daemon:
        daemon.wait_backups(1)
        stack16.stop_container(stack16.backend)
        daemon.json("backup")
        rows = daemon.listed()
        assert {(row["status"], row["problem"]) for row in rows} == {("unknown", "backend not running")}
        assert "backend not running — skip migration diff" in daemon.ctl("list").out


def test_broken_dumps_are_told_with_the_reason(stack16: ArcsecondStack) -> None:
    """Whatever is wrong with a file, it is listed as broken for that reason, and the others as before."""
    with Daemon(stack16) as daemon:
        [good] = daemon.wait_backups(1)
        whole = daemon.path(good).read_bytes()
        sql = gzip.decompress(whole)
        forged = b"COPY public.notes (line) FROM stdin;\n" + TRAILER
        made = [
            ("cut short: ", whole[:-1000]),
            ("it is empty", b""),
            ("not a gzip file: wrong magic number", b"PK" + whole[2:]),
            ("cut short: ", whole[:MEMBER_SIZE]),
            ("cut short: the gzip data end too early", gzip.compress(sql)[:-1000]),
            ("cut short: the line that ends every pg_dump is missing", gzip.compress(sql[: sql.index(TRAILER)])),
            ("rows of table public.notes", gzip.compress(sql[: sql.index(b"COPY ")] + forged)),
            ("cut short: ", gzip.compress(sql[:5000]) + gzip.compress(sql[5000:9000])),
        ]
        for number, (_, content) in enumerate(made):
            daemon.path(OLD.format(number)).write_bytes(content)
        wait_until(lambda: "unknown" not in _badges(daemon).values(), "all to be scanned")
        rows = {row["name"]: row for row in daemon.listed()}
    assert rows[good]["status"] == "compatible"
    for number, (reason, _) in enumerate(made):
        row = rows[OLD.format(number)]
        assert row["status"] == "broken"
        assert reason in row["problem"]


def test_the_code_is_asked_for_its_migrations_once_per_run_of_the_backend(
    stack16: ArcsecondStack, tmp_path: Path
) -> None:
    """However often backups are listed, showmigrations runs once, and once more after the backend's next start."""
    with _asked(stack16, tmp_path / "events") as asked, Daemon(stack16) as daemon:
        daemon.wait_boot_dumps(1)
        for _ in range(3):
            daemon.listed()
        daemon.json("inspect", "latest")
        assert wait_until(asked, "showmigrations") == 1
        stack16.restart_backend()
        for _ in range(3):
            daemon.listed()
        wait_until(lambda: asked() > 1, "showmigrations after the restart")
        assert asked() == 2


def test_a_foreign_dump_is_noticed_by_itself(stack: ArcsecondStack) -> None:
    """A dump dropped in by hand is scanned without a call, gets its badge, and isn't read again."""
    with Daemon(stack) as daemon:
        daemon.wait_backups(1)
        argv = ["pg_dump", "-U", stack.user, "-d", stack.db]
        dropped = daemon.path(OLD.format(0))
        dropped.write_bytes(gzip.compress(stack.pg(argv).stdout.encode()))
        assert dropped.name in daemon.wait_log("Scanned a dump that has no manifest")
        daemon.restart()
        row = daemon.listed()[-1]
        assert not daemon.log_lines("Scanned")
    assert (row["name"], row["reason"], row["manifest"]) == (dropped.name, "foreign", False)
    assert (row["status"], row["migrations"]) == ("compatible", 20)


# By hand


def test_backup_answers_with_the_published_name(stack16: ArcsecondStack) -> None:
    """`backup --json` ends with the dump's name and whether it is new, unchanged, or only asked for."""
    with Daemon(stack16) as daemon:
        [boot] = daemon.wait_backups(1)
        same = daemon.json("backup")
        assert (same["outcome"], same["reason"]) == ("unchanged", "manual")
        assert daemon.path(same["name"]).samefile(daemon.path(boot))
        change(stack16)
        other = daemon.json("backup")
        assert other["outcome"] == "published"
        assert other["size"] == daemon.path(other["name"]).stat().st_size
        asked = daemon.json("backup", "--no-wait")
        assert (asked["name"], asked["outcome"]) == (None, "queued")
        daemon.wait_backups(4)


def test_a_second_client_waits_and_sees_the_first_ones_dump(stack16: ArcsecondStack) -> None:
    """Two clients that ask for a backup at once get one each, the second after watching the first's."""
    with Daemon(stack16) as daemon, ExitStack() as clients:
        daemon.wait_backups(1)
        with table_locked(stack16):
            first = clients.enter_context(daemon.client("backup"))
            wait_until(lambda: waiting_dumps(stack16) == 1, "the first dump")
            second = clients.enter_context(daemon.client("backup"))
            assert second.stdout is not None
            assert second.stdout.readline() == "Waiting for a dump that runs\n"
            assert second.stdout.readline() == "Waiting for the database\n"
            assert second.stdout.readline() == f"Dumping {stack16.db}\n"
            assert waiting_dumps(stack16) == 1
        told = [client.communicate(timeout=60)[0] for client in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0)
        names = [re.findall(r"backup-\d{8}-\d{6}\.sql\.gz(?=:)", text) for text in told]
        assert [daemon.names()[1:2], daemon.names()[2:3]] == names


def test_prune_removes_an_old_dump_and_says_why_the_others_stay(stack16: ArcsecondStack) -> None:
    """An old dump of this host goes, when asked and confirmed; one that just arrived from elsewhere stays."""
    with Daemon(stack16, retention={"keep_last": 2}) as daemon:
        [old] = daemon.wait_backups(1)
        for _ in range(2):
            change(stack16)
            daemon.json("backup")
        daemon.path(old).rename(daemon.path(OLD.format(0)))
        arrived = daemon.path(OLD.format(1))
        arrived.write_bytes(gzip.compress(gzip.decompress(daemon.path(OLD.format(0)).read_bytes())))
        daemon.wait_log("Scanned")
        plan = daemon.json("prune", "--dry-run")
        assert [(v["name"], v["keep"]) for v in plan["verdicts"]][2:] == [
            (arrived.name, True),
            (OLD.format(0), False),
        ]
        assert plan["verdicts"][-1]["why"].startswith("older than 14 days: age ")
        assert plan["removed"] == []
        assert daemon.json("prune", status=4)["error"]["code"] == "confirmation-needed"
        assert len(daemon.names()) == 4
        assert daemon.json("prune", "--yes")["removed"] == [OLD.format(0)]
        assert daemon.names()[0] == arrived.name
        assert len(daemon.names()) == 3


def test_status_exits_as_a_monitoring_plugin_does(stack16: ArcsecondStack) -> None:
    """`status` exits 0 when all is well, 1 and 2 for warnings and worse, 3 for wrong usage, 5 without a daemon."""
    with Daemon(stack16) as daemon:
        [name] = daemon.wait_backups(1)
        assert daemon.json("status", status=0)["last_good"]["name"] == name
        daemon.json("jobs", "pause", "prune")
        assert [p["code"] for p in daemon.json("status", status=1)["problems"]] == ["job-paused"]
        daemon.json("jobs", "resume", "prune")
        daemon.path(name).rename(daemon.path(OLD.format(0)))
        assert daemon.json("status", status=2)["state"] == "critical"
        daemon.ctl("status", "--nonsense", status=3)
        daemon.ctl("inspect", "nonsense", status=3)
        daemon.ctl("nonsense", status=2)
        daemon.stop()
        assert "hint: " in daemon.ctl("status", status=5).err


# Restoring with nothing but a shell


def test_dumps_restore_by_hand_on_the_same_and_newer_majors(
    stack: ArcsecondStack, stack_of: Callable[[int], ArcsecondStack]
) -> None:
    """`gunzip -c F | psql` into an empty database gives equal rows in every table, also on newer servers."""
    with Daemon(stack) as daemon:
        daemon.wait_backups(1)
        change(stack)
        dump = daemon.path(daemon.json("backup")["name"])
    expected = fingerprint(stack)
    assert len(expected) > 15
    for major in (major for major in MAJORS if major >= stack.major):
        target = stack_of(major)
        database = f"restored_{secrets.token_hex(4)}"
        try:
            restore_by_hand(dump, target, database)
            assert fingerprint(target, database) == expected
        finally:
            target.psql(f"DROP DATABASE IF EXISTS {database}")


# Secrets


def test_a_rotated_password_is_used_at_the_next_operation(stack16: ArcsecondStack) -> None:
    """After the password changed on the server, the one that .env has by then is used, whatever is in it."""
    old, new = stack16.password, f"""it's "100 %" $HOME #{secrets.token_hex(4)}\\"""
    with Daemon(stack16) as daemon:
        daemon.wait_backups(1)
        try:
            _set_password(stack16, new)
            assert daemon.json("backup", status=1)["error"]["code"] == "wrong-password"
            escaped = new.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
            stack16.write_env(POSTGRES_PASSWORD=f'"{escaped}"')
            assert daemon.json("backup")["outcome"] == "unchanged"
            assert new not in daemon.log()
        finally:
            _set_password(stack16, old)


def test_an_env_that_everyone_can_read_is_warned_about(stack16: ArcsecondStack) -> None:
    """A world-readable .env makes `status` a warning that says what to do, and the log says it at the start."""
    env = stack16.install_dir / ".env"
    env.chmod(0o644)
    try:
        with Daemon(stack16) as daemon:
            daemon.wait_backups(1)
            daemon.wait_log("can be read by everyone")
            [problem] = daemon.json("status", status=1)["problems"]
            assert problem["code"] == "env-world-readable"
            assert "chmod 600" in problem["hint"]
            env.chmod(0o600)
            daemon.json("status", status=0)
    finally:
        env.chmod(0o600)


def test_no_secret_shows_in_processes_or_output(stack: ArcsecondStack) -> None:
    """While dumps are taken no process of the host has the password among its arguments, and nobody prints it."""
    with watching_arguments() as seen, Daemon(stack, log_level="debug") as daemon:
        daemon.wait_backups(1)
        change(stack)
        said = [daemon.ctl(*words, "--json").out for words in (["backup"], ["list"], ["inspect", "1"], ["status"])]
        said += [daemon.ctl("backup").out, daemon.log()]
        said += [os.fsdecode(path.read_bytes()[:MEMBER_SIZE]) for path in map(daemon.path, daemon.names())]
    arguments = [" ".join(words) for words in seen]
    assert any(" exec " in line and "--env PGPASSWORD" in line and "pg_dump" in line for line in arguments)
    assert any(words[0] == "pg_dump" for words in seen)
    assert not [text for text in arguments + said if stack.password in text]


# Helpers


def _badges(daemon: Daemon) -> dict[str, Any]:
    return {row["name"]: row["status"] for row in daemon.listed()}


@contextmanager
def _asked(stack: ArcsecondStack, told: Path) -> Iterator[Callable[[], int]]:
    """Give what counts the runs of showmigrations as they come: Docker remembers only the last 256 events."""
    filters = ["--filter", f"container={stack.backend}", "--filter", "event=exec_create"]
    argv = stack.engine.argv("events", "--since", f"{time.time():.6f}", *filters)
    with told.open("wb") as output:
        listening = subprocess.Popen(argv, stdout=output, env={**os.environ, **stack.engine.env})
    try:
        yield lambda: told.read_text().count("showmigrations")
    finally:
        listening.terminate()
        listening.wait()


def _set_password(stack: ArcsecondStack, password: str) -> None:
    quoted = password.replace("'", "''")
    stack.psql(f"ALTER ROLE {stack.user} PASSWORD '{quoted}'")
    stack.password = password
