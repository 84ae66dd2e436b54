"""Restore drills on real servers through the local engine: what they prove, what they find, and what they leave."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.dumps.manifest import Contents, Reason
from arcbackupd.dumps.scan import Scanner
from arcbackupd.errors import ArcbackupdError, Busy, Refused, UsageError
from arcbackupd.operations import drills
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.cancellation import SUPERSEDED
from arcbackupd.operations.drill import room
from arcbackupd.operations.drill.notes import Made, Notes
from arcbackupd.operations.drill.records import DrillRecord, DrillRecords
from arcbackupd.operations.drills import Drills
from arcbackupd.operations.events import Event, Step
from arcbackupd.operations.queue import Operation, OperationQueue
from arcbackupd.operations.restore.checks import Request
from arcbackupd.operations.restore.replaced import Replaced
from arcbackupd.operations.restore.server import Server
from arcbackupd.operations.restores import Restores
from arcbackupd.settings import load_settings
from arcbackupd.stack import open_engine
from tests.harness.process import wait_until
from tests.integration.stand import MAJORS, Stand, filled, write
from tests.unit.sample_dumps import copy, dump

pytestmark = pytest.mark.postgres

TABLE = b"CREATE TABLE public.stars (id integer);\n\n"
STARS = copy(b"public.stars", (b"id",), [(b"1",), (b"2",)])
NOT_VALID = """
    CREATE TABLE checked (n int);
    INSERT INTO checked VALUES (-1);
    ALTER TABLE checked ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
    CREATE TABLE parts (n int) PARTITION BY RANGE (n);
    CREATE TABLE part1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
    CREATE TABLE part2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
    INSERT INTO parts SELECT generate_series(0, 14);
    CREATE INDEX ON ONLY parts (n);
    CREATE TABLE "odd ""name; --" (n int);
    INSERT INTO "odd ""name; --" VALUES (1);
    CREATE TABLE heir () INHERITS (checked);
    INSERT INTO heir VALUES (5);
    CREATE TABLE django_migrations (id serial, app text, name text, applied timestamptz DEFAULT now());
    INSERT INTO django_migrations (app, name) VALUES ('targets', '0001_initial'), ('targets', '0002_epoch');
    UPDATE django_migrations SET applied = now() WHERE id = 1;
"""


class Driller:
    """A daemon's drills on a stand, anew for everything that is asked of them."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.events: list[Event] = []

    @property
    def records(self) -> DrillRecords:
        return DrillRecords(self.stand.home / "state" / "drills.json")

    @property
    def notes(self) -> Notes:
        return Notes(self.stand.home / "state" / "drill.json")

    def parts(self, queue: OperationQueue) -> tuple[Backups, Restores, Drills]:
        stand = self.stand
        backups = stand._backups(queue)
        restores = Restores(stand.settings, stand.engine, queue, backups, stand.own_starts)
        return backups, restores, Drills(stand.settings, stand.engine, queue, backups, restores)

    def drill(self, begin: Callable[[Drills], Operation[DrillRecord]]) -> DrillRecord:
        async def main() -> DrillRecord:
            queue = OperationQueue()
            operation = begin(self.parts(queue)[2])
            following = asyncio.create_task(self._follow(operation))
            try:
                return await operation.result
            finally:
                await following
                await _idle(queue)

        return asyncio.run(asyncio.wait_for(main(), 100))

    async def _follow(self, operation: Operation[DrillRecord]) -> None:
        async for event in operation.events():
            self.events.append(event)

    def verify(self, reference: str = "latest") -> DrillRecord:
        return self.drill(lambda drills: drills.verify(reference))

    def scheduled(self) -> DrillRecord:
        return self.drill(lambda drills: drills.scheduled())

    def reap(self) -> None:
        async def main() -> None:
            queue = OperationQueue()
            self.parts(queue)[2].reap()
            await _idle(queue)

        asyncio.run(main())

    def cut_at(self, step: str, then: Callable[[Backups, Restores], Operation[Any]]) -> list[str]:
        """Ask for something else when a drill comes to a step; return the kinds of operations in their order."""
        ran: list[str] = []

        async def main() -> None:
            queue = OperationQueue()
            queue._changed = lambda: ran.append(queue.current.kind) if queue.current else None
            backups, restores, drills = self.parts(queue)
            operation = drills.scheduled()
            other: Operation[Any] | None = None
            async for event in operation.events():
                if isinstance(event, Step) and event.name == step and other is None:
                    other = then(backups, restores)
            assert other is not None
            with pytest.raises(ArcbackupdError) as raised:
                await operation.result
            assert raised.value.code == SUPERSEDED
            await other.result
            await _idle(queue)

        asyncio.run(asyncio.wait_for(main(), 100))
        return ran


async def _idle(queue: OperationQueue) -> None:
    while running := queue.current:
        await running.ended.wait()
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _always_time_and_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may be busy and full; what decides on it is tested by itself."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(room, "RESERVE", 0)


@pytest.fixture
def driller(stand: Stand) -> Driller:
    return Driller(stand)


# What a drill proves


@pytest.mark.parametrize("major", MAJORS)
def test_a_good_dump_is_proved_restorable_noted_and_leaves_nothing(
    make_stand: Callable[..., Stand], major: int
) -> None:
    stand = filled(make_stand(major))
    stand.sql(NOT_VALID)
    driller = Driller(stand)
    name = stand.take()
    before = stand.whole()
    record = driller.scheduled()
    assert (record.outcome, record.problem, record.name, record.place) == ("proved", None, name, "database")
    assert record.load_s is not None
    assert 0 < record.load_s <= record.duration_s
    assert record.bytes > 1000
    assert driller.records.last() == record
    assert driller.records.last_proved() == record
    assert stand.whole() == before
    assert (stand.ours(), driller.notes.all(), stand.services_log) == ([], (), [])
    steps = [event.name for event in driller.events if isinstance(event, Step)]
    assert steps == ["look", "create", "load", "finish-load", "analyze", "compare", "drop"]


def test_a_further_name_of_the_same_file_is_proved_with_it_and_a_copy_of_it_is_not(driller: Driller) -> None:
    stand = driller.stand
    name = stand.take()
    driller.verify(name)
    linked = stand.take()
    copied = stand.backups / "backup-20260101-000000.sql.gz"
    copied.write_bytes((stand.backups / name).read_bytes())
    listed = {entry.backup.name: entry for entry in stand._backups(_unused()).list()}
    assert listed[linked].backup.links == 2
    assert [name for name, entry in listed.items() if entry.drill] == [linked, name]
    assert listed[linked].drill == listed[name].drill


def _unused() -> OperationQueue:
    return OperationQueue()


def test_a_dump_that_was_written_anew_under_the_same_name_is_not_proved_any_more(driller: Driller) -> None:
    stand = driller.stand
    path = stand.backups / stand.take()
    driller.verify()
    whole = path.read_bytes()
    path.unlink()
    stand.sql("DELETE FROM t WHERE id = 1")
    other = stand.backups / stand.take()
    other.rename(path)
    assert path.read_bytes() != whole
    assert [entry.drill for entry in stand._backups(_unused()).list()] == [None]


def test_a_dump_that_was_overwritten_in_place_is_not_proved_any_more(driller: Driller) -> None:
    """The manifest, the inode and the size stay the same."""
    stand = driller.stand
    path = stand.backups / stand.take()
    driller.verify()
    with path.open("r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(bytes(20))
    assert [entry.drill for entry in stand._backups(_unused()).list()] == [None]


def test_a_dump_without_a_manifest_is_drilled_by_hand_and_not_beside_the_live_database_by_schedule(
    driller: Driller,
) -> None:
    stand = driller.stand
    path = stand.backups / "backup-20260101-000000.sql.gz"
    path.write_bytes(gzip.compress(dump(TABLE + STARS)))
    os.utime(path, (1, 1))
    assert driller.verify().outcome == "proved"
    with pytest.raises(Refused) as raised:
        driller.scheduled()
    assert raised.value.code == drills.NOTHING_TO_DRILL
    mine = stand.take()
    assert driller.scheduled().name == mine


# What it finds


@pytest.mark.parametrize(
    ("body", "lies", "code"),
    [
        (TABLE + b"INSERT INTO public.stars VALUES ('no number');\n", {}, "load-failed"),
        (TABLE + STARS + b"DELETE FROM public.stars WHERE id = 2;\n", {}, "rows-differ"),
        (TABLE + STARS, {"contents": Contents(rows={"public.stars": 3})}, "rows-differ"),
        (TABLE + STARS, {"contents": Contents(rows={"public.stars": 2, "public.lost": 1})}, "rows-differ"),
        (TABLE + STARS, {"sql_sha256": "ab" * 32}, "damaged-dump"),
        (TABLE + STARS + b"\\! touch /tmp/arcbackupd-intruder\n", {}, "unsafe-dump"),
        (TABLE + STARS + b"\\connect postgres\n", {}, "unsafe-dump"),
        (TABLE + STARS + b"ALTER DATABASE postgres RENAME TO gone;\n", {}, "unsafe-dump"),
        (TABLE + STARS + b"CREATE DATABASE intruder;\n", {}, "unsafe-dump"),
        (
            TABLE + STARS + b"ALTER TABLE public.stars ADD CONSTRAINT small CHECK (id < 2) NOT VALID;\n"
            b"UPDATE pg_constraint SET convalidated = false WHERE conname = 'unchecked';\n",
            {},
            None,
        ),
        (
            TABLE + STARS + b"ALTER TABLE public.stars ADD CONSTRAINT small CHECK (id < 9);\n"
            b"UPDATE pg_constraint SET convalidated = false WHERE conname = 'small';\n",
            {},
            "constraints-invalid",
        ),
        (
            TABLE + STARS + b"CREATE INDEX by_id ON public.stars (id);\n"
            b"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.by_id'::regclass;\n",
            {},
            "indexes-invalid",
        ),
        (
            TABLE
            + STARS
            + b"CREATE FUNCTION public.f(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN"
            b" RETURN 1 / ($1 - 2); END $$;\nALTER TABLE public.stars ALTER id SET STATISTICS 10;\n"
            b"CREATE INDEX bad ON public.stars (public.f(id)) WHERE id = 1;\n"
            b"CREATE STATISTICS public.s ON (public.f(id)), id FROM public.stars;\n",
            {},
            "analyze-failed",
        ),
    ],
)
def test_what_a_restore_would_meet_is_told_and_noted_and_nothing_is_left(
    driller: Driller, body: bytes, lies: dict[str, object], code: str | None
) -> None:
    stand = driller.stand
    before = stand.whole()
    name = write(stand, dump(body), **lies)
    record = driller.verify(name)
    assert (record.code, record.outcome) == (code, "failed" if code else "proved"), record.problem
    assert (record.problem is None) == (code is None)
    assert driller.records.last() == record
    assert (stand.ours(), driller.notes.all(), stand.whole()) == ([], (), before)
    assert not Path("/tmp/arcbackupd-intruder").exists()


def test_other_migrations_than_the_manifest_has_are_found(driller: Driller) -> None:
    table = b"CREATE TABLE public.django_migrations (id integer, app text, name text, applied timestamptz);\n\n"
    rows = [(b"1", b"targets", b"0001_initial", b"2026-01-01 00:00:00+00")]
    text = dump(table + copy(b"public.django_migrations", (b"id", b"app", b"name", b"applied"), rows))
    lie = Contents(rows={"public.django_migrations": 1}, migrations=("targets.0002_epoch",))
    record = driller.verify(write(driller.stand, text, contents=lie))
    assert (record.outcome, record.code) == ("failed", "migrations-differ")
    assert "targets.0001_initial" in (record.problem or "")
    assert "targets.0002_epoch" in (record.problem or "")


def test_a_dump_cut_short_is_told_and_noted(driller: Driller) -> None:
    stand = driller.stand
    path = stand.backups / stand.take()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 100])
    record = driller.verify(path.name)
    assert (record.outcome, record.code) == ("failed", "broken-backup")
    assert driller.records.last() == record
    path.write_bytes(whole[:-200] + bytes(100) + whole[-100:])
    record = driller.verify(path.name)
    assert (record.outcome, stand.ours()) == ("failed", [])


def test_roles_that_the_server_lacks_are_not_made_beside_the_live_database(driller: Driller) -> None:
    name = write(
        driller.stand, dump(TABLE + STARS), contents=Contents(rows={"public.stars": 2}, roles=("nobody_here",))
    )
    record = driller.verify(name)
    assert (record.outcome, record.code) == ("failed", "missing-roles")
    assert "nobody_here" in (record.problem or "")
    assert driller.stand.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'nobody_here'") == "0"


@pytest.mark.parametrize("how", ["session ended", "server restarted"])
def test_a_server_that_goes_in_a_drill_says_nothing_of_the_backup(driller: Driller, how: str) -> None:
    stand = driller.stand
    asleep = "FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    name = write(stand, dump(TABLE + STARS + b"DO $$ BEGIN PERFORM pg_catalog.pg_sleep(600); END $$;\n"))

    def go() -> None:
        wait_until(lambda: stand.sql(f"SELECT count(*) {asleep}") == "1", "the load to be under way")
        if how == "session ended":
            stand.sql(f"SELECT pg_terminate_backend(pid) {asleep}")
        else:
            stand.server.stop(signal.SIGQUIT)
            stand.server.start()

    with ThreadPoolExecutor(1) as beside:
        gone = beside.submit(go)
        record = driller.verify(name)
        gone.result()
    assert (record.outcome, record.code) == ("error", "server-went"), record.problem
    assert record.hint is not None
    assert "The drill didn't touch the live database, and what it made is removed" in record.hint
    assert "dump comes" not in record.hint
    driller.reap()
    assert (stand.ours(), driller.notes.all()) == ([], ())


@pytest.mark.parametrize("kept", ["20000", "-60"], ids=["in its rows", "behind its rows"])
def test_a_psql_that_ends_early_and_says_nothing_of_it_says_nothing_of_the_backup(
    driller: Driller, kept: str
) -> None:
    """An engine's client whose input breaks off ends with 0, and so does a psql that reads only what came of it."""
    stand = driller.stand
    rows = [(str(number).encode(),) for number in range(20_000)]
    name = write(stand, dump(TABLE + copy(b"public.stars", (b"id",), rows)))
    local = stand.settings.engine.local
    assert local is not None
    programs = stand.server.home / uuid.uuid4().hex
    programs.mkdir()
    for program in stand.server.bin_dir.iterdir():
        (programs / program.name).symlink_to(program)
    (programs / "psql").unlink()
    psql = f'"{stand.server.bin_dir}/psql" "$@"'
    (programs / "psql").write_text(
        f'#!/bin/sh\ncase "$*" in *arcbackupd_drill_*) head -c {kept} | {psql} ;; *) {psql} ;; esac\n'
    )
    (programs / "psql").chmod(0o755)
    cutting = stand.settings.engine.model_copy(update={"local": local.model_copy(update={"bin_dir": programs})})
    stand.engine = open_engine(cutting)
    record = driller.verify(name)
    assert (record.outcome, record.code) == ("error", "load-cut"), record.problem
    assert stand.ours() == []


# When it is put off


def test_without_room_a_drill_is_refused_with_figures(driller: Driller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RESERVE", 1 << 60)
    driller.stand.take()
    for begin in (driller.verify, driller.scheduled):
        with pytest.raises(Refused) as raised:
            begin()
        assert raised.value.code == "disk-too-small"
        assert f"{1 << 60:,}" in raised.value.message
    assert (driller.stand.ours(), driller.notes.all(), driller.records.last()) == ([], (), None)


def test_a_drill_wants_as_much_room_as_the_live_database_takes(
    driller: Driller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many indexes make a database several times as large as its SQL, and a full disk ends the live one too."""
    driller.stand.take()
    monkeypatch.setattr(Server, "free_space", lambda _: 4 << 20)  # enough for the SQL, not for what it becomes
    assert int(driller.stand.sql("SELECT pg_database_size(current_database())")) > 4 << 20
    with pytest.raises(Refused) as raised:
        driller.scheduled()
    assert raised.value.code == "disk-too-small"
    assert (driller.stand.ours(), driller.notes.all()) == ([], ())


def test_a_drill_that_takes_more_room_than_was_reckoned_is_ended_before_the_disk_is_full(
    driller: Driller, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = driller.stand
    name = write(stand, dump(TABLE + STARS + b"DO $$ BEGIN PERFORM pg_catalog.pg_sleep(600); END $$;\n"))
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    before = stand.whole()
    monkeypatch.setattr(room, "RESERVE", 1 << 40)
    monkeypatch.setattr(Server, "free_space", lambda _: 1 << (39 if stand.sql(asleep) == "1" else 50))
    monkeypatch.setattr(room, "_LATEST", 0.1)
    with pytest.raises(Refused) as raised:
        driller.verify(name)
    assert raised.value.code == "disk-too-small"
    assert f"{1 << 39:,} bytes are free" in raised.value.message
    assert (stand.ours(), driller.notes.all(), driller.records.last()) == ([], (), None)
    assert (stand.sql(asleep), stand.whole()) == ("0", before)


@pytest.mark.parametrize("why", ["busy", "snapshot"])
def test_a_scheduled_drill_is_left_out_and_one_by_hand_is_not(
    driller: Driller, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    stand = driller.stand
    stand.take()
    if why == "busy":
        monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 1000.0, 0.0))
    else:
        waiting = Replaced(
            database="arcbackupd_replaced_x", oid=1, replaced_at=datetime.now(UTC), keep_until=None, wanted=True
        )
        stand.replaced.put(waiting)
    with pytest.raises(Refused) as raised:
        driller.scheduled()
    assert raised.value.code == "drill-postponed"
    assert ("the host is busy" if why == "busy" else "the safety backup of a restore") in raised.value.message
    assert driller.verify().outcome == "proved"


def test_a_drill_by_hand_is_refused_beside_a_restore(driller: Driller) -> None:
    name = driller.stand.take()

    async def main() -> None:
        queue = OperationQueue()
        _, restores, drills = driller.parts(queue)
        restoring = restores.restore(name, Request())
        with pytest.raises(Busy):
            drills.verify(name)
        await restoring.result
        await _idle(queue)

    asyncio.run(main())


# What comes before it


@pytest.mark.parametrize("step", ["create", "load", "analyze", "compare"])
def test_a_restore_ends_a_drill_and_what_that_made_is_removed_after_it(driller: Driller, step: str) -> None:
    name = driller.stand.take()
    ran = driller.cut_at(step, lambda _, restores: restores.restore(name, Request(safety_backup=False)))
    assert [kind for kind in ran if kind != "snapshot"][:2] == ["drill", "restore"]
    assert [name for name in driller.stand.ours() if "drill" in name] == []
    assert (driller.notes.all(), driller.records.last()) == ((), None)


def test_a_dump_that_somebody_waits_for_ends_a_drill_and_a_scheduled_one_does_not(driller: Driller) -> None:
    driller.stand.take()
    ran = driller.cut_at("load", lambda backups, _: backups.take(Reason.MANUAL))
    assert ran == ["drill", "dump", "drill-cleanup"]
    assert (driller.stand.ours(), driller.notes.all()) == ([], ())

    async def main() -> None:
        queue = OperationQueue()
        backups, _, drills = driller.parts(queue)
        operation = drills.scheduled()
        dumped = backups.take(Reason.SCHEDULED)
        assert (await operation.result).outcome == "proved"
        await dumped.result
        await _idle(queue)

    asyncio.run(main())


def test_a_drill_that_waits_for_its_turn_lets_a_dump_by_hand_go_first(driller: Driller) -> None:
    driller.stand.take()
    ran: list[str] = []

    async def main() -> None:
        queue = OperationQueue()
        queue._changed = lambda: ran.append(queue.current.kind) if queue.current else None
        backups, _, drills = driller.parts(queue)
        backups.take(Reason.SCHEDULED)
        drilled = drills.verify("latest")
        await backups.take(Reason.MANUAL).result
        assert (await drilled.result).outcome == "proved"
        await _idle(queue)

    asyncio.run(asyncio.wait_for(main(), 100))
    assert ran == ["dump", "dump", "drill"]


def test_a_scan_for_a_drill_ends_too_when_somebody_waits_for_a_dump(
    driller: Driller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a large dump would hold the backend's start for minutes."""
    path = driller.stand.backups / "backup-20260101-000000.sql.gz"
    rows = [(os.urandom(1 << 10).hex().encode(),) for _ in range(5000)]
    path.write_bytes(gzip.compress(dump(TABLE + copy(b"public.stars", (b"id",), rows)), 1))
    os.utime(path, (1, 1))
    scanning, feed = threading.Event(), Scanner.feed

    async def main() -> None:
        queue = OperationQueue()
        backups, _, drills = driller.parts(queue)

        def feed_slowly(scanner: Scanner, block: bytes) -> None:
            if queue.current and queue.current.kind == "drill":
                scanning.set()
                queue.current.cancellation._asked.wait(60)
            feed(scanner, block)

        monkeypatch.setattr(Scanner, "feed", feed_slowly)
        operation = drills.verify(path.name)
        assert await asyncio.to_thread(scanning.wait, 60)
        dumped = backups.take(Reason.MANUAL)
        with pytest.raises(ArcbackupdError) as raised:
            await operation.result
        assert raised.value.code == SUPERSEDED
        await dumped.result
        await _idle(queue)
        assert [backup.state for backup in backups.read() if backup.name == path.name] == ["unscanned"]

    asyncio.run(asyncio.wait_for(main(), 100))


def test_the_removal_of_leftovers_gives_way_too_and_is_done_after(driller: Driller) -> None:
    stand = driller.stand
    stand.servers_databases().create("arcbackupd_drill_0123456789ab", None)
    oid = stand.servers_databases().identity("arcbackupd_drill_0123456789ab")
    driller.notes.put(Made(kind="database", name="arcbackupd_drill_0123456789ab", oid=oid))
    ran: list[str] = []

    async def main() -> None:
        queue = OperationQueue()
        queue._changed = lambda: ran.append(queue.current.kind) if queue.current else None
        backups, _, drills = driller.parts(queue)
        drills.reap()
        await backups.take(Reason.MANUAL).result
        await _idle(queue)

    asyncio.run(main())
    assert ran == ["drill-cleanup", "dump", "drill-cleanup"]
    assert (stand.ours(), driller.notes.all()) == ([], ())


# What a crash leaves


def test_what_a_killed_daemon_left_is_dropped_with_its_sessions_and_only_what_is_surely_ours(
    driller: Driller,
) -> None:
    stand, server = driller.stand, driller.stand.servers_databases()
    made = {
        name: server.create(name, None)
        for name in ("arcbackupd_drill_a", "arcbackupd_drill_b", "arcbackupd_drill_c")
    }
    driller.notes.put(Made(kind="database", name="arcbackupd_drill_a", oid=made["arcbackupd_drill_a"]))
    driller.notes.put(Made(kind="database", name="arcbackupd_drill_b", oid=made["arcbackupd_drill_a"]))
    driller.notes.put(Made(kind="database", name="arcbackupd_drill_gone", oid=1))
    stand.sql("ALTER DATABASE arcbackupd_drill_a IS_TEMPLATE true")
    driller.reap()
    assert sorted(stand.ours()) == ["arcbackupd_drill_b", "arcbackupd_drill_c"], "another's was dropped"
    assert driller.notes.all() == ()


def cut_off(operation: Operation[DrillRecord], step: str) -> None:
    """Carry it out until that step begins; then, as far as the server sees, the client is gone."""
    steps = operation.start(operation.cancellation)
    for event in steps:
        if isinstance(event, Step) and event.name == step:
            break
    steps.close()


def test_a_crash_between_any_two_steps_leaves_only_what_the_next_start_removes(driller: Driller) -> None:
    stand = driller.stand
    stand.take()
    for step in ("create", "load", "finish-load", "analyze", "compare", "drop"):

        async def main() -> Operation[DrillRecord]:
            queue = OperationQueue()
            queue._next = lambda: None  # type: ignore[method-assign]  # its steps are done here
            return driller.parts(queue)[2].scheduled()

        with ThreadPoolExecutor(1) as thread:  # of its own, as a drill makes it nice
            thread.submit(cut_off, asyncio.run(main()), step).result()
        driller.reap()
        assert (stand.ours(), driller.notes.all()) == ([], ()), step


# Settings


def test_without_containers_there_is_no_drill_in_one(stand: Stand) -> None:
    config = stand.home / "config.toml"
    config.write_text(config.read_text() + '\n[drill]\nplace = "container"\n')
    with pytest.raises(UsageError) as raised:
        load_settings(config)
    assert "has no containers" in raised.value.message
