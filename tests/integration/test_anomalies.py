"""Backups of a real PostgreSQL that loses rows: which are flagged, what is told, what retention makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from arcbackupd.control.replies import list_reply
from arcbackupd.dumps.catalogue import Catalogue
from arcbackupd.dumps.manifest import Reason
from arcbackupd.dumps.names import Kind
from arcbackupd.errors import Refused
from arcbackupd.messages import MessageId
from arcbackupd.monitoring.snapshot import _look
from arcbackupd.operations.anomalies import Anomalies
from arcbackupd.operations.backups import Backups, Listed
from arcbackupd.operations.events import Event, Notice
from arcbackupd.operations.queue import OperationQueue
from arcbackupd.operations.restore.checks import Request
from arcbackupd.settings import Anomalies as AnomalySettings
from tests.integration.stand import Stand
from tests.unit.sample_dumps import copy, dump, write_foreign

TABLES = """
    CREATE TABLE observations (id int PRIMARY KEY, note text);
    INSERT INTO observations SELECT i, 'seen ' || i FROM generate_series(1, 2000) i;
    CREATE TABLE targets (id int);
    INSERT INTO targets SELECT generate_series(1, 3);
    CREATE TABLE django_session (key int);
    INSERT INTO django_session SELECT generate_series(1, 5000);
"""


class Observatory:
    """A database, and a daemon's view of its backups, made anew for every question."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        stand.sql(TABLES)

    def backups(self, queue: OperationQueue | None = None) -> Backups:
        stand = self.stand
        catalogue = Catalogue(stand.home / "catalogue.json")
        return Backups(
            stand.settings, stand.engine, queue or OperationQueue(), "this-host", lambda: None, catalogue
        )

    def after(self, sql: str = "") -> Listed:
        """The backup that is taken after some SQL."""
        if sql:
            self.stand.sql(sql)
        return self.backups().find(self.stand.take())

    def taken(self) -> list[Event]:
        """What is told while one is taken."""

        async def main() -> list[Event]:
            operation = self.backups(OperationQueue()).take(Reason.MANUAL)
            return [event async for event in operation.events()]

        return asyncio.run(main())

    def age(self, **by: float) -> None:
        """Let all backups there are be older."""
        for listed in sorted(self.backups().list(), key=lambda listed: listed.index):
            taken_at = listed.backup.taken_at - timedelta(**by)
            path = self.stand.backups / listed.backup.name
            path.rename(path.with_name(f"backup-{taken_at:%Y%m%d-%H%M%S}.sql.gz"))


@pytest.fixture(name="observatory")
def _observatory(make_stand: Callable[..., Stand]) -> Observatory:
    return Observatory(make_stand())


@pytest.mark.parametrize(
    ("sql", "anomalies"),
    [
        (
            "TRUNCATE observations",
            ["public.observations has 0 rows, after 2,000 in the backup before"],
        ),
        (
            "DELETE FROM observations WHERE id > 800",
            ["public.observations has 800 rows, after 2,000 in the backup before"],
        ),
        ("DROP TABLE targets", ["the table public.targets is gone, which had 3 rows"]),
        ("ALTER TABLE observations RENAME TO seen", []),
        ("CREATE TABLE seen AS SELECT * FROM observations; TRUNCATE observations", []),
        ("DELETE FROM observations WHERE id > 1000", []),
        ("TRUNCATE targets", []),
        ("TRUNCATE django_session", []),
        ("INSERT INTO observations SELECT i, 'more' FROM generate_series(10000, 90000) i", []),
        ("", []),
    ],
)
def test_what_becomes_of_a_database_is_flagged_or_normal_life(
    observatory: Observatory, sql: str, anomalies: list[str]
) -> None:
    assert not observatory.after().judgement.flagged
    assert list(observatory.after(sql).judgement.anomalies) == anomalies


def test_a_loss_of_bytes_alone_is_flagged(observatory: Observatory) -> None:
    observatory.after("UPDATE observations SET note = repeat('x', 1000)")
    [told] = observatory.after("UPDATE observations SET note = ''").judgement.anomalies
    assert told.startswith("its SQL is ")


def test_it_is_told_while_it_is_taken_and_noted_in_the_journal_once(observatory: Observatory) -> None:
    observatory.after()
    observatory.stand.sql("TRUNCATE observations")
    backups = observatory.backups()
    with capture_logs() as journal:
        events = observatory.taken()
    [notice] = [event for event in events if isinstance(event, Notice)]
    newest = backups.list()[0].backup.name
    assert notice.text.startswith(f"{newest} is flagged: public.observations has 0 rows")
    assert f"arcbackupctl accept {newest}" in notice.hint
    [entry] = [entry for entry in journal if entry.get("message_id") == MessageId.DUMP_ANOMALY]
    assert (entry["log_level"], entry["backup"], entry["event"]) == ("warning", newest, notice.text)
    judgement = backups.judged()[newest]
    with capture_logs() as journal:
        assert [[*backups.anomalies.tell(newest, judgement)] for _ in range(3)] == [[notice]] * 3
    assert len(journal) == 1


def test_a_flagged_one_may_be_restored_with_a_warning_and_history_begins_anew(observatory: Observatory) -> None:
    stand = observatory.stand
    observatory.after()
    observatory.after("TRUNCATE observations")
    observatory.age(minutes=1)  # two within a second: the later one's name may lie after the restore
    small, whole = (listed.backup.name for listed in observatory.backups().list())
    [warning] = [text for text in warnings(stand, small) if "flagged" in text]
    assert "public.observations has 0 rows" in warning
    assert warning not in warnings(stand, whole)
    assert _look(observatory.backups()).flagged is not None
    assert "flagged" in str(list_reply(observatory.backups())["notice"])
    stand.restore(whole)
    # What was replaced lacks the rows, and that is what it was replaced for.
    assert observatory.backups().list()[0].backup.kind is Kind.PRE_RESTORE
    assert _look(observatory.backups()).flagged is None
    assert "flagged" not in str(list_reply(observatory.backups())["notice"])
    assert not observatory.after().judgement.flagged
    stand.restore(small)
    assert not observatory.after().judgement.flagged
    flagged = [listed.backup.name for listed in observatory.backups().list() if listed.judgement.flagged]
    assert small in flagged
    assert {name.partition("-2")[0] for name in flagged} == {"backup", "pre-restore"}


def warnings(stand: Stand, name: str) -> tuple[str, ...]:
    return stand.look(lambda restores: restores.plan(name, Request())).warnings


def test_an_accepted_one_is_what_later_ones_are_measured_against(observatory: Observatory) -> None:
    observatory.after()
    first = observatory.after("DELETE FROM observations WHERE id > 300")
    second = observatory.after("INSERT INTO targets VALUES (4)")
    assert second.judgement.flagged
    observatory.backups().anomalies.accept(second.backup, second.judgement)
    listed = {listed.backup.name: listed.judgement for listed in observatory.backups().list()}
    assert not any(judgement.flagged for judgement in listed.values())
    assert listed[first.backup.name].accepted
    with pytest.raises(Refused, match="nothing to accept"):
        observatory.backups().anomalies.accept(second.backup, listed[second.backup.name])
    assert observatory.after("DELETE FROM observations WHERE id > 100").judgement.flagged
    (observatory.stand.home / "state" / "anomalies.json").write_text("{lost")
    assert observatory.backups().find(second.backup.name).judgement.flagged


def test_retention_keeps_what_flagged_ones_lack_until_one_is_accepted(observatory: Observatory) -> None:
    whole = [observatory.after(f"INSERT INTO targets VALUES ({day})").backup for day in range(10, 15)]
    observatory.age(days=30)
    for day in range(20, 25):
        observatory.after(f"TRUNCATE observations; INSERT INTO targets VALUES ({day})")
    observatory.age(minutes=1)  # they come faster than their names, which have seconds, and no name may lie ahead
    backups = observatory.backups()
    last = backups.list()[0]
    plan = backups.plan_prune()
    assert plan.pruned == []
    assert plan.plan.held is not None
    backups.anomalies.accept(last.backup, last.judgement)
    assert len(observatory.backups().plan_prune().pruned) == len(whole)


def test_dumps_without_a_manifest_are_judged_among_themselves(observatory: Observatory) -> None:
    backups, directory = observatory.backups(), observatory.stand.backups
    for second, rows in enumerate((400, 401, 2)):
        lines = [(b"%d" % row,) for row in range(rows)]
        write_foreign(directory, second, dump(copy(b"public.observations", (b"id",), lines)))
    now = datetime.now(UTC).timestamp() + 60
    assert backups.flags(backups.read()) == set()
    while backups.catalogue.scan_pending(directory, now):
        pass
    [flagged] = backups.flags(backups.read())
    assert flagged == "backup-20260101-130002.sql.gz"
    assert not observatory.after().judgement.flagged


def test_a_restore_that_a_wrong_clock_noted_in_the_future_settles_no_loss_until_then(tmp_path: Path) -> None:
    anomalies = Anomalies(tmp_path / "anomalies.json", AnomalySettings())
    now = datetime.now(UTC)
    anomalies.replaced(now + timedelta(days=1000))
    assert not anomalies.replaced_since(now)
    anomalies.replaced(now)
    assert anomalies.replaced_since(now - timedelta(hours=1))
    assert not anomalies.replaced_since(now + timedelta(seconds=1))
