"""Read a backup whole and hold it against what is known of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arcbackupd.dumps.catalogue import Backup, open_backup
from arcbackupd.dumps.dumpfile import DamagedDump, Readable, sql_blocks
from arcbackupd.dumps.manifest import Manifest
from arcbackupd.dumps.scan import Scan, Scanner
from arcbackupd.operations.events import Progress, Step, Steps

_PROGRESS_SECONDS = 0.25


@dataclass(frozen=True)
class Verified:
    """``problem`` is ``None`` when the file is what it should be; ``bytes`` of SQL were read."""

    problem: str | None
    bytes: int


def verify_file(path: Path, backup: Backup) -> Steps[Verified]:
    """Decompress the whole file, prove it complete, and check its hashes against its manifest if it has one."""
    with open_backup(path) as file:
        return (yield from verify(file, backup))


def verify(file: BinaryIO | Readable, backup: Backup) -> Steps[Verified]:
    """What `verify_file` does, of an open file from its beginning."""
    yield Step("verify", f"Reading {backup.name}")
    scanner = Scanner()
    began = told = time.monotonic()
    try:
        for block in sql_blocks(file):
            scanner.feed(block)
            if (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
                told = now
                total = backup.manifest.sql_length if backup.manifest else None
                yield Progress(scanner.length, scanner.table, scanner.rows_read, now - began, total)
    except DamagedDump as error:
        return Verified(str(error), scanner.length)
    scan = scanner.finish()
    return Verified(scan.problem or _difference(scan, backup.manifest), scan.length)


def _difference(scan: Scan, manifest: Manifest | None) -> str | None:
    if manifest is None:
        return None
    if scan.length != manifest.sql_length:
        return f"its SQL has {scan.length:,} bytes, its manifest says {manifest.sql_length:,}"
    if scan.sha256 != manifest.sql_sha256 or scan.content_sha256 != manifest.content_sha256:
        return "its SQL isn't the one that was written: the SHA-256 differs"
    contents = manifest.contents
    if contents and (scan.rows != contents.rows or scan.migrations != contents.migrations):
        return "its manifest tells of other rows or migrations than its SQL holds"
    return None
