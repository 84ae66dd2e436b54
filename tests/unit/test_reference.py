"""References: an index, a name, a unique beginning, or ``latest``; nothing else, and never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcbackupd.dumps.names import parse_name
from arcbackupd.dumps.reference import resolve
from arcbackupd.errors import NoSuchBackup

NAMES = [
    "backup-20260103-120000.sql.gz",
    "pre-restore-20260102-130000.sql.gz",
    "backup-20260102-120000.sql.gz",
    "backup-20260101-120000.sql.gz",
]


def code(reference: str, names: list[str]) -> str:
    with pytest.raises(NoSuchBackup) as caught:
        resolve(reference, names)
    assert caught.value.hint
    assert caught.value.exit_status == 3
    return caught.value.code


@pytest.mark.parametrize(
    ("reference", "index"),
    [
        ("latest", 0),
        ("1", 0),
        ("4", 3),
        ("0001", 0),
        ("pre", 1),
        ("p", 1),
        ("backup-20260101", 3),
        ("backup-20260102-120000.sql.gz", 2),
        ("backup-20260103-120000", 0),
    ],
)
def test_a_reference_means_one_backup(reference: str, index: int) -> None:
    assert resolve(reference, NAMES) == NAMES[index]


@pytest.mark.parametrize(
    "reference", ["0", "5", "999999", "9999999999", "-1", "1.0", "²", "\u0661", "", " ", "LATEST", "*", "../x", "x"]
)
def test_a_reference_that_means_none_is_an_error(reference: str) -> None:
    assert code(reference, NAMES) == "no-such-backup"


def test_a_beginning_of_several_names_is_an_error_that_tells_the_newest() -> None:
    with pytest.raises(NoSuchBackup) as caught:
        resolve("backup-2026010", NAMES)
    assert (caught.value.code, "3 backups" in caught.value.message) == ("ambiguous", True)
    assert NAMES[0] in caught.value.hint


def test_with_no_backups_every_reference_says_so() -> None:
    assert {code(reference, []) for reference in ("latest", "1", "x", NAMES[0])} == {"no-backups"}


@settings(deadline=None)
@given(st.text(max_size=40), st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
def test_what_comes_back_is_always_one_of_the_names(reference: str, names: list[str]) -> None:
    try:
        found = resolve(reference, names)
    except NoSuchBackup as error:
        assert error.code in ("no-such-backup", "ambiguous")  # noqa: PT017  # both ways are right
    else:
        assert found in names
        assert parse_name(found) is not None


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), unique=True, min_size=1), st.data())
def test_a_whole_name_means_itself(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert resolve(name, names) == name
