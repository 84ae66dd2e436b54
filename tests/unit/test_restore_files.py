"""What a restore keeps on disk: where it stands, what was replaced, how the last one ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from arcbackupd.errors import OperationFailed
from arcbackupd.operations.restore.journal import Journal, JournalFile
from arcbackupd.operations.restore.replaced import Replaced, ReplacedDatabases
from arcbackupd.operations.restore.report import LastReport, Report
from arcbackupd.postgres.databases import Privilege, Properties, RoleSettings

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIVE = Properties(
    oid=4711, datname="live", owner="me", encoding_name="UTF8", datcollate="C", datctype="C", tablespace="x",
    datconnlimit=-1, datistemplate=False, datallowconn=True, comment="é",
    privileges=(Privilege(grantee=None, privilege="CONNECT", grantable=False),),
    settings=(RoleSettings(role=None, values=("app.x=1",)),),
)  # fmt: skip


def journal(**changes: Any) -> Journal:
    fields: dict[str, Any] = {
        "operation": "0a1b2c",
        "kind": "restore",
        "backup": "backup-20260101-120000.sql.gz",
        "database": "live",
        "live": LIVE,
        "incoming": "arcbackupd_staging_0a1b2c",
        "replaced_as": "arcbackupd_replaced_x",
        "safety_backup": True,
        **changes,
    }
    return Journal(**fields)


def replaced(name: str, hours: int = 0, **changes: Any) -> Replaced:
    fields: dict[str, Any] = {
        "database": name,
        "oid": 7,
        "replaced_at": NOW + timedelta(hours=hours),
        "keep_until": NOW + timedelta(hours=24),
        "wanted": True,
        **changes,
    }
    return Replaced(**fields)


REPORT = Report(
    operation="0a1b2c",
    kind="restore",
    name="n",
    database="live",
    outcome="restored",
    started_at=NOW,
    finished_at=NOW,
)


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "file.json"


def unwritable(tmp_path: Path) -> Path:
    """A place where root can't write either."""
    return tmp_path / "missing" / "file.json"


# The journal


def test_a_journal_comes_back_as_it_was_written_by_another_process(path: Path) -> None:
    written = journal(step="load", incoming_oid=9, stopped=("a", "b"), stopped_at=NOW, create_roles=("x",))
    JournalFile(path).write(written)
    assert JournalFile(path).read() == written
    assert JournalFile(path).operation() == "0a1b2c"


def test_without_a_journal_nothing_was_interrupted(path: Path) -> None:
    file = JournalFile(path)
    assert (file.read(), file.exists(), file.operation()) == (None, False, None)


def test_a_cleared_journal_is_gone_and_may_be_cleared_again(path: Path) -> None:
    file = JournalFile(path)
    file.write(journal())
    assert file.exists()
    file.clear()
    file.clear()
    assert not file.exists()


def damaged(text: str) -> list[str]:
    return ["", "{", text[: len(text) // 2], text.replace('"format":1', '"format":2'), "\0" * 100, "[]", "null"]


@pytest.mark.parametrize("number", range(7))
def test_a_journal_that_is_damaged_or_newer_is_an_error_and_never_taken_for_none(path: Path, number: int) -> None:
    file = JournalFile(path)
    path.write_text(damaged(journal().model_dump_json())[number])
    with pytest.raises(OperationFailed, match="damaged, or of a newer arcbackupd") as caught:
        file.read()
    assert caught.value.code == "restore-journal-unreadable"
    assert str(path) in caught.value.message
    assert "arcbackupd_staging_" in caught.value.hint
    assert (file.exists(), file.operation()) == (True, None)


def test_a_journal_that_is_no_file_is_told_in_the_system_s_words(path: Path) -> None:
    path.mkdir()
    with pytest.raises(OperationFailed, match="Is a directory"):
        JournalFile(path).read()


def test_a_journal_that_cannot_be_written_stops_the_restore_before_it_acts(tmp_path: Path) -> None:
    with pytest.raises(OperationFailed) as caught:
        JournalFile(unwritable(tmp_path)).write(journal())
    assert (caught.value.code, "No such file" in caught.value.message) == ("restore-journal-unwritable", True)


def test_a_journal_is_replaced_whole_and_leaves_nothing_beside_it(path: Path) -> None:
    file = JournalFile(path)
    for step in ("create", "load", "swap"):
        file.write(journal(step=step))
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]
    read = file.read()
    assert read is not None
    assert read.step == "swap"


def test_what_is_set_in_a_journal_is_validated() -> None:
    with pytest.raises(ValidationError):
        journal().incoming_oid = "many"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("changes", "in_place"),
    [({}, False), ({"replaced_as": None}, True), ({"kind": "rollback", "replaced_as": None}, False)],
)
def test_in_place_is_a_restore_that_keeps_nothing(changes: dict[str, Any], in_place: bool) -> None:
    assert journal(**changes).in_place is in_place


def test_the_source_is_the_snapshot_while_it_is_put_back() -> None:
    assert journal(snapshot="s").source == "backup-20260101-120000.sql.gz"
    assert journal(snapshot="s", putting_back=True).source == "s"


# Replaced databases


def test_replaced_databases_are_told_newest_first_and_found_by_their_names(path: Path) -> None:
    memory = ReplacedDatabases(path)
    for name, hours in (("b", 1), ("a", 0), ("c", 2)):
        memory.put(replaced(name, hours))
    again = ReplacedDatabases(path)
    assert [kept.database for kept in again.all()] == ["c", "b", "a"]
    assert again.find("a") == replaced("a")
    assert again.find("x") is None


def test_noting_one_again_takes_the_place_of_what_was_known_of_it(path: Path) -> None:
    memory = ReplacedDatabases(path)
    memory.put(replaced("a"))
    memory.put(replaced("a", snapshot="s"))
    assert memory.all() == [replaced("a", snapshot="s")]


def test_one_that_is_removed_is_gone_and_the_others_stay(path: Path) -> None:
    memory = ReplacedDatabases(path)
    memory.put(replaced("a"))
    memory.put(replaced("b"))
    memory.remove("a")
    memory.remove("never there")
    assert memory.all() == [replaced("b")]


@pytest.mark.parametrize("text", ["", "{", '{"databases": [{"database": 1}]}', "\0", "[]"])
def test_a_damaged_memory_is_an_empty_one_and_is_written_anew(path: Path, text: str) -> None:
    path.write_text(text)
    memory = ReplacedDatabases(path)
    assert memory.all() == []
    memory.put(replaced("a"))
    assert memory.all() == [replaced("a")]


def test_what_a_newer_version_noted_besides_does_not_hide_what_is_known(path: Path) -> None:
    text = ReplacedDatabases(path)
    text.put(replaced("a"))
    path.write_text(path.read_text().replace('{"database":', '{"new":1,"database":').replace("]}", '],"more":2}'))
    assert ReplacedDatabases(path).all() == [replaced("a")]


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    memory = ReplacedDatabases(unwritable(tmp_path))
    memory.put(replaced("a"))
    assert memory.all() == []


@pytest.mark.parametrize(
    ("changes", "over"),
    [
        ({"snapshot": "s", "keep_until": NOW}, True),
        ({"snapshot": "s", "keep_until": NOW + timedelta(seconds=1)}, False),
        ({"snapshot": None, "keep_until": NOW}, False),
        ({"snapshot": "s", "keep_until": None}, False),
    ],
)
def test_a_database_may_be_dropped_when_its_time_is_over_and_a_snapshot_is_there(
    changes: dict[str, Any], over: bool
) -> None:
    assert replaced("a", **changes).over(NOW) is over


# The last report


def test_the_last_report_survives_a_restart(path: Path) -> None:
    LastReport(path).write(REPORT)
    assert LastReport(path).read() == REPORT


@pytest.mark.parametrize("text", [None, "", "{", '{"operation": 1}', "\0"])
def test_a_report_that_is_lost_or_damaged_is_unknown(path: Path, text: str | None) -> None:
    if text is not None:
        path.write_text(text)
    assert LastReport(path).read() is None


def test_a_report_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    last = LastReport(unwritable(tmp_path))
    last.write(REPORT)
    assert last.read() is None
