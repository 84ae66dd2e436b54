"""Restores of real databases through the local engine: what becomes of them, and of what they replace."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from arcbackupd.dumps.manifest import Contents
from arcbackupd.errors import Busy, OperationFailed, Refused
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.events import Event, Notice, Progress, Steps
from arcbackupd.operations.queue import Operation, OperationQueue, Priority
from arcbackupd.operations.restore import checks
from arcbackupd.operations.restore.checks import Request
from arcbackupd.operations.restore.journal import Journal, JournalFile
from arcbackupd.operations.restore.report import Report
from arcbackupd.operations.restores import Restores
from arcbackupd.postgres import databases as sql
from tests.harness.embedded import EmbeddedPostgresError
from tests.harness.process import wait_until
from tests.integration.stand import DEBIAN, MAJORS, PASSWORD, Stand, filled, good, write
from tests.unit import sample_dumps
from tests.unit.sample_dumps import copy, dump

pytestmark = pytest.mark.postgres

IN_PLACE = Request(in_place=True)
DISASTER = "DELETE FROM t WHERE id > 9; UPDATE t SET note = 'lost'; CREATE TABLE fresh AS SELECT 1 AS one"


# What it comes to


@pytest.mark.parametrize("major", MAJORS)
def test_after_a_restore_everything_is_as_dumped_and_a_rollback_brings_back_what_was_replaced(
    make_stand: Callable[..., Stand], major: int
) -> None:
    stand = filled(make_stand(major))
    dumped = stand.contents()
    name = stand.take()
    stand.sql(DISASTER)
    changed, old = stand.contents(), stand.properties()
    report = stand.restore(name)
    assert (report.outcome, report.name, report.problem) == ("restored", name, None)
    assert stand.contents() == dumped
    assert stand.sql("SELECT count FROM v") == "500"
    assert int(stand.sql("SELECT count(*) FROM pg_stats WHERE tablename = 't'")) > 0, "nothing was analyzed"
    assert stand.ours() == [report.replaced]
    kept = stand.properties(report.replaced)
    assert (kept.oid, kept.datallowconn, stand.contents(report.replaced)) == (old.oid, True, changed)
    (known,) = stand.replaced.all()
    assert (known.database, known.wanted, known.problem) == (report.replaced, True, None)
    assert known.snapshot is not None
    assert known.snapshot.startswith("pre-restore-")
    assert good(stand, known.snapshot)
    assert stand.services_log == ["stop api", "stop worker", "start worker", "start api"]

    back = stand.rollback()
    assert (back.outcome, stand.contents()) == ("rolled-back", changed)
    assert stand.properties().oid == old.oid
    assert stand.contents(back.replaced) == dumped
    assert stand.rollback().outcome == "rolled-back"
    assert stand.contents() == dumped
    assert stand.restore(known.snapshot, Request(safety_backup=False)).outcome == "restored"
    assert stand.contents() == changed
    assert len(stand.do(lambda restores: restores.discard())) == 2
    assert (stand.ours(), stand.look(lambda restores: restores.replaced()), stand.running()) == (
        [],
        [],
        ["api", "worker"],
    )


def test_the_last_report_is_known_to_the_next_daemon(stand: Stand) -> None:
    report = stand.restore(stand.take())
    assert stand.look(lambda restores: restores.last()) == report
    assert report.downtime_s is not None
    assert report.keep_until is not None
    assert report.keep_until > datetime.now(UTC) + timedelta(hours=23)


def test_a_plan_touches_nothing_and_shows_no_secret(stand: Stand) -> None:
    name = stand.take()
    before, files = stand.whole(), sorted(stand.home.rglob("*"))
    for request in (Request(), IN_PLACE):
        plan = stand.look(lambda restores, request=request: restores.plan(name, request))  # type: ignore[misc]
        shown = "\n".join(command for step in plan.steps for command in step.commands)
        assert (plan.refusals, PASSWORD in shown, "psql" in shown) == ((), False, True)
        assert plan.steps[-1].name == "start"
    assert (stand.whole(), stand.ours(), stand.services_log) == (before, [], [])
    assert [path for path in stand.home.rglob("*") if path not in files and "catalogue" not in path.name] == []


def test_only_services_that_ran_are_stopped_and_started(stand: Stand) -> None:
    (stand.home / "services" / "running.worker").unlink()
    stand.restore(stand.take())
    assert stand.services_log == ["stop api", "start api"]
    assert stand.running() == ["api"]


def test_what_a_clock_named_that_ran_ahead_is_not_the_latest(stand: Stand) -> None:
    old = stand.backups / stand.take()
    ahead = old.rename(old.with_name("backup-20990101-000000.sql.gz"))
    stand.sql("DELETE FROM t WHERE id > 9")
    name = stand.take()
    backups = stand._backups(OperationQueue())
    assert [listed.backup.name for listed in backups.list()] == [name, ahead.name]
    assert backups.find("latest").backup.name == name


def test_a_dump_of_somebody_else_restores_too(stand: Stand) -> None:
    ours = stand.backups / stand.take()
    foreign = stand.backups / "backup-20260101-130000.sql.gz"
    foreign.write_bytes(gzip.compress(gzip.decompress(ours.read_bytes())))
    os.utime(foreign, (1, 1))
    ours.unlink()
    dumped = stand.contents()
    stand.sql(DISASTER)
    assert stand.restore(foreign.name).outcome == "restored"
    assert stand.contents() == dumped


def test_a_second_restore_is_refused_while_one_is_at_work(stand: Stand) -> None:
    name = stand.take()

    def begin(restores: Restores) -> Operation[Report]:
        first = restores.restore(name, Request())
        with pytest.raises(Busy):
            restores.restore(name, Request())
        with pytest.raises(Busy):
            restores.rollback()
        return first

    assert stand.do(begin).outcome == "restored"


# What fails before the swap

TABLE = b"CREATE TABLE public.t (id integer PRIMARY KEY, note text);\n"
ROWS = copy(b"public.t", (b"id", b"note"), [(b"1", b"Vega"), (b"2", None)])
HONEST = dump(TABLE + ROWS)
CUT = HONEST[: HONEST.index(b"Vega") + 5]


@pytest.mark.parametrize(
    ("text", "lies", "code", "says"),
    [
        (dump(TABLE + b"SELECT 1/0;\n" + ROWS), {}, "load-failed", "division by zero at line"),
        (dump(TABLE + ROWS + b"ALTER TABLE public.x ADD y int;\n"), {}, "load-failed", "does not exist at line"),
        (dump(ROWS), {}, "load-failed", '"public.t" does not exist'),
        (dump(TABLE + ROWS + b"INSERT INTO public.t VALUES (1);\n"), {}, "load-failed", "duplicate key"),
        (HONEST, {"contents": Contents(rows={"public.t": 3})}, "rows-differ", "2 rows, and should have 3"),
        (HONEST, {"contents": Contents(rows={"public.t": 1})}, "rows-differ", "2 rows, and should have 1"),
        (HONEST, {"contents": Contents(rows={"public.t": 2, "public.u": 0})}, "rows-differ", "public.u"),
        (HONEST, {"sql_sha256": "0" * 64}, "damaged-dump", "SHA-256 differs"),
        (HONEST, {"sql_length": len(HONEST) + 1}, "damaged-dump", "isn't the one that was written"),
        (dump(b"DROP DATABASE postgres;\n"), {}, "unsafe-dump", "DROP DATABASE"),
    ],
)
def test_a_dump_that_cannot_be_loaded_leaves_everything_as_it_was(
    stand: Stand, text: bytes, lies: dict[str, object], code: str, says: str
) -> None:
    name = write(stand, text, **lies)
    with stand.untouched(code) as told:
        stand.restore(name)
    assert says in told[0].message
    assert f"{stand.database} is what it was before." in told[0].message
    last = stand.look(lambda restores: restores.last())
    assert last is not None
    assert (last.outcome, last.code, last.replaced) == ("undone", code, None)


def test_a_dump_that_is_cut_inside_its_rows_is_not_loaded_whatever_its_manifest_says(stand: Stand) -> None:
    name = write(stand, CUT, contents=Contents(rows={"public.t": 1}))
    with pytest.raises(OperationFailed) as caught:
        stand.restore(name)
    assert caught.value.code in ("rows-differ", "unsafe-dump", "load-failed", "damaged-dump")
    assert (stand.ours(), stand.services_log) == ([], [])


def test_a_file_that_was_cut_short_is_refused_as_broken(stand: Stand) -> None:
    path = stand.backups / stand.take()
    os.truncate(path, path.stat().st_size - 40)
    with stand.untouched("broken-backup"):
        stand.restore(path.name)
    with stand.untouched("broken-backup"):
        stand.restore(path.name, Request(force=True))


def test_a_cancelled_load_leaves_everything_as_it_was(stand: Stand) -> None:
    many = b"".join(b"%d\t%s\n" % (i, b"x" * 200) for i in range(300_000))
    name = write(stand, dump(TABLE + b"COPY public.t (id, note) FROM stdin;\n" + many + b"\\.\n"))

    def cancel(event: Event, operation: Operation[Report]) -> None:
        if isinstance(event, Progress):
            operation.cancellation.cancel("of a test")

    with stand.untouched("cancelled") as told:
        stand.do(lambda restores: restores.restore(name, Request()), cancel)
    assert "because of a test" in told[0].message
    loading = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^arcbackupd-load'"
    wait_until(lambda: stand.sql(loading) == "0", "the end of the server's side of the load")


# Commands of psql's

COMMANDS = [
    b"\\! touch {}\n",
    b"COPY public.t (id) FROM stdin; \\! touch {}\n\\.\n",
    b"SELECT 1 \\g |touch {}\n",
    b"\\copy public.t from program 'touch {}; false'\n",
    b"\\o |touch {}\n",
    b"\\set x `touch {}`\n",
    b"\\connect template1\nCREATE TABLE public.hacked ();\n",
]


@pytest.mark.parametrize("old_psql", [False, True])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_a_dump_whose_manifest_vouches_for_it_does_not_run(
    stand: Stand, command: bytes, old_psql: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old_psql:  # psql isn't told to refuse commands, and so would run them, as an old one would
        monkeypatch.setattr(checks, "knows_restrict", lambda version: False)
    marker = stand.server.home / "marker"
    body = command.replace(b"{}", str(marker).encode())
    name = write(stand, dump(TABLE + body + ROWS), contents=Contents(rows={"public.t": 2}))
    with stand.untouched("unsafe-dump"):
        stand.restore(name)
    assert not marker.exists()
    assert stand.sql("SELECT to_regclass('public.hacked') IS NULL", "template1") == "t"


@pytest.mark.parametrize("old_psql", [False, True])
def test_a_command_without_a_newline_at_the_very_end_does_not_run_either(
    stand: Stand, old_psql: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old_psql:
        monkeypatch.setattr(checks, "knows_restrict", lambda version: False)
    marker = stand.server.home / "marker-at-the-end"
    name = write(stand, HONEST + b"\\! touch " + str(marker).encode())
    with pytest.raises(OperationFailed):
        stand.restore(name)
    assert not marker.exists()
    assert stand.ours() == []


HIDDEN = b"DO $$BEGIN EXECUTE pg_catalog.format('SET %%s%%s = %%s', '%s', '%s', '%s'); END$$;%c"
IN_A_STRING = b"SELECT 'x%s', ' ;\n\\! touch {}\n -- ';\n"
MISLEADING = [
    (before, b"\\")
    for before in (
        b"SELECT pg_catalog.set_config('standard_conforming_strings', 'off', false);\n",
        b"SET SESSION standard_conforming_strings = off;\n",
        b'SET U&"standard\\005fconforming\\005fstrings" = off;\n',
        HIDDEN % (b"standard_conf", b"orming_strings", b"off", b"\n"),
        HIDDEN % (b"standard_conf", b"orming_strings", b"off", b" "),
    )
] + [
    (before, b"\x81")
    for before in (
        b"SET NAMES 'SJIS';\n",
        b"SELECT pg_catalog.set_config('client_encoding', 'SJIS', false);\n",
        HIDDEN % (b"client_", b"encoding", b"SJIS", b"\n"),
    )
]
"""What changes how psql reads what follows, and what it takes then for the middle of a character or an escape."""


@pytest.mark.parametrize(("before", "end"), MISLEADING)
def test_a_dump_that_misleads_an_old_psql_runs_no_command(
    stand: Stand, before: bytes, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "knows_restrict", lambda version: False)
    marker = stand.server.home / f"marker-{stand.database}"
    body = (before + IN_A_STRING % end).replace(b"{}", str(marker).encode())
    by_hand = stand.server.home / f"by-hand-{stand.database}.sql"
    by_hand.write_bytes(body)
    stand.server.pg(["psql", "-X", "-d", stand.database, "-f", str(by_hand)], check=False)
    assert marker.exists() is before.endswith(b"\n"), "psql reads a line as it was told before it"
    marker.unlink(missing_ok=True)
    name = write(stand, dump(TABLE + body + ROWS), contents=Contents(rows={"public.t": 2}))
    with suppress(OperationFailed):
        stand.restore(name)
    assert not marker.exists()


CORNERS = [
    b"SELECT E'a'\n'b\\' \\! touch {}\n';\n",
    b"COPY public.t /* /* */ FROM STDIN */ TO STDOUT;\n\\! touch {}\n\\.\n",
    b"SELECT 1\0, '\n;\n\\! touch {}\n';\n",
    b"CREATE /**/ FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1;\nCOPY public.t FROM stdin;\n\\! touch {}\n",
    b"SELECT 1e-- \\! touch {}\n;\n",
    b"SELECT :E'\\' \\! touch {}\n';\n",
    b"-- \x81\r/*\n\\! touch {}\n*/\n",
    b"SET standard_conforming_strings = off;\nSELECT B'\\' \\! touch {}\n';\n",
]
"""What psql has read differently from us, in one major or another."""


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("body", CORNERS)
def test_no_corner_of_psql_s_lexer_runs_a_command(
    make_stand: Callable[..., Stand], major: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "knows_restrict", lambda version: False)
    stand = make_stand(major)
    marker = stand.server.home / f"marker-{stand.database}"
    text = dump(TABLE + body.replace(b"{}", str(marker).encode()) + ROWS)
    name = write(stand, text, contents=Contents(rows={"public.t": 2}))
    with stand.untouched("unsafe-dump"):
        stand.restore(name)
    assert not marker.exists()


@pytest.mark.parametrize("major", MAJORS)
def test_an_honest_dump_goes_through_an_old_psql(
    make_stand: Callable[..., Stand], major: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "knows_restrict", lambda version: False)
    stand = filled(make_stand(major))
    stand.sql(HONEST_SCHEMA)
    expected = stand.contents()
    report = stand.restore(stand.take())
    assert report.outcome == "restored"
    assert stand.contents() == expected


HONEST_SCHEMA = r"""
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
        $x$BEGIN /* $$ ' */ RETURN NULL; -- it's \! nothing
        END$x$;
    CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION noted('a\b', 'it''s');
    COMMENT ON TABLE t IS E'two\nlines; \\! touch x';
    CREATE VIEW w AS SELECT (ARRAY[1, 2, 3])[1:2] AS x, 'a\b'::text AS y, B'101' AS b, 1e10 AS e,
        CASE WHEN true THEN 1 END AS "case";
    CREATE SEQUENCE names; CREATE DOMAIN digits AS text CHECK (VALUE ~ '^\d+$');
    CREATE TABLE "T t" (begin int GENERATED ALWAYS AS IDENTITY, "weird; ""x" digits DEFAULT '7',
        EXCLUDE (begin WITH =));
    SELECT lo_from_bytea(0, decode(repeat('00ff5c27', 20000), 'hex'));
"""


def test_a_dump_dropped_in_by_hand_with_a_command_in_it_is_refused_as_broken(stand: Stand) -> None:
    marker = stand.server.home / "marker"
    path = stand.backups / "backup-20260101-140000.sql.gz"
    path.write_bytes(gzip.compress(dump(TABLE + b"\\! touch %s\n" % str(marker).encode() + ROWS)))
    os.utime(path, (1, 1))
    with stand.untouched("broken-backup"):
        stand.restore(path.name, Request(force=True))
    assert not marker.exists()


def test_what_looks_like_commands_inside_of_data_is_data(stand: Stand) -> None:
    stand.sql(
        "INSERT INTO t SELECT 900 + i, n FROM unnest(ARRAY[E'\\\\! touch x', E'a\\n\\\\c x', E'\\\\.', '\\.'])"
        " WITH ORDINALITY u (n, i);"
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS E'SELECT 1 -- \\n/*\\n\\\\! x\\n*/'"
    )
    dumped = stand.contents()
    name = stand.take()
    stand.sql(DISASTER)
    assert stand.restore(name).outcome == "restored"
    assert stand.contents() == dumped
    assert stand.sql("SELECT f()") == "1"


# Roles


def test_roles_that_are_missing_are_named_and_made_only_when_asked_for_and_without_login(stand: Stand) -> None:
    role = f"Night Observer {os.urandom(2).hex()}"
    name = sql.identifier(role)
    stand.sql(f"CREATE ROLE {name} LOGIN; ALTER TABLE t OWNER TO {name}")
    backup = stand.take()
    stand.sql(f"ALTER TABLE t OWNER TO postgres; DROP ROLE {name}")
    with stand.untouched("missing-roles") as told:
        stand.restore(backup)
    assert role in told[0].message
    assert isinstance(told[0], Refused)
    try:
        assert stand.restore(backup, Request(create_missing_roles=True)).outcome == "restored"
        assert stand.sql("SELECT tableowner FROM pg_tables WHERE tablename = 't'") == role
        assert stand.sql(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = {sql.literal(role)}") == "f"
    finally:
        stand.sql(f"ALTER TABLE t OWNER TO postgres; DROP ROLE {name}")


# What stands in the way


@pytest.mark.parametrize("request_", [Request(), IN_PLACE])
def test_a_prepared_transaction_is_refused_by_its_name(stand: Stand, request_: Request) -> None:
    name = stand.take()
    gid = f"it's {stand.database}"
    stand.sql(f"BEGIN; INSERT INTO t VALUES (1000); PREPARE TRANSACTION {sql.literal(gid)}")
    try:
        with stand.untouched("prepared-transactions") as told:
            stand.restore(name, request_)
        assert gid in told[0].message
    finally:
        stand.sql(f"ROLLBACK PREPARED {sql.literal(gid)}")
    assert stand.restore(name, request_).outcome == "restored"


def test_a_prepared_transaction_of_another_database_is_nobody_s_business(
    stand: Stand, make_stand: Callable[..., Stand]
) -> None:
    other = filled(make_stand())
    other.sql("BEGIN; INSERT INTO t VALUES (1000); PREPARE TRANSACTION 'other'")
    try:
        assert stand.restore(stand.take()).outcome == "restored"
    finally:
        other.sql("ROLLBACK PREPARED 'other'")


def test_a_subscription_is_refused_in_place_only(stand: Stand) -> None:
    name = stand.take()
    stand.sql("CREATE SUBSCRIPTION sub CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)")
    with stand.untouched("replication") as told:
        stand.restore(name, IN_PLACE)
    assert "the subscription sub" in told[0].message
    assert stand.restore(name).outcome == "restored"
    replaced = stand.replaced.all()[0].database
    stand.sql("ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub", replaced)


def test_an_active_logical_slot_is_refused_in_place(make_stand: Callable[..., Stand]) -> None:
    stand = filled(make_stand(MAJORS[0]))
    name = stand.take()
    slot = f"slot_{os.urandom(3).hex()}"
    stand.sql(f"CREATE PUBLICATION p; SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    program = next(
        (
            path
            for path in (stand.server.bin_dir / "pg_recvlogical", DEBIAN / "bin/pg_recvlogical")
            if path.exists()
        ),
        None,
    )
    assert program, "there is no pg_recvlogical to make the slot active with"
    argv = [str(program), "-d", stand.database, "--slot", slot, "--start", "-f", "-", "-o", "proto_version=1",
            "-o", "publication_names=p"]  # fmt: skip
    with subprocess.Popen(argv, env=stand.server.environment(), stdout=subprocess.DEVNULL) as reader:
        try:
            active = f"SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"
            wait_until(lambda: stand.sql(active) == "t", "the slot to be active")
            with stand.untouched("replication") as told:
                stand.restore(name, IN_PLACE)
            assert f"the active replication slot {slot}" in told[0].message
        finally:
            reader.kill()
    wait_until(lambda: stand.sql(active) == "f", "the slot to be inactive")
    stand.sql(f"SELECT pg_drop_replication_slot('{slot}')")


def test_the_free_space_of_the_server_s_disk_is_known(stand: Stand) -> None:
    space = os.statvfs(stand.server.data_dir)
    assert stand.servers_databases().free_space() == pytest.approx(space.f_bavail * space.f_frsize, rel=0.2)


# In place


def test_in_place_the_live_database_is_dropped_and_its_snapshot_is_there(stand: Stand) -> None:
    dumped = stand.contents()
    name = stand.take()
    stand.sql(DISASTER)
    changed = stand.contents()
    report = stand.restore(name, IN_PLACE)
    assert (report.outcome, report.replaced, stand.contents()) == ("restored", None, dumped)
    assert report.snapshot is not None
    assert stand.ours() == []
    assert stand.restore(report.snapshot, Request(in_place=True, safety_backup=False)).outcome == "restored"
    assert stand.contents() == changed


@pytest.mark.parametrize(
    ("text", "code"), [(dump(TABLE + b"SELECT 1/0;\n"), "load-failed"), (dump(b"\\! true\n"), "unsafe-dump")]
)
def test_in_place_a_load_that_fails_puts_the_snapshot_back(stand: Stand, text: bytes, code: str) -> None:
    before = stand.contents()
    name = write(stand, text)
    with pytest.raises(OperationFailed) as caught:
        stand.restore(name, IN_PLACE)
    assert caught.value.code == code
    assert "was put back from pre-restore-" in caught.value.message
    assert (stand.contents(), stand.ours(), stand.running()) == (before, [], ["api", "worker"])
    assert not stand.journal.exists()


def test_in_place_a_snapshot_that_fails_stops_it_before_anything_stops(stand: Stand) -> None:
    name = stand.take()
    with broken_table(stand):
        with pytest.raises(OperationFailed) as caught:
            stand.restore(name, IN_PLACE)
        assert "is what it was before" in caught.value.message
        assert (stand.services_log, stand.ours()) == ([], [])
        assert stand.sql("SELECT count(*) FROM t") == "500"


def test_in_place_what_a_service_wrote_before_it_was_stopped_is_in_the_snapshot(stand: Stand) -> None:
    name = stand.take()
    psql = f"PGHOST={stand.server.socket_dir} {stand.server.bin_dir}/psql -X -q -U postgres -d {stand.database}"
    (stand.home / "services" / "on-stop").write_text(
        f"{psql} -c \"INSERT INTO t VALUES (7777, 'late')\"\nrm on-stop\n"
    )
    report = stand.restore(name, IN_PLACE)
    assert report.snapshot is not None
    assert stand.sql("SELECT count(*) FROM t WHERE id = 7777") == "0"
    assert b"7777\tlate" in gzip.decompress((stand.backups / report.snapshot).read_bytes())


# Other servers, other states


@pytest.mark.skipif(len(MAJORS) < 2, reason="there is only one major here")
@pytest.mark.parametrize("major", [major for major in MAJORS if major < 17])
def test_a_dump_of_a_newer_pg_dump_restores_without_the_setting_that_the_server_lacks(
    make_stand: Callable[..., Stand], stand: Stand, major: int
) -> None:
    path = stand.backups / stand.take()
    assert b"SET transaction_timeout" in gzip.decompress(path.read_bytes())
    older = filled(make_stand(major))
    (older.backups / path.name).write_bytes(path.read_bytes())
    older.sql(DISASTER)
    assert older.restore(path.name).outcome == "restored"
    assert older.contents() == stand.contents()
    notices = [event.text for event in older.events if isinstance(event, Notice)]
    assert any("doesn't know transaction_timeout yet" in text for text in notices)
    assert any("the server is older" in text for text in notices)


@pytest.mark.parametrize("request_", [Request(), IN_PLACE])
def test_a_database_that_is_missing_altogether_is_made_anew(stand: Stand, request_: Request) -> None:
    name, dumped = stand.take(), stand.contents()
    stand.servers_databases().drop(stand.database)
    report = stand.restore(name, request_)
    assert (report.outcome, report.replaced, stand.ours(), stand.contents()) == ("restored", None, [], dumped)
    made = stand.properties()
    assert (made.owner, made.encoding_name, made.datallowconn) == (stand.server.superuser, "UTF8", True)
    assert any(isinstance(event, Notice) and "made anew" in event.text for event in stand.events)


def test_a_database_that_is_missing_stays_missing_when_the_dump_cannot_be_loaded(stand: Stand) -> None:
    name = write(stand, dump(TABLE + b"SELECT 1/0;\n"))
    stand.servers_databases().drop(stand.database)
    with pytest.raises(OperationFailed) as caught:
        stand.restore(name)
    assert "There is still no database." in caught.value.message
    assert stand.ours() == []
    assert stand.servers_databases().properties(stand.database) is None


def test_a_database_that_somebody_puts_there_meanwhile_is_left_alone(stand: Stand) -> None:
    name = stand.take()
    stand.sql("CREATE DATABASE arcbackupd_test_spare", "postgres")
    psql = f"PGHOST={stand.server.socket_dir} {stand.server.bin_dir}/psql -X -q -U postgres -d postgres"
    (stand.home / "services" / "on-stop").write_text(
        f"{psql} -c 'DROP DATABASE {stand.database} WITH (FORCE)'"
        f" -c 'ALTER DATABASE arcbackupd_test_spare RENAME TO {stand.database}'\nrm on-stop\n"
    )
    with pytest.raises(OperationFailed) as caught:
        stand.restore(name)
    assert caught.value.code == "database-changed"
    assert (stand.contents(), stand.ours(), stand.running()) == ({}, [], ["api", "worker"])
    assert not stand.journal.exists()


def test_an_application_that_reconnects_hundreds_of_times_a_second_does_not_make_the_swap_fail(
    stand: Stand,
) -> None:
    name = stand.take()
    ended, connected = threading.Event(), [0]

    def reconnect() -> None:
        while not ended.is_set():
            with suppress(psycopg.Error):
                psycopg.connect(host=str(stand.server.socket_dir), user="postgres", dbname=stand.database).close()
                connected[0] += 1

    threads = [threading.Thread(target=reconnect) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert stand.restore(name, Request(safety_backup=False)).outcome == "restored"
        assert stand.rollback().outcome == "rolled-back"
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert connected[0] > 100
    assert stand.properties().datallowconn


def test_a_service_that_does_not_start_again_is_an_error_of_a_restore_that_stands(stand: Stand) -> None:
    name, dumped = stand.take(), stand.contents()
    stand.sql(DISASTER)
    (stand.home / "services" / "broken.worker").touch()
    with pytest.raises(OperationFailed) as caught:
        stand.restore(name)
    assert caught.value.code == "services-not-up"
    assert "worker could not be started" in caught.value.message
    assert f"{stand.database} is the restored one." in caught.value.message
    assert (stand.contents(), stand.running()) == (dumped, ["api"])
    last = stand.look(lambda restores: restores.last())
    assert last is not None
    assert (last.outcome, last.code, last.replaced) == ("restored", "services-not-up", stand.ours()[0])


# A broken table


@contextmanager
def broken_table(stand: Stand) -> Iterator[None]:
    """A table that pg_dump can't read: its file is overwritten while the server is down."""
    stand.sql("CREATE TABLE broken AS SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i; CHECKPOINT")
    path = stand.server.data_dir / stand.sql("SELECT pg_relation_filepath('broken')")
    stand.server.stop()
    with path.open("r+b") as file:
        file.write(b"\xde\xad\xbe\xef" * (path.stat().st_size // 4))
    stand.server.start()
    yield


@pytest.mark.parametrize("major", [MAJORS[0], MAJORS[-1]])
def test_a_live_database_that_pg_dump_cannot_read_is_restored_over_kept_and_brought_back(
    make_stand: Callable[..., Stand], major: int
) -> None:
    stand = filled(make_stand(major))
    name, dumped = stand.take(), stand.contents()
    with broken_table(stand):
        report = stand.restore(name)
    assert (report.outcome, stand.contents(), report.snapshot) == ("restored", dumped, None)
    (kept,) = stand.look(lambda restores: restores.replaced())
    assert kept.snapshot is None
    assert 'table "broken"' in str(kept.problem)
    stand.replaced.put(kept.model_copy(update={"keep_until": datetime(2020, 1, 1, tzinfo=UTC)}))
    assert stand.do(lambda restores: restores.expire()) == []
    assert stand.rollback().outcome == "rolled-back"
    assert stand.sql("SELECT to_regclass('broken') IS NOT NULL") == "t"
    assert stand.sql("SELECT count(*) FROM t") == "500"


# What is kept, and for how long


def test_a_replaced_database_is_dropped_when_its_time_is_over_and_only_with_a_good_snapshot(stand: Stand) -> None:
    replaced = stand.restore(stand.take()).replaced
    (kept,) = stand.replaced.all()
    assert stand.do(lambda restores: restores.expire()) == []
    stand.replaced.put(kept.model_copy(update={"keep_until": datetime(2020, 1, 1, tzinfo=UTC)}))
    snapshot = stand.backups / str(kept.snapshot)
    hidden = snapshot.rename(stand.home / "hidden")
    assert stand.do(lambda restores: restores.expire()) == []
    snapshot.write_bytes(hidden.read_bytes()[:-50])
    assert stand.do(lambda restores: restores.expire()) == []
    hidden.rename(snapshot)
    stand.clock_doubt = "the clock jumped"
    assert stand.do(lambda restores: restores.expire()) == []
    stand.clock_doubt = None
    assert stand.ours() == [replaced]
    assert stand.do(lambda restores: restores.expire()) == [replaced]
    assert (stand.ours(), stand.replaced.all()) == ([], [])


def test_without_a_snapshot_asked_for_none_is_taken_and_only_a_hand_drops_it(stand: Stand) -> None:
    stand.restore(stand.take(), Request(safety_backup=False))
    (kept,) = stand.replaced.all()
    assert (kept.snapshot, kept.wanted, kept.over(datetime.max.replace(tzinfo=UTC))) == (None, False, False)
    assert not list(stand.backups.glob("pre-restore-*"))
    assert stand.do(lambda restores: restores.discard()) == [kept.database]


def test_what_somebody_else_gave_the_name_of_a_replaced_database_is_never_dropped(stand: Stand) -> None:
    replaced = stand.restore(stand.take()).replaced
    assert replaced
    stand.sql(f"DROP DATABASE {replaced}; ", "postgres")
    stand.sql(f"CREATE DATABASE {replaced}", "postgres")
    assert stand.do(lambda restores: restores.discard()) == []
    assert stand.ours() == [replaced]


def test_a_replaced_database_whose_memory_was_lost_is_found_again_and_kept(stand: Stand) -> None:
    name = stand.take()
    stand.sql(DISASTER)
    changed = stand.contents()
    replaced = stand.restore(name).replaced
    (stand.home / "state" / "replaced.json").unlink()
    assert stand.look(lambda restores: restores.replaced()) == []
    stand.look(lambda restores: restores.clean_up())
    (found,) = stand.look(lambda restores: restores.replaced())
    assert (found.database, found.keep_until, found.wanted) == (replaced, None, False)
    assert stand.do(lambda restores: restores.expire()) == []
    assert stand.rollback().outcome == "rolled-back"
    assert stand.contents() == changed


def test_a_replaced_database_that_somebody_dropped_is_forgotten(stand: Stand) -> None:
    replaced = stand.restore(stand.take()).replaced
    stand.sql(f"DROP DATABASE {replaced}", "postgres")
    stand.look(lambda restores: restores.clean_up())
    assert stand.look(lambda restores: restores.replaced()) == []


def test_cleaning_up_drops_staging_databases_and_nothing_else(stand: Stand) -> None:
    for name in ("arcbackupd_staging_dead", "arcbackupd_other"):
        stand.sql(f"CREATE DATABASE {name}", "postgres")
    stand.look(lambda restores: restores.clean_up())
    assert stand.ours() == ["arcbackupd_other"]


def test_cleaning_up_leaves_the_staging_database_of_a_restore_that_has_not_ended(stand: Stand) -> None:
    name = stand.take()
    assert stand.crash(lambda restores: restores.restore(name, Request()), "load")
    (staging,) = stand.ours()
    stand.look(lambda restores: restores.clean_up())
    assert stand.ours() == [staging]


def test_a_rollback_without_anything_to_bring_back_is_refused(stand: Stand) -> None:
    with pytest.raises(Refused) as caught:
        stand.rollback()
    assert caught.value.code == "nothing-to-roll-back"


# What must not be lost on the way


def test_a_discard_that_waits_drops_nothing_that_is_replaced_later(stand: Stand) -> None:
    name = stand.take()
    gate = threading.Event()

    def held(_: Cancellation) -> Steps[None]:
        gate.wait()
        yield from ()

    async def main() -> tuple[Report, list[str]]:
        queue = OperationQueue()
        restores = stand._restores(queue)
        queue.submit("dump", held, Priority.MANUAL)
        discard, restore = restores.discard(), restores.restore(name, Request(safety_backup=False))
        gate.set()
        return await restore.result, await discard.result

    report, dropped = asyncio.run(main())
    assert dropped == []
    assert stand.ours() == [report.replaced]


def test_of_two_forgotten_databases_a_rollback_brings_back_the_newer_one(stand: Stand) -> None:
    name = stand.take()
    stand.restore(name)
    stand.sql("UPDATE t SET note = 'second'")
    second = stand.contents()
    stand.restore(name)
    (stand.home / "state" / "replaced.json").unlink()
    assert stand.rollback().outcome == "rolled-back"
    assert stand.contents() == second


def test_a_rollback_to_a_database_that_is_gone_stops_nothing(stand: Stand) -> None:
    replaced = stand.restore(stand.take()).replaced
    log = stand.services_log
    stand.sql(f"DROP DATABASE {replaced}", "postgres")
    with pytest.raises(Refused) as caught:
        stand.rollback()
    assert (caught.value.code, stand.services_log) == ("nothing-to-roll-back", log)


@pytest.mark.parametrize("request_", [Request(), IN_PLACE], ids=["beside", "in place"])
def test_what_an_interrupted_drop_left_of_the_live_database_is_restored_over(
    stand: Stand, request_: Request
) -> None:
    name, dumped = stand.take(), stand.contents()
    where = f"WHERE datname = {sql.literal(stand.database)}"
    stand.sql(f"UPDATE pg_database SET datconnlimit = -2 {where}", "postgres")
    assert stand.restore(name, request_).outcome == "restored"
    assert (stand.contents(), stand.ours(), stand.running()) == (dumped, [], ["api", "worker"])


def test_a_template_that_was_replaced_can_be_dropped(stand: Stand) -> None:
    name = stand.take()
    template = f"ALTER DATABASE {sql.identifier(stand.database)} IS_TEMPLATE"
    stand.sql(f"{template} true", "postgres")
    try:
        report = stand.restore(name)
        assert stand.properties().datistemplate
        assert stand.do(lambda restores: restores.discard()) == [report.replaced]
    finally:
        stand.sql(f"{template} false", "postgres")


def test_in_place_nothing_is_dropped_while_somebody_else_goes_on_writing(stand: Stand) -> None:
    name = stand.take()
    stand.sql("CREATE TABLE written (n int)")
    done = threading.Event()
    numbers: list[int] = []

    def write_on() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            with suppress(EmbeddedPostgresError):  # closed just now
                stand.sql(f"INSERT INTO written VALUES ({number})")
                numbers.append(number)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        with pytest.raises(Refused) as caught:
            stand.restore(name, IN_PLACE)
    finally:
        done.set()
        writer.join()
    assert caught.value.code == "still-written"
    assert stand.sql("SELECT n FROM written ORDER BY 1").split() == [str(number) for number in numbers]
    assert stand.running() == ["api", "worker"]


def test_a_second_restore_that_fails_puts_back_what_the_first_one_dropped(stand: Stand) -> None:
    name, before = stand.take(), stand.contents()
    assert stand.crash(lambda restores: restores.restore(name, IN_PLACE), "load")
    bad = write(stand, sample_dumps.dump(b"SELECT no_such_thing;\n"))
    with pytest.raises(OperationFailed) as caught:
        stand.restore(bad)
    assert "was put back from pre-restore-" in caught.value.message
    assert (stand.contents(), stand.ours(), stand.running()) == (before, [], ["api", "worker"])
    assert not stand.journal.exists()


def test_services_come_up_again_when_the_journal_cannot_be_written_after_the_swap(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, dumped = stand.take(), stand.contents()
    stand.sql(DISASTER)
    written = JournalFile.write

    def full(self: JournalFile, journal: Journal) -> None:
        if journal.swapped_at or journal.step in ("keep", "start"):
            raise OperationFailed("restore-journal-unwritable", "No space left on device")
        written(self, journal)

    monkeypatch.setattr(JournalFile, "write", full)
    assert stand.restore(name).outcome == "restored"
    assert (stand.contents(), stand.running()) == (dumped, ["api", "worker"])
    assert not stand.journal.exists()


def test_a_start_of_the_backend_while_a_dump_is_loaded_is_not_the_restore_s_own(stand: Stand) -> None:
    report = stand.restore(write(stand, sample_dumps.dump(b"SELECT pg_sleep(0.5);\n")))
    ((begun, _),) = stand.own_starts._past
    assert begun - report.started_at > timedelta(seconds=0.5)


def test_who_asks_before_there_is_no_way_back_is_heeded_and_nobody_after() -> None:
    early, late = Cancellation(), Cancellation()
    early.ask("somebody asked for it")
    with pytest.raises(Cancelled):
        early.commit()
    late.commit()
    late.ask("somebody asked for it")
    late.check()


# Properties of the database itself


@contextmanager
def roles(stand: Stand, *names: str) -> Iterator[None]:
    for name in names:
        stand.sql(f"CREATE ROLE {sql.identifier(name)}", "postgres")
    try:
        yield
    finally:
        for name in (*stand.ours(), stand.database):
            stand.servers_databases().drop(name)
        for name in names:
            stand.sql(f"DROP ROLE {sql.identifier(name)}", "postgres")


def carried(stand: Stand) -> object:
    """What must be the same after a restore; order and identity aside."""
    found = stand.properties().model_dump(exclude={"oid", "privileges", "settings"})
    privileges = stand.properties().privileges
    by_role = stand.properties().settings or ()
    return (
        found,
        privileges and sorted(json.dumps(privilege.model_dump()) for privilege in privileges),
        sorted((settings.role or "", sorted(settings.values)) for settings in by_role),
    )


@pytest.mark.parametrize(("major", "request_"), [*((major, Request()) for major in MAJORS), (MAJORS[-1], IN_PLACE)])
def test_what_a_database_is_besides_its_content_is_carried_over(
    make_stand: Callable[..., Stand], major: int, request_: Request
) -> None:
    stand = filled(make_stand(major, name=f"it's \\ {os.urandom(2).hex()}"))
    suffix = os.urandom(2).hex()
    owner, reader, granter = (f"{word} {suffix}" for word in ("Own er", 'rea"der', "granter"))
    o, r, g = map(sql.identifier, (owner, reader, granter))
    with roles(stand, owner, reader, granter):
        d = sql.identifier(stand.database)
        stand.sql(
            f"ALTER DATABASE {d} OWNER TO {o}; ALTER DATABASE {d} CONNECTION LIMIT 42;"
            f"COMMENT ON DATABASE {d} IS E'it''s \\\\ mine\\n2';"
            f"REVOKE ALL ON DATABASE {d} FROM PUBLIC; GRANT CONNECT ON DATABASE {d} TO {r};"
            f"GRANT CREATE, TEMP ON DATABASE {d} TO {g} WITH GRANT OPTION;"
            f'ALTER DATABASE {d} SET search_path TO "$user", public, "A, b", \'c\';'
            f"ALTER DATABASE {d} SET \"arc.second\" TO E'a=b, ''c'' \\\\';"
            f"ALTER DATABASE {d} SET timezone TO 'Europe/Paris'; ALTER DATABASE {d} SET work_mem TO '5MB';"
            f"ALTER ROLE {r} IN DATABASE {d} SET search_path TO '';"
            f"ALTER ROLE {r} IN DATABASE {d} SET statement_timeout TO 5000",
            "postgres",
        )
        before = carried(stand)
        name = stand.take()
        stand.sql(DISASTER)
        oid = stand.properties().oid
        assert stand.restore(name, request_).outcome == "restored"
        assert stand.properties().oid != oid
        assert carried(stand) == before
        assert stand.sql("SHOW search_path") == '"$user", public, "A, b", c'
        if not request_.in_place:
            stand.sql(
                f"ALTER DATABASE {d} RESET ALL; ALTER DATABASE {d} SET work_mem TO '6MB';"
                f"COMMENT ON DATABASE {d} IS NULL; GRANT CONNECT ON DATABASE {d} TO PUBLIC",
                "postgres",
            )
            changed = carried(stand)
            assert stand.rollback().outcome == "rolled-back"
            assert carried(stand) == changed


OPTIONS = [
    (18, "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"),
    (18, "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C'"),
    (18, "LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'LATIN1'"),
    (18, "LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'SQL_ASCII'"),
    (18, "IS_TEMPLATE true"),
    (16, "LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"),
    (15, "LOCALE_PROVIDER icu ICU_LOCALE 'de-DE-u-co-phonebk'"),
    (15, "LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'EUC_JP'"),
]


@pytest.mark.parametrize(("major", "options"), [option for option in OPTIONS if option[0] in MAJORS])
def test_locale_provider_and_encoding_are_those_of_the_live_database(
    make_stand: Callable[..., Stand], major: int, options: str
) -> None:
    stand = make_stand(major, options=options)
    stand.sql("CREATE TABLE t AS SELECT i AS id, 'x' || i AS note FROM generate_series(1, 20) i")
    before, dumped = carried(stand), stand.contents()
    name = stand.take()
    stand.sql(DISASTER)
    try:
        assert stand.restore(name).outcome == "restored"
        assert (carried(stand), stand.contents()) == (before, dumped)
    finally:
        for database in (stand.database, *stand.ours()):
            stand.sql(f"ALTER DATABASE {database} IS_TEMPLATE false", "postgres")


def test_the_tablespace_is_that_of_the_live_database(make_stand: Callable[..., Stand]) -> None:
    stand = filled(make_stand())
    place = stand.server.home / "space"
    place.mkdir()
    stand.server._own(place)
    stand.sql(f"CREATE TABLESPACE far LOCATION '{place}'", "postgres")
    stand.sql(f"ALTER DATABASE {stand.database} SET TABLESPACE far", "postgres")
    try:
        assert stand.restore(stand.take()).outcome == "restored"
        assert stand.properties().tablespace == "far"
    finally:
        for name in (*stand.ours(), stand.database):
            stand.servers_databases().drop(name)
        stand.sql("DROP TABLESPACE far", "postgres")
