"""``showmigrations --plan`` and the record in a backup: names that stand in the text, none of them lost."""

from __future__ import annotations

import re

from arcbackupd.dumps.compatibility import Badge, compare, explain_newest, parse_showmigrations_plan
from tests.fuzz.pump import pumped

_ANSI = re.compile(r"\x1b\[[0-9;:?]*[A-Za-z]")


def one(data: bytes) -> None:
    """Parse a plan, and compare it with the names that come behind a form feed."""
    plan, _, record = pumped(data).partition(b"\f")
    in_code = parsed(plan.decode("utf-8", "replace"))
    in_backup = tuple(record.decode("utf-8", "backslashreplace").split("\n"))
    compared(in_backup, in_code)
    if in_code:
        compared(in_code, in_code)
        compared(in_code[:-1], in_code)
        compared((*in_code, "app.0001_other"), in_code)


def parsed(text: str) -> tuple[str, ...] | None:
    """The names of a plan, ``None`` when there is none."""
    try:
        names = parse_showmigrations_plan(text)
    except ValueError:
        return None
    plain = _ANSI.sub("", text)
    assert len(set(names)) == len(names)
    for name in names[:100]:
        assert name in plain
        assert "." in name
        assert not re.search(r"[\s\x00-\x1f\x7f-\x9f]", name)
    if names:
        assert parse_showmigrations_plan("\n".join(f"[X]  {name}" for name in names)) == names
    return names


def compared(in_backup: tuple[str, ...], in_code: tuple[str, ...] | None) -> None:
    """Hold a comparison to what it means."""
    found = compare(in_backup, in_code)
    explain_newest("backup-20260101-120000.sql.gz", found)
    if in_code is None:
        assert found.status is Badge.UNKNOWN
        return
    backup, code = set(in_backup), set(in_code)
    assert {*found.only_in_backup, *found.leftover} == backup - code
    assert set(found.only_in_backup).isdisjoint(found.leftover)
    assert set(found.only_in_code) == code - backup
    if found.only_in_backup:
        assert found.status is Badge.INCOMPATIBLE
    else:
        assert found.status is (Badge.OLDER_SNAPSHOT if found.only_in_code else Badge.COMPATIBLE)
