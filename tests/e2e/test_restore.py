"""Restores through daemon and client on real stacks: what comes back, what stays untouched, and what is told."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arcbackupd.dumps.manifest import Contents
from tests.e2e.restoring import (
    BY_HAND,
    FOREIGN,
    NEW,
    PROMPT,
    SECONDS,
    Quick,
    call,
    forged,
    inserted,
    with_manifest,
)
from tests.e2e.support import (
    fingerprint,
    processes,
    wait_for_no_process,
    wait_for_process,
    watching_arguments,
)
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine
from tests.harness.process import wait_until
from tests.harness.stack import PGDATA, ArcsecondStack

WRECK = """
    DROP TABLE observations_photometry;
    DELETE FROM observations_observation WHERE id % 2 = 0;
    CREATE TABLE left_behind AS SELECT 1 AS n;
"""
TRAILER = "--\n-- PostgreSQL database dump complete\n--\n"


@pytest.fixture
def daemon(quick: Quick) -> Iterator[Daemon]:
    """Return a running daemon on the quick stack that dumps only when it is asked."""
    with Daemon(quick.stack, jobs=BY_HAND) as daemon:
        yield daemon


# What comes back


def test_a_restore_brings_back_what_was_dumped(stack: ArcsecondStack) -> None:
    """After a restore every table has the rows it had when it was dumped, and the backend works on them."""
    with Daemon(stack, jobs=BY_HAND) as daemon:
        daemon.wait_boot_dumps(1, seconds=SECONDS)
        name = daemon.json("backup")["name"]
        expected = fingerprint(stack)
        stack.psql(WRECK)
        before = stack.state(stack.backend)["StartedAt"]
        report = daemon.json("restore", name, "--yes", timeout=300)
        assert (report["outcome"], report["problem"]) == ("restored", None)
        assert fingerprint(stack) == expected
        assert report["downtime_s"] > 0
        assert report["snapshot"] in daemon.names()
        stack.wait_backend()
        assert stack.state(stack.backend)["StartedAt"] != before
        kept = call(daemon, "Status")["replaced"]
        assert [row["snapshot"] for row in kept] == [report["snapshot"]]
        assert "left_behind" in "".join(fingerprint(stack, kept[0]["database"]))
        daemon.json("discard-replaced", "--yes")
        assert daemon.json("inspect", report["snapshot"])["backup"]["rows"]["public.left_behind"] == 1


def test_what_belongs_to_the_database_itself_is_kept(quick: Quick, daemon: Daemon) -> None:
    """Comment, privileges, settings and connection limit of the live database are those of the restored one."""
    stack = quick.stack
    stack.psql(
        f"COMMENT ON DATABASE {stack.db} IS 'it''s ours'; GRANT CREATE ON DATABASE {stack.db} TO PUBLIC;"
        f'ALTER DATABASE {stack.db} SET search_path = public, "$user";'
        f"ALTER DATABASE {stack.db} CONNECTION LIMIT 77;"
        f"ALTER ROLE {stack.user} IN DATABASE {stack.db} SET work_mem = '7MB'"
    )
    properties = (
        "SELECT shobj_description(oid, 'pg_database'), datacl, datconnlimit, pg_get_userbyid(datdba),"
        " (SELECT array_agg(setconfig::text ORDER BY setconfig::text) FROM pg_db_role_setting"
        " WHERE setdatabase = d.oid)"
        f" FROM pg_database d WHERE datname = '{stack.db}'"
    )
    before = stack.psql(properties, "postgres")
    daemon.json("restore", NEW, "--yes")
    assert stack.psql(properties, "postgres") == before
    assert fingerprint(stack) == quick.new


def test_disaster_drill_on_a_fresh_installation(docker_engine: Engine, stack16: ArcsecondStack) -> None:
    """A new installation with the old .env and one dump, dropped in by hand, has all that the old one had."""
    expected = fingerprint(stack16)
    dump = gzip.compress(stack16.pg(["pg_dump", "-U", stack16.user, stack16.db]).stdout.encode())
    fresh = ArcsecondStack(docker_engine, 16, healthcheck=True)
    fresh.password = stack16.password
    with fresh, Daemon(fresh) as daemon:
        fresh.backups.mkdir(exist_ok=True)
        daemon.path(FOREIGN).write_bytes(dump)
        answer = daemon.ctl("restore", FOREIGN, "--yes", timeout=300)
        assert f"Restored {FOREIGN} into {fresh.db}." in answer.out
        assert fresh.health() == "healthy"
        assert fingerprint(fresh) == expected
        daemon.ctl("status", status=0)


# Services


def test_services_stop_and_start_in_the_order_of_compose(quick: Quick) -> None:
    """What needs another service stops before it and starts after it; one that is stopped or missing is let be."""
    stack = quick.stack
    api = stack.add_service("api", ["sleep", "infinity"], arguments=PROMPT)
    beat = stack.add_service("beat", ["sleep", "infinity"], needs=["worker"], arguments=PROMPT)
    worker = stack.add_service("worker", ["sleep", "infinity"], needs=["api", "db"], arguments=PROMPT)
    web = stack.add_service("web", ["sleep", "infinity"], needs=["api"], arguments=PROMPT)
    try:
        stack.stop_container(web)
        services = [api, web, "no-such-service", worker, beat]
        with (
            Daemon(stack, jobs=BY_HAND, engine={"services": services}) as daemon,
            _container_events(stack, [api, beat, worker, web]) as happened,
        ):
            daemon.json("restore", NEW, "--yes")
            wait_until(lambda: len(happened) >= 6, f"all events, of {happened}", seconds=SECONDS)
        assert [name for event, name in happened if event == "die"] == [beat, worker, api]
        assert [name for event, name in happened if event == "start"] == [api, worker, beat]
        assert not stack.state(web)["Running"]
        assert fingerprint(stack) == quick.new
    finally:
        for name in (api, beat, worker, web):
            stack.remove_service(name)


def test_a_service_that_does_not_start_again_is_an_error(quick: Quick) -> None:
    """The restore fails with the service's name and what to do, though the database is the restored one."""
    stack = quick.stack
    marker = stack.app / "broken"
    broken = stack.add_service("fragile", ["sh", "-c", "test ! -e /app/broken && exec sleep 10000"])
    marker.touch()
    try:
        with Daemon(stack, jobs=BY_HAND) as daemon:
            answer = daemon.ctl("restore", NEW, "--yes", status=1)
            said = answer.out + answer.err
            assert f"{broken}: it ended" in said
            assert f"docker logs {broken}" in said
            assert f"{stack.db} is the restored one." in said
            assert fingerprint(stack) == quick.new
            assert stack.state(quick.service)["Running"]
            report = call(daemon, "Status")["restore"]
            assert (report["outcome"], report["code"]) == ("restored", "services-not-up")
            assert broken in daemon.ctl("status", status=None).out
    finally:
        marker.unlink()
        stack.remove_service(broken)


RECONNECT = """
import os, threading, time, psycopg2
counts = [0] * 6
def hammer(own):
    while True:
        try:
            psycopg2.connect(host=os.environ["POSTGRES_HOST"], user=os.environ["POSTGRES_USER"],
                             password=os.environ["POSTGRES_PASSWORD"], dbname=os.environ["POSTGRES_DB"]).close()
        except psycopg2.Error:
            pass
        counts[own] += 1
for own in range(len(counts)):
    threading.Thread(target=hammer, args=(own,), daemon=True).start()
while True:
    time.sleep(0.5)
    print(sum(counts), flush=True)
"""


def test_an_application_that_reconnects_all_the_time(quick: Quick) -> None:
    """Hundreds of connections a second, by what is no service that is stopped, don't make the swap fail."""
    stack = quick.stack
    hammer = stack.add_service("hammer", ["python", "-c", RECONNECT], arguments=["--stop-signal=KILL"])
    try:
        with Daemon(stack, jobs=BY_HAND, engine={"services": [quick.service]}) as daemon:
            wait_until(lambda: _newest_number(stack, hammer) > 200, "connections", seconds=SECONDS)
            for arguments in (["restore", NEW], ["rollback"], ["restore", NEW, "--in-place"]):
                before, began = _newest_number(stack, hammer), time.monotonic()
                daemon.json(*arguments, "--yes", timeout=300)
                took = time.monotonic() - began
                assert _newest_number(stack, hammer) - before > 20 * took
            assert fingerprint(stack) == quick.new
    finally:
        stack.remove_service(hammer)


WATCH = """
import os, time, psycopg2
def look():
    try:
        with psycopg2.connect(host=os.environ["POSTGRES_HOST"], user=os.environ["POSTGRES_USER"],
                              password=os.environ["POSTGRES_PASSWORD"], dbname=os.environ["POSTGRES_DB"]) as c:
            q = c.cursor()
            q.execute("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class"
                      " WHERE relnamespace = 'public'::regnamespace")
            names = q.fetchone()[0]
            rows = 0
            if names and "heap_of_it" in names:
                q.execute("SELECT count(*) FROM heap_of_it")
                rows = q.fetchone()[0]
            return f"saw {rows} in {names}"
    except psycopg2.OperationalError as error:
        return "nothing"
while True:
    print(look(), flush=True)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("options", [[], ["--in-place"]], ids=["staged", "in-place"])
def test_a_service_that_is_started_meanwhile_sees_no_half_database(quick: Quick, options: list[str]) -> None:
    """However often a service is started while a restore runs, it sees the old database, the new one or none."""
    stack = quick.stack
    heap = "CREATE TABLE heap_of_it AS SELECT n, md5(n::text) AS hex FROM generate_series(1, 400000) AS n"
    index = "CREATE INDEX zz_heap ON heap_of_it (hex)"
    watcher = ""
    try:
        with Daemon(stack, jobs=BY_HAND) as daemon:
            stack.psql(f"{heap}; {index}")
            name = daemon.json("backup")["name"]
            stack.psql("DELETE FROM heap_of_it WHERE n > 1000; CREATE TABLE old_one (n int)")
            watcher = stack.add_service(
                "watcher", ["python", "-c", WATCH], arguments=["--stop-signal=KILL", "--restart=always"]
            )
            wait_until(lambda: "old_one" in stack.logs(watcher), "the watcher to look", seconds=SECONDS)
            daemon.stop()
            daemon.start()
            with _started_all_the_time(stack, watcher) as starts:
                report = daemon.json("restore", name, "--yes", *options, timeout=300)
            assert report["outcome"] == "restored"
            wait_until(lambda: _last_line(stack, watcher).startswith("saw 400000 "), "the new one to be seen")
            seen = {line for line in stack.logs(watcher).splitlines() if line.startswith("saw ")}
            assert len(starts) > 3
            assert len(seen) == 2, seen
            assert all(("saw 400000 in" in line) != ("old_one" in line) for line in seen), seen
            assert all("zz_heap" in line for line in seen), seen
    finally:
        if watcher:
            stack.remove_service(watcher)


# Nothing happens


@pytest.mark.parametrize("options", [[], ["--in-place"]], ids=["staged", "in-place"])
def test_a_dry_run_touches_nothing_and_tells_no_secret(quick: Quick, daemon: Daemon, options: list[str]) -> None:
    """`--dry-run` prints the commands of every step, and database, services, backups and state stay as they are."""
    stack = quick.stack
    daemon.listed()
    before = (fingerprint(stack), quick.started_at(), daemon.names(), quick.databases(), _state(stack))
    with watching_arguments() as seen:
        answer = daemon.ctl("restore", NEW, "--dry-run", *options)
    assert before == (fingerprint(stack), quick.started_at(), daemon.names(), quick.databases(), _state(stack))
    for words in ("psql --no-psqlrc", f"docker stop {quick.service}", f"gunzip -c {stack.backups}/{NEW} | "):
        assert words in answer.out
    assert ("DROP DATABASE" in answer.out) is bool(options)
    assert stack.password not in answer.out + answer.err + str(seen)
    quick.assert_tidy(daemon)


SQL_ERROR = "SELECT * FROM no_such_table;\n"
SWALLOWED = (
    "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;\n"
    "CREATE TRIGGER swallow BEFORE INSERT ON public.zeniths FOR EACH ROW WHEN (NEW.n = 500)"
    " EXECUTE FUNCTION public.swallow();\n"
)


def _sql_error(quick: Quick) -> str:
    return quick.drop_in(inserted(quick.sql, SQL_ERROR))


def _cut_short(quick: Quick) -> str:
    return quick.drop_in(quick.sql.partition(TRAILER)[0])


def _bytes_cut(quick: Quick) -> str:
    (quick.stack.backups / FOREIGN).write_bytes(quick.kept.read_bytes()[:-5000])
    return FOREIGN


def _bits_changed(quick: Quick) -> str:
    whole = bytearray(quick.kept.read_bytes())
    whole[-9000] ^= 0xFF
    (quick.stack.backups / FOREIGN).write_bytes(whole)
    return FOREIGN


def _rows_claimed(quick: Quick) -> str:
    rows = {"public.marks": 1, "public.frames": 2999, "public.zeniths": 300}
    with_manifest(quick.kept.read_bytes(), quick.stack.backups / FOREIGN, contents=Contents(rows=rows))
    return FOREIGN


def _rows_swallowed(quick: Quick) -> str:
    return quick.drop_in(inserted(quick.sql, SWALLOWED))


@pytest.mark.parametrize(
    ("make", "status", "code", "sentence"),
    [
        (_sql_error, 1, "load-failed", 'relation "no_such_table" does not exist at line '),
        (_cut_short, 4, "broken-backup", "cut short"),
        (_bytes_cut, 4, "broken-backup", "cut short"),
        (_bits_changed, 1, "damaged-dump", f"{FOREIGN} can't be loaded: "),
        (_rows_claimed, 1, "rows-differ", "table public.frames has 3,000 rows, and should have 2,999"),
        (_rows_swallowed, 1, "rows-differ", "table public.zeniths has 299 rows, and should have 300"),
    ],
    ids=["sql-error", "cut-short", "bytes-cut", "bits-changed", "rows-claimed", "rows-swallowed"],
)
def test_a_bad_dump_changes_nothing(
    quick: Quick, daemon: Daemon, make: Callable[[Quick], str], status: int, code: str, sentence: str
) -> None:
    """Whatever is wrong with a dump, it is told, the live database is the same, and no service was stopped."""
    started_at = quick.started_at()
    name = make(quick)
    answer = daemon.json("restore", name, "--yes", status=status)
    assert answer["error"]["code"] == code
    assert sentence in answer["error"]["message"]
    assert answer["error"]["hint"]
    assert ("is what it was before." in answer["error"]["message"]) is (status == 1)
    assert fingerprint(quick.stack) == quick.old
    assert quick.started_at() == started_at
    quick.assert_tidy(daemon)
    assert call(daemon, "Status")["replaced"] == []


COMMANDS = [
    "\\! touch {}",
    "\\o |touch {}",
    "\\copy public.marks from program 'touch {}'",
    "\\copy (SELECT 1) to '{}'",
    "\\w {}",
    "SELECT 'touch {}' AS it \\gset\n\\! :it",
    "SELECT 1 \\g |touch {}",
    "\\setenv X `touch {}`",
    "SELECT E'\\'';\n\\! touch {}",
    "SELECT $a$ $$ $a$;\n\\! touch {}",
    "/* /* */ */ \\! touch {}",
    "\\unrestrict abc\n\\! touch {}",
    "\\connect postgres\n\\! touch {}",
    "COPY public.marks (name) FROM stdin;\n\\.\n\\! touch {}",
]


FORGED = [COMMANDS[0], COMMANDS[2], COMMANDS[5], COMMANDS[8], COMMANDS[13]]


def test_a_dump_is_no_program(quick: Quick, daemon: Daemon) -> None:
    """A dump dropped in by hand with commands of psql's own is refused before anything begins, and none runs."""
    with _nothing_runs(quick.stack) as trace:
        for number, command in enumerate(COMMANDS):
            name = quick.drop_in(
                inserted(quick.sql, command.format(trace) + "\n"), f"backup-20260101-0000{number:02}.sql.gz"
            )
            error = daemon.json("restore", name, "--yes", status=4)["error"]
            assert error["code"] == "broken-backup", command
    assert fingerprint(quick.stack) == quick.old


def test_a_dump_with_a_manifest_is_no_program_either(stack: ArcsecondStack) -> None:
    """Where a forged manifest vouches for a dump, its commands are found as it is loaded, and none runs."""
    started_at = stack.state(stack.backend)["StartedAt"]
    before = fingerprint(stack)
    with Daemon(stack, jobs=BY_HAND) as daemon, _nothing_runs(stack) as trace:
        [boot] = daemon.wait_boot_dumps(1, seconds=SECONDS)
        real = daemon.path(boot).read_bytes()
        sql = gzip.decompress(real).decode()
        for command in FORGED:
            forged(real, inserted(sql, command.format(trace) + "\n"), daemon.path(FOREIGN))
            error = daemon.json("restore", FOREIGN, "--yes", status=1)["error"]
            assert error["code"] == "unsafe-dump", command
        assert fingerprint(stack) == before
        assert stack.psql("SELECT count(*) FROM pg_database WHERE datname LIKE 'arcbackupd%'") == "0"
    assert stack.state(stack.backend)["StartedAt"] == started_at


@pytest.mark.parametrize("options", [[], ["--in-place"]], ids=["staged", "in-place"])
def test_prepared_transactions_are_refused_by_name(quick: Quick, daemon: Daemon, options: list[str]) -> None:
    """A prepared transaction in the live database is told by its name before any service stops."""
    stack, started_at = quick.stack, quick.started_at()
    stack.psql("BEGIN; INSERT INTO marks VALUES ('prepared'); PREPARE TRANSACTION 'by somebody'")
    try:
        error = daemon.json("restore", NEW, "--yes", *options, status=4)["error"]
        assert error["code"] == "prepared-transactions"
        assert "by somebody" in error["message"]
        assert quick.started_at() == started_at
        quick.assert_tidy(daemon)
    finally:
        stack.psql("ROLLBACK PREPARED 'by somebody'")
    assert fingerprint(stack) == quick.old


# The way back


def test_rollback_goes_there_and_back_again(quick: Quick, daemon: Daemon) -> None:
    """A rollback brings back what was replaced, another one what that replaced; after a discard there is none."""
    daemon.json("restore", NEW, "--yes")
    for expected in (quick.old, quick.new, quick.old):
        report = daemon.json("rollback", "--yes")
        assert report["outcome"] == "rolled-back"
        assert fingerprint(quick.stack) == expected
        assert len(quick.databases()) == 1
        assert quick.stack.state(quick.service)["Running"]
        quick.assert_tidy(daemon)
    kept = quick.databases()
    assert set(daemon.json("discard-replaced", "--yes")["discarded"]) == kept
    assert quick.databases() == set()
    assert daemon.json("rollback", "--yes", status=4)["error"]["code"] == "nothing-to-roll-back"
    assert fingerprint(quick.stack) == quick.old


def test_rollback_does_not_wait_for_a_running_snapshot(quick: Quick, daemon: Daemon) -> None:
    """While the safety backup of what was replaced is being taken, a rollback brings that back at once."""
    stack = quick.stack
    stack.psql(
        "CREATE TABLE bulk AS SELECT n, md5(n::text) || md5((-n)::text) AS hex"
        " FROM generate_series(1, 1500000) AS n"
    )
    with daemon.client("restore", NEW, "--yes") as client:
        pid = wait_for_process(stack)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert stack.psql("SELECT name FROM marks") == "new"
            report = daemon.json("rollback", "--yes")
            assert report["outcome"] == "rolled-back"
            assert stack.psql("SELECT count(*) FROM bulk") == "1500000"
            said, _ = client.communicate(timeout=SECONDS)
            assert client.returncode == 0, said
        finally:
            if pid in processes(stack, "pg_dump"):
                os.kill(pid, signal.SIGCONT)
    wait_for_no_process(stack, seconds=SECONDS)
    wait_until(lambda: call(daemon, "Status")["operation"] is None, "the end of all", seconds=SECONDS)
    assert stack.psql("SELECT name FROM marks") == "old"
    quick.assert_tidy(daemon)


def test_a_broken_table_does_not_stand_in_the_way(quick: Quick, daemon: Daemon) -> None:
    """A live database that pg_dump can't read is restored over, kept, warned about, and dropped when told to."""
    stack = quick.stack
    path = stack.psql("CHECKPOINT; SELECT pg_relation_filepath('frames')")
    stack.exec(stack.database, "rm", f"{PGDATA}/{path}")
    daemon.json("backup", status=1)
    report = daemon.json("restore", NEW, "--yes")
    assert (report["outcome"], report["snapshot"]) == ("restored", None)
    assert fingerprint(stack) == quick.new
    status = daemon.json("status", status=None)
    assert "replaced-without-backup" in [problem["code"] for problem in status["problems"]]
    assert [row["snapshot"] for row in status["replaced"]] == [None]
    daemon.json("discard-replaced", "--yes")
    assert quick.databases() == set()
    assert fingerprint(stack) == quick.new


# In place


def test_a_restore_in_place(quick: Quick, daemon: Daemon) -> None:
    """In place nothing is kept beside the restored database but the safety backup, which has what was there."""
    report = daemon.json("restore", NEW, "--yes", "--in-place")
    assert (report["outcome"], report["replaced"]) == ("restored", None)
    assert fingerprint(quick.stack) == quick.new
    assert quick.databases() == set()
    daemon.json("restore", report["snapshot"], "--yes", "--in-place", "--no-safety-backup")
    assert fingerprint(quick.stack) == quick.old
    assert [name for name in daemon.names() if name.startswith("pre-restore-")] == [report["snapshot"]]
    quick.assert_tidy(daemon)


def test_a_load_that_fails_in_place_puts_the_snapshot_back(quick: Quick, daemon: Daemon) -> None:
    """When the load fails in place, the safety backup becomes the live database by itself, and it is told."""
    error = daemon.json("restore", _sql_error(quick), "--yes", "--in-place", status=1)["error"]
    [snapshot] = [name for name in daemon.names() if name.startswith("pre-restore-")]
    assert error["code"] == "load-failed"
    assert f"was put back from {snapshot}." in error["message"]
    assert fingerprint(quick.stack) == quick.old
    assert quick.stack.state(quick.service)["Running"]
    quick.assert_tidy(daemon)


def test_a_failed_snapshot_stops_a_restore_in_place(quick: Quick, daemon: Daemon) -> None:
    """In place a database that can't be backed up isn't dropped; --no-safety-backup says that it may be."""
    stack, started_at = quick.stack, quick.started_at()
    path = stack.psql("CHECKPOINT; SELECT pg_relation_filepath('frames')")
    stack.exec(stack.database, "rm", f"{PGDATA}/{path}")
    daemon.json("restore", NEW, "--yes", "--in-place", status=1)
    assert stack.psql("SELECT name FROM marks") == "old"
    assert quick.started_at() == started_at
    quick.assert_tidy(daemon)
    daemon.json("restore", NEW, "--yes", "--in-place", "--no-safety-backup")
    assert fingerprint(stack) == quick.new


WRITE = """
import os, psycopg2
c = psycopg2.connect(host=os.environ["POSTGRES_HOST"], user=os.environ["POSTGRES_USER"],
                     password=os.environ["POSTGRES_PASSWORD"], dbname=os.environ["POSTGRES_DB"])
c.autocommit = True
q = c.cursor()
n = 0
while True:
    n += 1
    q.execute("INSERT INTO added VALUES (%s)", (f"row {n}",))
    print(n, flush=True)
"""


def test_what_is_written_until_the_services_stop_is_in_the_snapshot(quick: Quick) -> None:
    """In place, a row that a service has committed before it was stopped is there when the snapshot is put back."""
    stack = quick.stack
    name = _sql_error(quick)
    writer = stack.add_service("writer", ["python", "-c", WRITE], arguments=["--stop-signal=KILL"])
    try:
        with Daemon(stack, jobs=BY_HAND) as daemon:
            wait_until(lambda: _newest_number(stack, writer) > 10, "rows to be written", seconds=SECONDS)
            with daemon.client("restore", name, "--yes", "--in-place") as client:
                wait_until(lambda: not stack.state(writer)["Running"], "the writer to be stopped", seconds=SECONDS)
                finished = stack.state(writer)["FinishedAt"]
                written = _numbers(stack, writer, until=finished)
                said, _ = client.communicate(timeout=SECONDS)
            assert client.returncode == 1, said
            assert "was put back from" in said
            numbers = stack.psql("SELECT substr(line, 5)::int FROM added WHERE line LIKE 'row %'").split()
            assert written
            assert set(written) <= set(map(int, numbers))
    finally:
        stack.remove_service(writer)


# Secrets


def test_no_secret_in_any_argument_or_output(quick: Quick) -> None:
    """During restores of both kinds and a rollback no process has the password in its arguments, nor prints it."""
    stack = quick.stack
    with watching_arguments() as seen, Daemon(stack, jobs=BY_HAND, log_level="debug") as daemon:
        said = [
            str(daemon.ctl(*words, "--yes"))
            for words in (["restore", NEW], ["rollback"], ["restore", NEW, "--in-place"], ["discard-replaced"])
        ]
        said += [daemon.log(), *(path.read_text() for path in stack.state_dir.glob("*.json"))]
    arguments = [" ".join(words) for words in seen]
    assert any("exec --interactive" in line and "psql" in line for line in arguments)
    assert any("CREATE DATABASE" in text or "psql" in text for text in arguments)
    assert not [text for text in arguments + said if stack.password in text]


# The client, and others beside


def test_a_client_that_is_killed_changes_nothing(quick: Quick, daemon: Daemon) -> None:
    """When the client dies the restore goes on, and `restore --attach` sees it from its beginning to its end."""
    name = quick.drop_in_held()
    with quick.held():
        with daemon.client("restore", name, "--yes") as client:
            quick.wait_held()
            client.kill()
            client.wait(30)
        with daemon.client("restore", "--attach") as attached:
            assert attached.stdout is not None
            assert attached.stdout.readline() == f"Looking whether {name} can be restored\n"
            quick.let_go()
            said, _ = attached.communicate(timeout=SECONDS)
    assert attached.returncode == 0, said
    assert f"Restored {name} into {quick.stack.db}." in said
    assert fingerprint(quick.stack) == quick.new
    wait_until(lambda: call(daemon, "Status")["operation"] is None, "the end", seconds=SECONDS)
    assert f"Restored {name}" in daemon.ctl("restore", "--attach").out
    quick.assert_tidy(daemon)


def test_interrupted_before_the_swap_it_is_undone(quick: Quick, daemon: Daemon) -> None:
    """Ctrl-C in the client before the swap has everything undone, with no service ever stopped, and exits 1."""
    started_at = quick.started_at()
    name = quick.drop_in_held()
    with quick.held(), daemon.client("restore", name, "--yes") as client:
        quick.wait_held()
        client.send_signal(signal.SIGINT)
        said, _ = client.communicate(timeout=SECONDS)
    assert client.returncode == 1, said
    assert f"{quick.stack.db} is what it was before." in said
    assert fingerprint(quick.stack) == quick.old
    assert quick.started_at() == started_at
    wait_for_no_process(quick.stack, "psql", seconds=SECONDS)
    quick.assert_tidy(daemon)


def test_nothing_else_is_done_beside_a_restore(quick: Quick, daemon: Daemon) -> None:
    """Beside a restore a second one, a backup and a discard are refused as busy, with how to see it."""
    name = quick.drop_in_held()
    with quick.held(), daemon.client("restore", name, "--yes") as client:
        quick.wait_held()
        for words in (["restore", NEW, "--yes"], ["backup"], ["discard-replaced", "--yes"]):
            error = daemon.json(*words, status=6)["error"]
            assert error["code"] == "busy"
            assert "--attach" in error["hint"]
        quick.let_go()
        said, _ = client.communicate(timeout=SECONDS)
        assert client.returncode == 0, said
    assert fingerprint(quick.stack) == quick.new


def test_a_scheduled_dump_waits_for_a_restore(quick: Quick) -> None:
    """While a restore runs no dump comes though its time passes; after it one of the new database does."""
    name = quick.drop_in_held()
    with Daemon(quick.stack, jobs={"dump": {"schedule": "every 2s"}}) as daemon:
        with quick.held(), daemon.client("restore", name, "--yes") as client:
            quick.wait_held()
            before, due = daemon.names(), _next_run(daemon, "dump")
            wait_until(lambda: _next_run(daemon, "dump") != due, "the schedule's time to pass", seconds=SECONDS)
            assert daemon.names() == before
            quick.let_go()
            said, _ = client.communicate(timeout=SECONDS)
            assert client.returncode == 0, said
        daemon.wait_backups(len(before) + 2, seconds=SECONDS)
        later = [row["name"] for row in daemon.listed() if row["name"] not in before and row["kind"] == "backup"]
        assert daemon.json("inspect", later[-1])["backup"]["rows"]["public.zeniths"] == 300


# Helpers


@contextmanager
def _nothing_runs(stack: ArcsecondStack) -> Iterator[str]:
    """Give the path of a file, and see in the end that nobody made it: not on the host, nor in the database's."""
    trace = f"/tmp/arcbackupd-trace-{os.getpid()}"
    yield trace
    assert not Path(trace).exists()
    assert stack.exec(stack.database, "ls", trace, check=False).returncode != 0


def _next_run(daemon: Daemon, name: str) -> str:
    return next(str(job["next_run"]) for job in call(daemon, "Jobs")["jobs"] if job["name"] == name)


def _state(stack: ArcsecondStack) -> set[str]:
    """Return what a restore keeps among the daemon's state."""
    kept = {"restore.json", "replaced.json", "last-restore.json"}
    return kept & {path.name for path in stack.state_dir.iterdir()}


@contextmanager
def _container_events(stack: ArcsecondStack, names: list[str]) -> Iterator[list[tuple[str, str]]]:
    """Collect the ends and starts of containers as they come: Docker remembers only the last 256 events."""
    happened: list[tuple[str, str]] = []
    filters = [word for name in names for word in ("--filter", f"container={name}")]
    argv = ["events", *filters, "--filter", "event=die", "--filter", "event=start", "--since", f"{time.time():.6f}"]
    with subprocess.Popen(
        stack.engine.argv(*argv, "--format", "{{.Action}} {{.Actor.Attributes.name}}"),
        env={**os.environ, **stack.engine.env},
        stdout=subprocess.PIPE,
        text=True,
    ) as events:

        def collect() -> None:
            assert events.stdout is not None
            for line in events.stdout:
                action, _, name = line.strip().partition(" ")
                happened.append((action, name))

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            yield happened
        finally:
            events.terminate()
            thread.join()


def _numbers(stack: ArcsecondStack, name: str, until: str = "") -> list[int]:
    words = ["logs", *(["--until", until] if until else []), name]
    return [int(line) for line in stack.engine.run(*words).stdout.splitlines() if line.isdecimal()]


def _newest_number(stack: ArcsecondStack, name: str) -> int:
    return int(
        (re.findall(r"^\d+$", stack.engine.run("logs", "--tail", "3", name).stdout, re.MULTILINE) or ["0"])[-1]
    )


def _last_line(stack: ArcsecondStack, name: str) -> str:
    return stack.engine.run("logs", "--tail", "1", name).stdout.strip()


@contextmanager
def _started_all_the_time(stack: ArcsecondStack, name: str) -> Iterator[list[float]]:
    """Start a container again and again, for as long as it lasts."""
    starts: list[float] = []
    ending = threading.Event()

    def start() -> None:
        while not ending.is_set():
            stack.engine.run("start", name, check=False)
            starts.append(time.monotonic())
            ending.wait(0.05)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        yield starts
    finally:
        ending.set()
        thread.join()
