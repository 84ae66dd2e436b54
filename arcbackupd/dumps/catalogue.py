"""The catalogue: what is known of every backup in a directory, from its manifest or from one scan.

A file is the truth; the catalogue only remembers what reading it told, for as long as size, mtime and inode stay
the same. Dumps with a manifest are never decompressed for it. Others are scanned once, and that survives restarts
in one JSON file, which can be lost at any time.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from arcbackupd.dumps.dumpfile import DamagedDump, read_manifest, sql_blocks
from arcbackupd.dumps.manifest import Manifest, Reason
from arcbackupd.dumps.names import Kind, parse_name
from arcbackupd.dumps.scan import Scan, Scanner
from arcbackupd.files import write_atomically

QUIET_SECONDS = 2.0
"""A file that changed less than this ago is still being copied in, for all we know; it isn't scanned yet."""

NOT_SCANNED = "not scanned yet"


@dataclass(frozen=True)
class FileIdentity:
    """What changes when a file is another one, or has other contents."""

    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Backup:
    """One backup file and what is known of it.

    ``scan`` is there for a dump without a manifest that was scanned. ``problem`` says why a broken one is broken.
    ``arrived_at`` is when its inode last changed on this host, which copying with old times doesn't hide.
    """

    name: str
    kind: Kind
    taken_at: datetime
    identity: FileIdentity
    modified_at: datetime
    arrived_at: datetime
    links: int
    manifest: Manifest | None = None
    scan: Scan | None = None
    problem: str | None = None

    @property
    def state(self) -> Literal["good", "broken", "unscanned"]:
        """``good``: proved complete."""
        if self.problem is not None:
            return "broken"
        return "good" if self.manifest or self.scan else "unscanned"

    @property
    def good(self) -> bool:
        """Whether it is proved complete."""
        return self.state == "good"

    @property
    def reason(self) -> Reason:
        """Why it was taken; a dump without a manifest is somebody else's."""
        return self.manifest.reason if self.manifest else Reason.FOREIGN

    @property
    def migrations(self) -> tuple[str, ...] | None:
        """The migrations that it recorded, ``None`` when it has none or isn't scanned."""
        if self.manifest:
            return self.manifest.contents.migrations if self.manifest.contents else None
        return self.scan.migrations if self.scan else None

    @property
    def rows(self) -> dict[str, int]:
        """Rows per table."""
        if self.manifest:
            return self.manifest.contents.rows if self.manifest.contents else {}
        return self.scan.rows if self.scan else {}

    @property
    def content(self) -> str | None:
        """Hash of its content, equal for equal databases."""
        if self.manifest:
            return self.manifest.content_sha256
        return self.scan.content_sha256 if self.scan else None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.identity.size


class _Remembered(BaseModel):
    model_config = ConfigDict(frozen=True)

    identity: FileIdentity
    scan: Scan


_MEMORY = TypeAdapter(dict[str, _Remembered])


class Catalogue:
    """Safe to use from several threads."""

    def __init__(self, memory: Path) -> None:
        """``memory`` is the file that remembers scans."""
        self._memory_file = memory
        self._lock = threading.Lock()
        self._read: dict[str, Backup] = {}
        self._scans: dict[str, _Remembered] | None = None

    def read(self, directory: Path) -> list[Backup]:
        """All backups of the directory, newest first; none when it doesn't exist."""
        with self._lock:
            scans = self._remembered()
            fresh = {backup.name: self._complete(directory, backup, scans) for backup in _listing(directory)}
            self._read = fresh
        return sorted(fresh.values(), key=lambda backup: (backup.taken_at, backup.kind), reverse=True)

    def scan_pending(self, directory: Path, now: float) -> Backup | None:
        """Scan the newest dump that waits for it and hasn't changed lately; return it, ``None`` when none waits."""
        waiting = (b for b in self.read(directory) if b.state == "unscanned" and _quiet(b, now))
        backup = next(waiting, None)
        if backup is None:
            return None
        scan = scan_file(directory / backup.name)
        with self._lock:
            self._remember(directory, backup, scan)
        return replace(backup, scan=scan, problem=scan.problem)

    def _complete(self, directory: Path, backup: Backup, scans: dict[str, _Remembered]) -> Backup:
        known = self._read.get(backup.name)
        if known and known.identity == backup.identity and known.state != "unscanned":
            return replace(backup, manifest=known.manifest, scan=known.scan, problem=known.problem)
        if backup.size == 0:
            return replace(backup, problem="it is empty")
        remembered = scans.get(backup.name)
        if remembered and remembered.identity == backup.identity:
            return replace(backup, scan=remembered.scan, problem=remembered.scan.problem)
        try:
            with _open(directory / backup.name) as file:
                return replace(backup, manifest=read_manifest(file, backup.size))
        except DamagedDump as error:
            return replace(backup, problem=str(error))
        except OSError as error:
            return replace(backup, problem=f"it can't be read: {error.strerror}")

    def _remembered(self) -> dict[str, _Remembered]:
        if self._scans is None:
            try:
                self._scans = _MEMORY.validate_json(self._memory_file.read_bytes())
            except (OSError, ValidationError):  # lost or of another version: everything is scanned again
                self._scans = {}
        return self._scans

    def _remember(self, directory: Path, backup: Backup, scan: Scan) -> None:
        scans = self._remembered()
        present = {listed.name: listed.identity for listed in _listing(directory)}
        if present.get(backup.name) != backup.identity:
            return  # it changed while it was read
        scans[backup.name] = _Remembered(identity=backup.identity, scan=scan)
        self._scans = {name: entry for name, entry in scans.items() if present.get(name) == entry.identity}
        write_atomically(self._memory_file, _MEMORY.dump_json(self._scans))


def scan_file(path: Path) -> Scan:
    """Read a whole dump and say what it holds; what isn't valid gzip is a problem of the scan's."""
    scanner = Scanner()
    problem = None
    with _open(path) as file:
        try:
            for block in sql_blocks(file):
                scanner.feed(block)
        except DamagedDump as error:
            problem = str(error)
    scan = scanner.finish()
    return replace(scan, problem=problem) if problem else scan


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _listing(directory: Path) -> Iterator[Backup]:
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for entry in entries:
        name = parse_name(entry.name)
        if name is None:
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield Backup(
                name=entry.name,
                kind=name.kind,
                taken_at=name.taken_at,
                identity=FileIdentity(status.st_ino, status.st_size, status.st_mtime_ns),
                modified_at=datetime.fromtimestamp(status.st_mtime, UTC),
                arrived_at=datetime.fromtimestamp(status.st_ctime, UTC),
                links=status.st_nlink,
            )


def _quiet(backup: Backup, now: float) -> bool:
    changed = max(backup.modified_at, backup.arrived_at).timestamp()
    return not 0 <= now - changed < QUIET_SECONDS
