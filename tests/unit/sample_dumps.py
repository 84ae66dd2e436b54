"""Texts as pg_dump writes them, and files of them, for the tests of the room `dumps`."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from itertools import pairwise
from pathlib import Path

from arcbackupd.dumps.dumpfile import compressor, detach_contents, manifest_member
from arcbackupd.dumps.manifest import Contents, Manifest, Reason
from arcbackupd.dumps.names import Kind
from arcbackupd.dumps.scan import Scan, Scanner

KEY = b"Kq3hVtZ0aB"

HEAD = b"""--
-- PostgreSQL database dump
--

\\restrict %(key)s

-- Dumped from database version 16.14 (Debian 16.14-1)
-- Dumped by pg_dump version 16.14 (Debian 16.14-1)

SET statement_timeout = 0;
SET client_encoding = '%(encoding)s';
SET standard_conforming_strings = %(strings)s;
SELECT pg_catalog.set_config('search_path', '', false);

"""

TRAILER = b"--\n-- PostgreSQL database dump complete\n--\n"

TAIL = TRAILER + b"\n\\unrestrict %(key)s\n\n"


def dump(body: bytes = b"", *, key: bytes = KEY, encoding: bytes = b"UTF8", strings: bytes = b"on") -> bytes:
    """A whole dump around a body."""
    return HEAD % {b"key": key, b"encoding": encoding, b"strings": strings} + body + b"\n" + TAIL % {b"key": key}


def old_dump(body: bytes = b"") -> bytes:
    """A whole dump as pg_dump wrote it before it knew ``\\restrict``."""
    whole = dump(body)
    return whole.replace(b"\\restrict %s\n" % KEY, b"", 1).removesuffix(b"\n\\unrestrict %s\n\n" % KEY) + b"\n"


def copy(table: bytes, columns: Sequence[bytes], rows: Sequence[Sequence[bytes | None]]) -> bytes:
    """The rows of a table as COPY writes them."""
    head = b"COPY %s (%s) FROM stdin;\n" % (table, b", ".join(columns))
    lines = (b"\t".join(b"\\N" if value is None else escaped(value) for value in row) + b"\n" for row in rows)
    return head + b"".join(lines) + b"\\.\n\n\n"


def escaped(value: bytes) -> bytes:
    """A value in COPY's text format."""
    for character, escape in ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\t", b"\\t"), (b"\r", b"\\r"), (b"\v", b"\\v")):
        value = value.replace(character, escape)
    return value


MIGRATIONS = copy(
    b"public.django_migrations",
    (b"id", b"app", b"name", b"applied"),
    [
        (b"1", b"targets", b"0001_initial", b"2026-01-01 00:00:00+00"),
        (b"2", b"targets", b"0002_epoch", b"2026-01-02 00:00:00+00"),
    ],
)
MIGRATION_NAMES = ("targets.0001_initial", "targets.0002_epoch")

SMALL = dump(
    b"CREATE TABLE public.targets (id integer, name text DEFAULT 'it''s; -- no comment'::text);\n\n"
    + MIGRATIONS
    + copy(b"public.targets", (b"id", b"name"), [(b"1", b"Vega"), (b"2", None), (b"3", b"a\\.b\nc")])
)


def scan(text: bytes, *cuts: int) -> Scan:
    """What the scanner says of a text that comes in pieces, cut at these places."""
    scanner = Scanner()
    places = [0, *sorted(cuts), len(text)]
    for start, end in pairwise(places):
        scanner.feed(text[start:end])
    return scanner.finish()


def manifest(sql: bytes = SMALL, **changes: object) -> Manifest:
    """The manifest of a dump of this SQL."""
    scanned = scan(sql)
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    fields: dict[str, object] = {
        "kind": Kind.BACKUP,
        "reason": Reason.SCHEDULED,
        "started_at": moment,
        "finished_at": moment,
        "host": "0123456789abcdef",
        "arcbackupd_version": "0.1.0",
        "database": "arcsecond_docker",
        "server_version": "16.14",
        "pg_dump_version": "16.14",
        "sql_length": scanned.length,
        "sql_sha256": scanned.sha256,
        "content_sha256": scanned.content_sha256,
        "compressed_length": len(compressed(sql)),
        "contents": Contents(rows=scanned.rows, migrations=scanned.migrations, roles=scanned.roles),
        **changes,
    }
    return Manifest.model_validate(fields)


def compressed(sql: bytes) -> bytes:
    """The member of the SQL."""
    stream = compressor(1)
    return stream.compress(sql) + stream.flush()


def dump_file(sql: bytes = SMALL, told: Manifest | None = None) -> bytes:
    """The bytes of a dump file of ours."""
    stored, behind = detach_contents(told or manifest(sql))
    return manifest_member(stored) + compressed(sql) + behind


def write_dump(directory: Path, second: int, sql: bytes = SMALL, *, kind: Kind = Kind.BACKUP) -> Path:
    """Write a dump file of ours."""
    path = directory / f"{kind}-20260101-1200{second:02}.sql.gz"
    path.write_bytes(dump_file(sql, manifest(sql, kind=kind)))
    return path


def write_foreign(directory: Path, second: int, sql: bytes = SMALL) -> Path:
    """Write a dump as ``pg_dump | gzip`` does."""
    path = directory / f"backup-20260101-1300{second:02}.sql.gz"
    path.write_bytes(gzip.compress(sql, 1, mtime=0))
    return path


def gunzipped(data: bytes) -> bytes:
    """What Python's gzip makes of it."""
    return gzip.GzipFile(fileobj=BytesIO(data)).read()


def ordered_rows(scanned: Scan) -> Mapping[str, int]:
    """Rows per table."""
    return dict(sorted(scanned.rows.items()))


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
