"""The file of a dump: every tool reads the SQL, ours reads the manifest, and damage of any kind shows."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcbackupd.dumps.dumpfile import (
    CONTENTS_LIMIT,
    MANIFEST_LIMIT,
    MEMBER_SIZE,
    SUBFIELD_LIMIT,
    DamagedDump,
    detach_contents,
    manifest_member,
    read_manifest,
    reserved_member,
    sql_blocks,
)
from arcbackupd.dumps.manifest import Contents, Manifest, digest, encode
from tests.unit.sample_dumps import SMALL, compressed, dump_file, gunzipped, manifest, scan

EMPTY_MEMBER_END = b"\x03\x00" + bytes(8)
MANY = {f'public."table {number:06}"': number for number in range(100_000)}


TOOLS = ("gunzip -c", "zcat", "gzip -dc", "pigz -dc", "zstd -dcq", "zstdcat", f"{sys.executable} -m gzip -d")
"""Those that this machine has are asked."""


def read(data: bytes) -> Manifest | None:
    return read_manifest(BytesIO(data), len(data))


def sql(data: bytes) -> bytes:
    return b"".join(sql_blocks(BytesIO(data)))


def large(tables: int = len(MANY)) -> tuple[Manifest, bytes]:
    """A manifest whose contents don't fit its member, and the file."""
    rows = dict(islice(MANY.items(), tables))
    told = manifest(contents=Contents(rows=rows, migrations=("a.0001",), roles=("é",)))
    return told, dump_file(SMALL, told)


def member(identity: bytes, payload: bytes) -> bytes:
    """A gzip member without data, with one subfield."""
    extra = identity + struct.pack("<H", len(payload)) + payload
    head = struct.pack("<2sBBIBBH", b"\x1f\x8b", 8, 4, 0, 0, 3, len(extra))
    return head + extra + EMPTY_MEMBER_END


def forged(text: bytes) -> bytes:
    """A dump file whose manifest is this text, with a checksum that fits."""
    padded = text.ljust(MANIFEST_LIMIT)
    return member(b"AB", struct.pack("<I", zlib.crc32(padded)) + padded) + compressed(SMALL)


def with_contents(members: bytes, sha256: str) -> bytes:
    told = manifest(contents=None, contents_length=len(members), contents_sha256=sha256)
    return manifest_member(told) + compressed(SMALL) + members


# Round trip


def test_a_manifest_comes_back_as_it_was() -> None:
    told = manifest()
    assert read(dump_file(SMALL, told)) == told
    assert len(manifest_member(told)) == len(reserved_member()) == MEMBER_SIZE


@settings(deadline=None)
@given(st.text(), st.dictionaries(st.text(), st.integers(0, 2**63)), st.lists(st.text()) | st.none())
def test_any_text_in_a_manifest_comes_back_as_it_was(
    database: str, rows: dict[str, int], migrations: list[str] | None
) -> None:
    text = database[:1000]
    names = None if migrations is None else tuple(name[:1000] for name in migrations)
    told = manifest(database=text, contents=Contents(rows=rows, migrations=names))
    assert read(dump_file(SMALL, told)) == told


def test_the_contents_of_a_hundred_thousand_tables_stand_behind_the_data_and_come_back() -> None:
    told, data = large()
    stored, behind = detach_contents(told)
    assert stored.contents is None
    assert len(behind) == stored.contents_length > 2 * SUBFIELD_LIMIT
    found = read(data)
    assert found is not None
    assert found.contents == told.contents
    assert gunzipped(data) == sql(data) == SMALL


def test_a_manifest_too_large_for_its_member_is_refused_rather_than_cut() -> None:
    with pytest.raises(ValueError, match="bytes"):
        manifest_member(manifest(contents=Contents(rows=MANY)))


@settings(max_examples=10, deadline=None)
@given(st.integers(-3, 3))
def test_what_just_fits_stays_in_the_manifest(change: int) -> None:
    room = MANIFEST_LIMIT - len(encode(manifest(contents=Contents(rows={}))))
    told = manifest(contents=Contents(rows={"t" * (room - len('"":1') + change): 1}))
    stored, behind = detach_contents(told)
    assert (stored == told and not behind) == (change <= 0)
    assert read(dump_file(SMALL, told)).contents == told.contents  # type: ignore[union-attr]


# What other programs read


@pytest.mark.parametrize("large_contents", [False, True], ids=["small", "contents behind the data"])
@pytest.mark.parametrize(
    "command",
    [command for command in TOOLS if shutil.which(command.split()[0])],
    ids=lambda command: Path(command.split()[0]).name,
)
def test_every_tool_reads_the_sql_and_nothing_else(command: str, large_contents: bool, tmp_path: Path) -> None:
    path = tmp_path / "backup.sql.gz"
    path.write_bytes(large()[1] if large_contents else dump_file())
    module = "-m gzip" in command
    done = subprocess.run([*command.split(), str(path)], capture_output=True, check=True, timeout=60)
    assert (path.with_suffix("").read_bytes() if module else done.stdout) == SMALL
    assert done.stderr == b""


def test_gzip_finds_no_fault_and_tells_the_true_length(tmp_path: Path) -> None:
    path = tmp_path / "backup.sql.gz"
    path.write_bytes(dump_file())
    subprocess.run(["gzip", "-t", path], check=True, timeout=60)
    listed = subprocess.run(["gzip", "-l", path], capture_output=True, check=True, text=True, timeout=60).stdout
    assert str(len(SMALL)) in listed


def test_equal_sql_makes_equal_members() -> None:
    assert compressed(SMALL) == compressed(SMALL)
    assert dump_file() == dump_file()


def test_what_another_program_repacked_is_a_foreign_dump_with_the_same_sql() -> None:
    repacked = gzip.compress(gunzipped(dump_file()))
    assert read(repacked) is None
    assert sql(repacked) == SMALL


# Damage


@pytest.mark.parametrize("contents", [False, True], ids=["small", "contents behind the data"])
def test_every_truncation_is_noticed(contents: bool) -> None:
    data = large()[1] if contents else dump_file()
    places = {*range(MEMBER_SIZE - 50, len(data), 997 if contents else 1), *range(0, MEMBER_SIZE, 499), *range(100)}
    unnoticed = [end for end in sorted(places) if not noticed(data[:end])]
    assert unnoticed == []


def noticed(data: bytes) -> bool:
    try:
        if read(data) is not None:
            return False
        return scan(sql(data)).problem is not None
    except DamagedDump:
        return True


def test_a_truncated_file_is_noticed_without_its_data_being_read() -> None:
    data = dump_file()
    with pytest.raises(DamagedDump, match=r"cut short: .* of .* are there"):
        read_manifest(BytesIO(data[:MEMBER_SIZE]), len(data) - 1)


def test_bytes_too_many_are_noticed() -> None:
    with pytest.raises(DamagedDump, match="3 bytes too many"):
        read(dump_file() + b"abc")


@settings(deadline=None)
@given(st.integers(0, MEMBER_SIZE * 8 - 1))
def test_a_flipped_bit_in_the_manifest_makes_it_a_foreign_dump(bit: int) -> None:
    data = bytearray(dump_file())
    data[bit // 8] ^= 1 << bit % 8
    told = read(bytes(data))
    # Some bits say nothing: the header's time and the like, and the empty member's own end.
    assert told in (None, manifest())
    if 20 <= bit // 8 < MEMBER_SIZE - len(EMPTY_MEMBER_END):
        assert told is None


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_flipped_bit_behind_the_data_is_damage(drawn: st.DataObject) -> None:
    told, data = LARGE
    behind = detach_contents(told)[0].contents_length
    place = drawn.draw(st.integers(len(data) - behind, len(data) - 1))
    changed = bytearray(data)
    changed[place] ^= 1 << drawn.draw(st.integers(0, 7))
    try:
        found = read(bytes(changed))
        assert found is not None
        assert found.contents == told.contents  # some bits of a gzip header say nothing
    except DamagedDump:
        pass


LARGE = large(4000)


@settings(max_examples=200)
@given(st.integers(MEMBER_SIZE, len(dump_file()) - 1), st.integers(1, 255))
def test_a_changed_byte_of_the_data_never_passes_for_the_same_sql(place: int, change: int) -> None:
    data = bytearray(dump_file())
    data[place] ^= change
    try:
        found = sql(bytes(data))
    except DamagedDump:
        return
    # Some bytes of a gzip header say nothing about the data.
    assert found == SMALL or scan(found).sha256 != scan(SMALL).sha256


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"PK\x03\x04 no gzip at all", "wrong magic number"),
        (b"", None),
        (gzip.compress(SMALL, mtime=0)[:-1], "end too early"),
        (gzip.compress(SMALL, mtime=0)[:40], "end too early"),
        (gzip.compress(SMALL, mtime=0)[:-8] + bytes(8), "damaged"),
        (gzip.compress(SMALL, mtime=0) + b"something else", "wrong magic number"),
        (b"\x1f\x8b\x07" + bytes(20), "damaged|wrong"),
        (b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 600_000, "damaged"),  # a header that goes on and on
    ],
)
def test_what_is_no_whole_gzip_says_what_is_wrong_with_it(data: bytes, problem: str | None) -> None:
    if problem is None:
        assert sql(data) == b""
        return
    with pytest.raises(DamagedDump, match=problem):
        sql(data)


@settings(max_examples=300)
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_it_crash(data: bytes, begins_well: bool) -> None:
    data = dump_file()[: len(data) * 200] + data if begins_well else b"\x1f\x8b\x08" + data
    for look in (read, sql):
        with suppress(DamagedDump):
            look(data)


# Lies


DEEP = b"[" * 30_000 + b"]" * 30_000
GOOD: dict[str, object] = json.loads(encode(manifest()))


LIES: tuple[dict[str, object], ...] = (
    {"format": 2},
    {"format": "1"},
    {"kind": "other"},
    {"reason": 5},
    {"started_at": "yesterday"},
    {"started_at": "2026-01-01T00:00:00"},
    {"host": ["a"]},
    {"host": "x" * 5000},
    {"sql_length": -1},
    {"sql_length": 1.5},
    {"sql_length": 2**64},
    {"sql_length": 10**4000},
    {"compressed_length": -1},
    {"contents_length": -5},
    {"sql_sha256": "0" * 63},
    {"sql_sha256": "G" * 64},
    {"sql_sha256": "0" * 64 + "\n"},
    {"content_sha256": None},
    {"contents": []},
    {"contents": {"rows": {"t": -1}}},
    {"contents": {"rows": {"t": "1"}}},
    {"contents": {"rows": [1]}},
    {"contents": {"migrations": [1]}},
    {"contents": {"roles": "abc"}},
)


@pytest.mark.parametrize(
    "lie",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"NaN",
        DEEP,
        b'{"contents":' * 4000 + b"1" + b"}" * 4000,
        *(json.dumps({**GOOD, **change}).encode() for change in LIES),
    ],
    ids=lambda lie: repr(lie[-60:]),
)
def test_a_manifest_that_is_none_makes_a_foreign_dump(lie: bytes) -> None:
    data = forged(lie)
    assert read(data) is None
    assert sql(data) == SMALL


@pytest.mark.parametrize("field", ["compressed_length", "contents_length"])
@pytest.mark.parametrize("value", [0, 1, 2**40, 2**63])
def test_a_manifest_that_lies_about_lengths_is_damage(field: str, value: int) -> None:
    with pytest.raises(DamagedDump):
        read(forged(json.dumps({**GOOD, field: value, "contents_sha256": "0" * 64}).encode()))


def test_fields_of_a_later_version_are_ignored() -> None:
    assert read(forged(json.dumps({**GOOD, "colour": "blue"}).encode())) == manifest()


@pytest.mark.parametrize(
    ("members", "sha256"),
    [
        (b"", digest(b"")),
        (member(b"AC", zlib.compress(b"{}")), "0" * 64),
        (member(b"AC", b"no zlib"), digest(b"{}")),
        (member(b"AC", zlib.compress(b"{}")[:-3]), digest(b"{")),
        (member(b"XX", zlib.compress(b"{}")), digest(b"{}")),
        (member(b"AC", zlib.compress(b"[]")), digest(b"[]")),
        (member(b"AC", zlib.compress(DEEP)), digest(DEEP)),
        (member(b"AC", zlib.compress(b'{"rows":{"t":-1}}')), digest(b'{"rows":{"t":-1}}')),
        (b"garbage of some length", digest(b"{}")),
        (gzip.compress(b"{}", mtime=0), digest(b"{}")),
    ],
)
def test_contents_that_are_none_are_damage(members: bytes, sha256: str) -> None:
    with pytest.raises(DamagedDump):
        read(with_contents(members, sha256))


def test_contents_that_inflate_without_bound_are_damage_and_inflate_to_a_bound() -> None:
    bomb = zlib.compressobj(9)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(4 * CONTENTS_LIMIT >> 20)) + bomb.flush()
    pieces = [packed[i : i + SUBFIELD_LIMIT] for i in range(0, len(packed), SUBFIELD_LIMIT)]
    data = with_contents(b"".join(member(b"AC", piece) for piece in pieces), digest(b"{}"))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedDump):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * CONTENTS_LIMIT


def test_the_sql_is_handed_on_in_blocks_however_well_it_compressed() -> None:
    data = gzip.compress(bytes(200 << 20), 1)
    tracemalloc.start()
    try:
        assert sum(map(len, sql_blocks(BytesIO(data)))) == 200 << 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_an_error_of_the_disk_is_not_taken_for_damage_of_the_dump(tmp_path: Path) -> None:
    class BadDisk(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

        def readinto(self, buffer: object) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        next(sql_blocks(BadDisk()))
