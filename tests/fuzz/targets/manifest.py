"""The manifest reader: a validated manifest, none, or DamagedDump; never more memory than its limits."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from io import BytesIO

from arcbackupd.dumps import dumpfile
from arcbackupd.dumps.dumpfile import DamagedDump, read_manifest
from arcbackupd.dumps.manifest import Contents, Manifest, digest, encode
from tests.fuzz.pump import pumped

_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def one(data: bytes) -> None:
    """Read a file that is hostile as such, or has a hostile manifest, or hostile contents, in an intact frame."""
    kind, _, text = data.partition(b"\n")
    text = pumped(text)
    match kind[:1]:
        case b"m":
            manifest_alone(text)
        case b"c":
            contents_behind(text, kind[1:])
        case _:
            read(text)


def manifest_alone(text: bytes) -> None:
    """The text as the JSON of a manifest, in a member whose checksum is right."""
    member = framed(text)
    told = read(member)
    if told is None:
        told = read(member + bytes(64))  # of a manifest that tells of more than is there
    if told is not None:
        assert told.sql_length >= 0
        assert read(dumpfile.manifest_member(told) + bytes(told.compressed_length)) == told


def framed(text: bytes) -> bytes:
    """A first member that holds the text, as much of it as fits."""
    text = text[: dumpfile.MANIFEST_LIMIT].ljust(dumpfile.MANIFEST_LIMIT)
    return dumpfile._member(b"AB", zlib.crc32(text).to_bytes(4, "little") + text)


def contents_behind(text: bytes, how: bytes) -> None:
    """The text as the JSON of contents that stand behind the data; ``how``: right hash, and bytes to damage."""
    packed = zlib.compress(text, 1)
    pieces = [packed[i : i + dumpfile.SUBFIELD_LIMIT] for i in range(0, len(packed), dumpfile.SUBFIELD_LIMIT)]
    behind = bytearray(b"".join(dumpfile._member(b"AC", piece) for piece in pieces))
    for place, value in zip(how[1::2], how[2::2], strict=False):
        behind[place % len(behind)] ^= value
    sha256 = digest(text) if how[:1] != b"w" else digest(b"")
    told = SAMPLE.model_copy(update={"contents_length": len(behind), "contents_sha256": sha256})
    found = read(dumpfile.manifest_member(told) + bytes(told.compressed_length) + bytes(behind))
    assert found is None or found.contents is not None


def read(file: bytes) -> Manifest | None:
    """Read a file and hold what comes to what is promised."""
    try:
        told = read_manifest(BytesIO(file), len(file))
    except DamagedDump:
        return None
    if told is not None:
        assert dumpfile.MEMBER_SIZE + told.compressed_length + told.contents_length == len(file)
        usable(told)
    return told


def usable(told: Manifest) -> None:
    """All that the daemon does with a manifest can be done with it."""
    assert isinstance(told.duration, float)
    assert isinstance((_MOMENT - told.started_at).total_seconds(), float)
    assert told.started_at.isoformat()
    assert told.finished_at.isoformat()
    assert Manifest.model_validate_json(encode(told)) == told
    if told.contents is not None:
        assert Contents.model_validate_json(encode(told.contents)) == told.contents
        assert all(count >= 0 for count in told.contents.rows.values())


SAMPLE = Manifest.model_validate(
    {
        "kind": "backup",
        "reason": "scheduled",
        "started_at": "2026-01-01T12:00:00Z",
        "finished_at": "2026-01-01T12:00:05Z",
        "host": "0123456789abcdef",
        "arcbackupd_version": "0.1.0",
        "database": "arcsecond_docker",
        "server_version": "16.14",
        "pg_dump_version": "16.14",
        "sql_length": 9,
        "sql_sha256": "ab" * 32,
        "content_sha256": "cd" * 32,
        "compressed_length": 7,
    }
)
