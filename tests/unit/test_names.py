"""Names of backups: parsed exactly, ordered by time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcbackupd.dumps.names import BackupName, Kind, parse_name

TIMES = st.datetimes().map(lambda moment: moment.replace(microsecond=0, tzinfo=UTC))
BACKUPS = st.builds(BackupName, TIMES, st.sampled_from(Kind))


@settings(deadline=None)
@given(BACKUPS)
def test_every_name_is_parsed_back(name: BackupName) -> None:
    assert parse_name(str(name)) == name


@settings(deadline=None)
@given(BACKUPS, BACKUPS)
def test_names_of_one_kind_go_by_time_as_texts_do(one: BackupName, other: BackupName) -> None:
    if one.kind is other.kind:
        assert (str(one) < str(other)) == (one < other)


def test_the_names_are_those_of_arcsecond() -> None:
    moment = datetime(2026, 3, 9, 8, 7, 6, tzinfo=UTC)
    assert str(BackupName(moment, Kind.BACKUP)) == "backup-20260309-080706.sql.gz"
    assert str(BackupName(moment, Kind.PRE_RESTORE)) == "pre-restore-20260309-080706.sql.gz"


@settings(deadline=None)
@given(st.text())
def test_any_other_text_is_no_name(text: str) -> None:
    name = parse_name(text)
    assert name is None or str(name) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "backup-20260230-000000.sql.gz",
        "backup-20261301-000000.sql.gz",
        "backup-20260101-240000.sql.gz",
        "backup-20260101-235960.sql.gz",
        "backup-00000101-000000.sql.gz",
        "backup-20260101-000000.sql.gz\n",
        " backup-20260101-000000.sql.gz",
        "backup-20260101-000000.sql",
        "backup-20260101-000000.sql.gz.partial",
        ".backup-20260101-000000.sql.gz.partial",
        "Backup-20260101-000000.sql.gz",
        "backup-2026011-0000000.sql.gz",
        "backup-+2260101-000000.sql.gz",
        "backup-\u0662026\u0660101-000000.sql.gz",
        "backup-20260101-000000.sql.gz/../x",
        "pre-restore-20260101-000000.sql.gz\0",
        "manual-20260101-000000.sql.gz",
    ],
)
def test_what_is_nearly_a_name_is_none(text: str) -> None:
    assert parse_name(text) is None
