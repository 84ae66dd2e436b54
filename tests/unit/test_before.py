"""The proof that a dump was taken before migrations: everything that makes it unsure does so."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from arcbackupd.dumps.catalogue import Backup, FileIdentity
from arcbackupd.dumps.manifest import Contents, Manifest, Reason
from arcbackupd.dumps.names import Kind
from arcbackupd.operations.before import BootDump, Recorded, doubt_at_first, is_from_before
from arcbackupd.operations.cancellation import BACKEND_STOPPED, Cancellation, Cancelled
from arcbackupd.operations.database import Database
from arcbackupd.operations.holder import Holder, health_share
from arcbackupd.settings import Boot
from arcbackupd.stack import ContainerRun, Engine, HealthCheck

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
NAMES = ("targets.0001_initial", "targets.0002_priority")
KNOWN = Recorded(0, frozenset(NAMES), frozenset())
SHA = "0" * 64


class Server:
    """A database that answers from what it is given."""

    def __init__(self, sessions: int = 0, names: tuple[str, ...] | None = NAMES, new: bool = False) -> None:
        self.sessions, self.names, self.new = sessions, names, new

    def query(self, sql: str) -> list[list[str]]:
        if "pg_stat_activity" in sql:
            return [[str(self.sessions), "f" if self.names is None else "t"]]
        return [[name, "t" if self.new else "f"] for name in self.names or ()]


class Standing:
    """A hold that is on until it is told otherwise."""

    is_on = True
    lasts = True


class OneHold:
    """A holder of one hold."""

    def __init__(self, hold: Standing | None) -> None:
        self.hold = hold
        self.released: list[str] = []

    def hold_of(self, container: str, started_at: datetime | None) -> Standing | None:
        return self.hold

    def why_not(self, run: ContainerRun) -> str:
        return "boot.hold is off"

    def release(self, why: str) -> None:
        self.released.append(why)
        self.hold = None


def boot_dump(hold: Standing | None) -> tuple[BootDump, OneHold]:
    holder = OneHold(hold)
    run = ContainerRun("id start", "image", "id", START)
    return BootDump(run, cast("Holder", cast("Any", holder))), holder


def doubt(server: Server, hold: Standing | None, dumped: tuple[str, ...] | None = NAMES) -> str:
    boot, _ = boot_dump(hold)
    boot.begin(Cancellation())
    boot.ask(cast("Database", cast("Any", server)))
    boot.read_first()
    return boot.doubt(dumped)


def test_a_hold_without_sessions_and_with_the_same_migrations_is_sure() -> None:
    assert doubt(Server(), Standing()) == ""
    assert doubt(Server(names=None), Standing(), None) == ""


def test_without_a_hold_it_is_not_sure_and_the_holder_says_why() -> None:
    assert doubt(Server(), None) == "boot.hold is off"


def test_a_hold_that_was_over_before_the_first_byte_is_not_sure() -> None:
    hold = Standing()
    boot, _ = boot_dump(hold)
    boot.begin(Cancellation())
    boot.ask(cast("Database", cast("Any", Server())))
    hold.is_on = False
    boot.read_first()
    assert "before pg_dump had begun" in boot.doubt(NAMES)


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (Server(sessions=1), "the backend was connected to the database already"),
        (Server(new=True), "migrations were applied after the backend's start already"),
    ],
)
def test_a_backend_that_was_faster_is_let_go_at_once(server: Server, why: str) -> None:
    boot, holder = boot_dump(Standing())
    boot.begin(Cancellation())
    boot.ask(cast("Database", cast("Any", server)))
    assert boot.doubt(NAMES) == why
    assert holder.released == [why]


@pytest.mark.parametrize("dumped", [None, NAMES[:1], (*NAMES, "targets.0003_object_class_index")])
def test_other_migrations_in_the_dump_than_at_first_are_not_sure(dumped: tuple[str, ...] | None) -> None:
    assert "migrations were recorded" in doubt(Server(), Standing(), dumped)


def test_a_second_dump_of_the_same_start_is_judged_anew() -> None:
    boot, _ = boot_dump(Standing())
    boot.begin(Cancellation())
    boot.ask(cast("Database", cast("Any", Server(names=()))))
    boot.begin(Cancellation())
    boot.ask(cast("Database", cast("Any", Server())))
    boot.read_first()
    assert boot.doubt(NAMES) == ""


def test_a_stop_of_the_backend_abandons_a_dump_that_has_not_begun_to_read_and_no_other() -> None:
    for reading in (False, True):
        boot, _ = boot_dump(Standing())
        cancellation = Cancellation()
        boot.begin(cancellation)
        if reading:
            boot.read_first()
        boot.backend_stops()
        if reading:
            cancellation.check()
        else:
            with pytest.raises(Cancelled) as raised:
                cancellation.check()
            assert raised.value.code == BACKEND_STOPPED


def test_a_dump_beside_a_backend_that_was_not_held_is_never_abandoned() -> None:
    boot, _ = boot_dump(None)
    cancellation = Cancellation()
    boot.begin(cancellation)
    boot.backend_stops()
    cancellation.check()


def test_what_was_never_asked_is_not_sure() -> None:
    boot, _ = boot_dump(Standing())
    boot.begin(Cancellation())
    boot.read_first()
    assert "could not be asked" in boot.doubt(NAMES)


def test_a_stop_before_the_dump_begins_abandons_it_too() -> None:
    boot, _ = boot_dump(Standing())
    boot.backend_stops()
    cancellation = Cancellation()
    boot.begin(cancellation)
    with pytest.raises(Cancelled):
        cancellation.check()


def test_doubts_at_first() -> None:
    assert doubt_at_first(KNOWN) == ""
    assert doubt_at_first(replace(KNOWN, sessions=2))
    assert doubt_at_first(replace(KNOWN, new=frozenset(NAMES[:1])))


# A dump that is there already


def backup(**changes: Any) -> Backup:
    taken = START - timedelta(seconds=30)
    manifest = Manifest(
        kind=Kind.BACKUP,
        reason=Reason.SCHEDULED,
        started_at=taken,
        finished_at=taken,
        host="here",
        arcbackupd_version="1",
        database="db",
        server_version="16.1",
        pg_dump_version="16.1",
        sql_length=1,
        sql_sha256=SHA,
        content_sha256=SHA,
        compressed_length=1,
        contents=Contents(migrations=NAMES),
    )
    whole = Backup("name", Kind.BACKUP, taken, FileIdentity(1, 1, 1), taken, taken, 1, manifest)
    return replace(whole, **changes)


def test_a_scheduled_dump_from_just_before_stands_for_a_start() -> None:
    assert is_from_before(backup(), START, KNOWN)
    assert is_from_before(backup(reason_of_name=Reason.MANUAL), START, KNOWN)


@pytest.mark.parametrize(
    "changes",
    [
        {"taken_at": START - timedelta(seconds=61)},
        {"modified_at": START + timedelta(seconds=1)},
        {"reason_of_name": Reason.BOOT},
        {"kind": Kind.PRE_RESTORE},
        {"problem": "cut short"},
        {"manifest": None},
    ],
)
def test_one_that_is_older_later_broken_or_of_another_kind_does_not(changes: dict[str, Any]) -> None:
    assert not is_from_before(backup(**changes), START, KNOWN)


def test_one_with_other_migrations_does_not() -> None:
    assert not is_from_before(backup(), START, replace(KNOWN, migrations=frozenset(NAMES[:1])))


def test_migrations_that_came_after_the_start_do_not_count_against_it() -> None:
    later = frozenset({"targets.0003_object_class_index"})
    assert is_from_before(backup(), START, replace(KNOWN, migrations=KNOWN.migrations | later, new=later))


# Limits


def test_a_hold_takes_half_of_the_time_in_which_a_container_cannot_become_unhealthy() -> None:
    check = HealthCheck(timedelta(seconds=40), timedelta(seconds=10), 3)
    assert health_share(check) == timedelta(seconds=30)
    assert health_share(HealthCheck(timedelta(), timedelta(seconds=30), 1)) == timedelta()


def test_why_a_start_is_not_held(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    engine = cast("Engine", None)
    run = ContainerRun("id", "image", "id", now)
    assert Holder(engine, Boot(hold=False), tmp_path).why_not(run) == "boot.hold is off"
    holder = Holder(engine, Boot(), tmp_path)
    assert holder.why_not(replace(run, started_at=now - timedelta(seconds=3))) == "its start was noticed too late"
    assert holder.why_not(replace(run, started_at=None)) == "without a container it can't be held"
