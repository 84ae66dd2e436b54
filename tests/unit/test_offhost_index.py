"""An index of shared data, which comes from a place that isn't trusted."""

from __future__ import annotations

import gzip
import json
import stat
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.destinations import StoredFile
from arcbackupd.operations.offhost.data import DamagedIndex, Index, Indexed, decode_index, newest_index
from arcbackupd.operations.offhost.tree import Node

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
FILE = {"path": "a/b", "mode": stat.S_IFREG | 0o644, "uid": 0, "gid": 0, "size": 1, "mtime_ns": 1, "target": None,
        "key": "data/files/ab/abc", "sha256": "abc"}  # fmt: skip


def stored(*nodes: Any, **changed: Any) -> bytes:
    value = {"format": 1, "host": "h", "taken_at": NOW.isoformat(), "nodes": list(nodes), **changed}
    return gzip.compress(json.dumps(value).encode(), mtime=0)


def test_an_index_is_read_as_it_was_written() -> None:
    nodes = (
        Indexed(Node("é/x y", stat.S_IFREG | 0o600, 1, 2, 3, 4), "data/files/ab/abc", "abc"),
        Indexed(Node("é", stat.S_IFDIR | 0o755, 1, 2, 0, 4)),
        Indexed(Node("link", stat.S_IFLNK | 0o777, 1, 2, 0, 4, "/etc/passwd")),
    )
    index = Index("host", NOW, nodes)
    assert decode_index(index.encode()) == index
    assert index.encode() == index.encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"path": "../x"}, {"path": "/etc/x"}, {"path": "a//b"}, {"path": "a/./b"}, {"path": ""}, {"path": "a\0b"},
        {"path": "\ud800"}, {"path": "db_backups/x"}, {"path": "db_backups"}, {"key": None}, {"sha256": None},
        {"key": 5}, {"uid": -1}, {"uid": 1 << 40}, {"gid": 1 << 31}, {"mode": -1}, {"mode": 1 << 20}, {"size": -1},
        {"mtime_ns": 1 << 80}, {"mode": "x"}, {"uid": None},
    ],
)  # fmt: skip
def test_what_leads_elsewhere_or_makes_no_sense_is_no_index(changed: dict[str, Any]) -> None:
    with pytest.raises(DamagedIndex):
        decode_index(stored({**FILE, **changed}))


@pytest.mark.parametrize(
    "data",
    [b"", b"x", gzip.compress(b"", mtime=0), gzip.compress(b"[]", mtime=0), gzip.compress(b"[" * 100_000, mtime=0),
     stored(format=2),
     stored(nodes=None), stored("x"), stored(taken_at="never"), stored()[:-5]],
)  # fmt: skip
def test_what_is_no_index_is_told(data: bytes) -> None:
    with pytest.raises(DamagedIndex):
        decode_index(data)


@given(st.binary(max_size=300))
def test_whatever_stands_there_is_an_index_or_a_damaged_one(data: bytes) -> None:
    for each in (data, gzip.compress(data)):
        with pytest.raises(DamagedIndex):
            decode_index(each)


def at(name: str, moment: datetime = NOW) -> StoredFile:
    return StoredFile(f"data/index-{name}.json.gz", 1, moment)


def test_the_newest_index_is_by_its_name_unless_that_is_from_a_clock_that_ran_ahead() -> None:
    files = [at("20260101-120000"), at("20260102-120000"), at("20990101-120000"), at("99999999-999999"), at("x")]
    assert newest_index(files, "data") == "data/index-20260102-120000.json.gz"
    assert newest_index(files[2:], "data") is None
    assert newest_index([], "data") is None
