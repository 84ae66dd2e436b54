"""The gzip reading: blocks of bounded size, the bytes that Python's gzip finds, or DamagedDump."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from io import BytesIO

from arcbackupd.dumps.dumpfile import DamagedDump, sql_blocks
from tests.fuzz.pump import pumped

BLOCK_LIMIT = 256 << 10
READ_LIMIT = 16 << 20
"""Bytes after which a bomb has been watched for long enough; three copies of them are the comparison's own."""


def one(data: bytes) -> None:
    """Read hostile gzip."""
    text = pumped(data)
    for file in (text, b"".join(members(text))):
        read = ours(file)
        if read is not None and len(read) < READ_LIMIT:
            assert read == pythons(file), "accepted, and Python's gzip says otherwise"


def ours(file: bytes) -> bytes | None:
    """What sql_blocks makes of a file, ``None`` when it is damaged."""
    read = bytearray()
    try:
        for block in sql_blocks(BytesIO(file)):
            assert 0 < len(block) <= BLOCK_LIMIT
            read += block
            if len(read) >= READ_LIMIT:
                break
    except DamagedDump:
        return None
    return bytes(read)


def pythons(file: bytes) -> bytes | None:
    """What another implementation makes of it."""
    try:
        return gzip.decompress(file)
    except (OSError, EOFError, zlib.error):
        return None


def members(recipe: bytes) -> Iterator[bytes]:
    """Members whose checksums are right, one a line of the recipe: flags, header's fields, a tab, the text."""
    for line in recipe.split(b"\n")[:2000]:
        fields, _, text = line.partition(b"\t")
        yield member(fields[:1] or b"\0", fields[1:], text)


def member(flags: bytes, fields: bytes, text: bytes) -> bytes:
    """A member with any flags and fields; with a flag that gzip doesn't have, its end is missing."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    body = deflate.compress(text) + deflate.flush()
    end = zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    head = b"\x1f\x8b\x08" + flags + bytes(4) + b"\x00\x03" + fields
    return head + body + (b"" if flags[0] & 0x80 else end)
