"""The file of a dump: gzip members one after another, which is one gzip file (RFC 1952, section 2.2).

    member 0    empty; its extra field has one subfield, "AB", always of the same size: CRC-32 of the rest
                (4 bytes, little endian), then the manifest as JSON, padded with spaces
    member 1    the SQL
    member 2…   only when the contents (rows per table, migrations, roles) don't fit the manifest: empty, each
                with a subfield "AC" that holds a piece of them as zlib-compressed JSON

Every tool that reads gzip sees the SQL and nothing else. The manifest comes first: its room is reserved when the
file is opened and filled when the dump is proved, it is found without a search, and ``gzip -l`` and ``file`` keep
telling the truth. It holds the compressed length, so a truncated file shows without decompressing.

See docs/architecture.md, "The file".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from isal import igzip, isal_zlib
from isal.igzip_lib import IsalError
from pydantic import ValidationError
from zlib_ng import zlib_ng

from arcbackupd.dumps.manifest import Contents, Manifest, digest, encode

BLOCK = 1 << 20
_READ_BLOCK = 256 << 10
"""What fits into the processor's cache is decompressed, hashed and read through faster."""
SUBFIELD_LIMIT = 0xFFFF - 4
"""Bytes of one subfield: what an extra field can hold, less the subfield's own header."""
MANIFEST_LIMIT = SUBFIELD_LIMIT - 4
"""Bytes of JSON that the manifest's subfield holds beside its CRC."""
CONTENTS_LIMIT = 64 << 20
"""Bytes that contents standing behind the data may inflate to."""

FAST_LEVELS = 3
"""The highest compression level of the fast library; higher ones are another one's."""
_GZIP = 16
"""Added to the size of the window, it asks for gzip's header and trailer (zlib.h, deflateInit2)."""

_HEADER = struct.Struct("<2sBBIBBH2sH")
_MAGIC = b"\x1f\x8b"
_DEFLATE, _FEXTRA, _UNIX = 8, 4, 3
_EMPTY_BODY = b"\x03\x00" + bytes(8)  # an empty deflate block, then CRC-32 and length of nothing
_GZIP_ERRORS: tuple[type[Exception], ...] = (
    IsalError,  # type: ignore[assignment]  # isal mistypes it
    OSError,
    OverflowError,  # a header with a name or a comment longer than isal's buffer
)
_MANIFEST_ID, _CONTENTS_ID = b"AB", b"AC"
MEMBER_SIZE = _HEADER.size + SUBFIELD_LIMIT + len(_EMPTY_BODY)
"""Bytes of the manifest's member, from the beginning of the file to that of the SQL's member."""


class DamagedDump(Exception):
    """The file isn't what its manifest or the gzip format says; the text tells in which way."""


def manifest_member(manifest: Manifest) -> bytes:
    """The first member, filled. Raise ValueError when the manifest doesn't fit (see `detach_contents`)."""
    text = encode(manifest)
    if len(text) > MANIFEST_LIMIT:
        raise ValueError(f"a manifest of {len(text)} bytes")
    text = text.ljust(MANIFEST_LIMIT)
    return _member(_MANIFEST_ID, zlib.crc32(text).to_bytes(4, "little") + text)


def reserved_member() -> bytes:
    """The first member before its manifest is known: a valid gzip member that says nothing."""
    return _member(b"\0\0", bytes(SUBFIELD_LIMIT))


def detach_contents(manifest: Manifest) -> tuple[Manifest, bytes]:
    """The manifest as it is stored, and the members that go behind the data: none when all of it fits."""
    if manifest.contents is None or len(encode(manifest)) <= MANIFEST_LIMIT:
        return manifest, b""
    text = encode(manifest.contents)
    packed = zlib.compress(text, 6)
    pieces = (packed[i : i + SUBFIELD_LIMIT] for i in range(0, len(packed), SUBFIELD_LIMIT))
    members = b"".join(_member(_CONTENTS_ID, piece) for piece in pieces)
    behind = {"contents": None, "contents_length": len(members), "contents_sha256": digest(text)}
    return manifest.model_copy(update=behind), members


def read_manifest(file: BinaryIO, size: int) -> Manifest | None:
    """The manifest of an open dump file of that many bytes, with its contents, wherever those stand.

    Return ``None`` for a file that has no readable manifest: what another program wrote or repacked. Raise
    DamagedDump when the file isn't as long as its manifest says, or its contents are not what it says.
    """
    manifest = _parse_manifest(file.read(MEMBER_SIZE))
    if manifest is None:
        return None
    data_end = MEMBER_SIZE + manifest.compressed_length
    expected = data_end + manifest.contents_length
    if size < expected:
        raise DamagedDump(f"cut short: {size:,} bytes of {expected:,} are there")
    if size > expected:
        raise DamagedDump(f"{size - expected:,} bytes too many are at its end")
    if manifest.contents_sha256 is None:
        return manifest
    file.seek(data_end)
    contents = _read_contents(file.read(min(manifest.contents_length, CONTENTS_LIMIT)), manifest.contents_sha256)
    return manifest.model_copy(update={"contents": contents})


class Readable(Protocol):
    """What has bytes to read, one after another."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Read as many bytes as fit, or fewer; none at its end."""


def sql_blocks(file: BinaryIO | Readable) -> Iterator[bytes]:
    """The SQL of an open dump file, in blocks. Raise DamagedDump where it isn't valid gzip."""
    with igzip.IGzipFile(fileobj=file, mode="rb") as stream:  # type: ignore[no-untyped-call]  # isal has no hint there
        try:
            while block := stream.read(_READ_BLOCK):
                yield block
        except EOFError as error:
            raise DamagedDump("cut short: the gzip data end too early") from error
        except _GZIP_ERRORS as error:
            raise DamagedDump(_gzip_problem(error)) from error


class Compressor(Protocol):
    """Makes the SQL's member of blocks of SQL."""

    def compress(self, data: bytes, /) -> bytes:
        """What there is to write by now."""

    def flush(self) -> bytes:
        """The rest; nothing comes after it."""


def compressor(level: int) -> Compressor:
    """What makes the SQL's member: a gzip header without a time, so that equal SQL makes equal files.

    Up to level 3 it is ISA-L, made for speed, and above zlib-ng, up to 9, made for size.
    """
    if level <= FAST_LEVELS:
        return isal_zlib.compressobj(level, isal_zlib.DEFLATED, _GZIP + isal_zlib.MAX_WBITS)
    return zlib_ng.compressobj(level, zlib_ng.DEFLATED, _GZIP + zlib_ng.MAX_WBITS)


def _gzip_problem(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    if "Not a gzip" in str(error):
        return "not a gzip file: wrong magic number"
    return f"the gzip data are damaged ({error})"


def _member(identity: bytes, payload: bytes) -> bytes:
    extra = identity + struct.pack("<H", len(payload)) + payload
    return _HEADER.pack(_MAGIC, _DEFLATE, _FEXTRA, 0, 0, _UNIX, len(extra), extra[:2], len(payload)) + (
        payload + _EMPTY_BODY
    )


@dataclass(frozen=True)
class _Subfield:
    identity: bytes
    length: int


def _subfield(header: bytes) -> _Subfield | None:
    """The only subfield that a member's header announces, if it is of our making."""
    if len(header) < _HEADER.size:
        return None
    magic, method, flags, _, _, _, extra, identity, length = _HEADER.unpack_from(header)
    if (magic, method, flags) != (_MAGIC, _DEFLATE, _FEXTRA) or extra != length + 4:
        return None
    return _Subfield(identity, length)


def _parse_manifest(member: bytes) -> Manifest | None:
    if _subfield(member) != _Subfield(_MANIFEST_ID, SUBFIELD_LIMIT) or len(member) != MEMBER_SIZE:
        return None
    checksum, text = member[_HEADER.size :][:4], member[_HEADER.size + 4 : -len(_EMPTY_BODY)]
    if zlib.crc32(text) != int.from_bytes(checksum, "little"):
        return None
    try:
        return Manifest.model_validate_json(text)
    except ValidationError:
        return None


def _read_contents(members: bytes, sha256: str) -> Contents:
    inflate = zlib.decompressobj()
    text = bytearray()
    try:
        for piece in _pieces(members):
            text += inflate.decompress(piece, max(1, CONTENTS_LIMIT - len(text)))
        if digest(bytes(text)) != sha256:
            raise DamagedDump("its list of tables is damaged")
        return Contents.model_validate_json(bytes(text))
    except (zlib.error, ValidationError) as error:
        raise DamagedDump("its list of tables is damaged") from error


def _pieces(members: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(members):
        subfield = _subfield(members[position : position + _HEADER.size])
        if subfield is None or subfield.identity != _CONTENTS_ID:
            raise DamagedDump("what stands behind its data is no part of a dump")
        start = position + _HEADER.size
        yield members[start : start + subfield.length]
        position = start + subfield.length + len(_EMPTY_BODY)
