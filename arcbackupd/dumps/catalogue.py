"""The catalogue: what is known of every backup in a directory, from its manifest or from one scan.

A file is the truth; the catalogue only remembers what reading it told, for as long as size, mtime and inode stay
the same. Dumps with a manifest are never decompressed for it. Others are scanned once, and that survives restarts
in one JSON file, which can be lost at any time.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from arcbackupd.dumps.dumpfile import DamagedDump, read_manifest, sql_blocks
from arcbackupd.dumps.manifest import Manifest, Reason
from arcbackupd.dumps.names import Kind, parse_name
from arcbackupd.dumps.scan import Scan, Scanner
from arcbackupd.errors import OperationFailed
from arcbackupd.files import write_atomically

QUIET_SECONDS = 2.0
"""A file that changed less than this ago is still being copied in, for all we know; it isn't scanned yet."""
_LOOK_AGAIN_SECONDS = 30.0
_TRY_AGAIN_SECONDS = 300.0
_LATEST = datetime.max.replace(tzinfo=UTC).timestamp() - 1


@dataclass(frozen=True)
class FileIdentity:
    """What changes when a file is another one, or has other contents."""

    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Backup:
    """One backup file and what is known of it.

    ``scan`` is there for a dump without a manifest that was scanned. ``problem`` says why a broken one is broken,
    ``unreadable`` why nothing can be told of one for now: the filesystem refused, which says nothing of the dump.
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
    unreadable: str | None = None
    reason_of_name: Reason | None = None

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
        if self.reason_of_name:
            return self.reason_of_name
        return self.manifest.reason if self.manifest else Reason.FOREIGN

    @property
    def migrations(self) -> tuple[str, ...] | None:
        """The migrations that it recorded, ``None`` when it has none or isn't scanned."""
        if self.manifest:
            return self.manifest.contents.migrations if self.manifest.contents else None
        return self.scan.migrations if self.scan else None

    @property
    def before_migrations(self) -> bool | None:
        """Of a boot's dump: whether it was surely taken before that start's migrations."""
        # A later dump of the same content shares the file, and with it the boot's manifest.
        return self.manifest.before_migrations if self.manifest and self.reason is Reason.BOOT else None

    @property
    def rows(self) -> dict[str, int]:
        """Rows per table."""
        if self.manifest:
            return self.manifest.contents.rows if self.manifest.contents else {}
        return self.scan.rows if self.scan else {}

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of the roles that must exist to restore it."""
        if self.manifest:
            return self.manifest.contents.roles if self.manifest.contents else ()
        return self.scan.roles if self.scan else ()

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


class _Scanned(BaseModel):
    model_config = ConfigDict(frozen=True)

    identity: FileIdentity
    scan: Scan


class _Memory(BaseModel):
    """``reasons``: of names that share another dump's file, and with it that one's manifest."""

    scans: dict[str, _Scanned] = {}
    reasons: dict[str, Reason] = {}


class Catalogue:
    """Safe to use from several threads."""

    def __init__(self, memory: Path) -> None:
        """``memory`` is the file that remembers scans."""
        self._memory_file = memory
        self._lock = threading.Lock()
        self._read: dict[str, Backup] = {}
        self._directory_mtime = 0
        self._idle_until = 0.0
        self._memory: _Memory | None = None
        self._unreadable: dict[str, Backup] = {}
        self._try_unreadable_at = 0.0

    def read(self, directory: Path) -> list[Backup]:
        """All backups of the directory, newest first; none when it doesn't exist.

        Raise OperationFailed when it can't be read.
        """
        with self._lock:
            fresh = {backup.name: self._complete(directory, backup) for backup in _listing(directory)}
            self._read = fresh
        return sorted(fresh.values(), key=lambda backup: (backup.taken_at, backup.kind), reverse=True)

    def scan_pending(self, directory: Path, now: float) -> Backup | None:
        """Scan the newest dump that waits for it and hasn't changed lately; return it, ``None`` when none waits."""
        if self._idle(directory, now):
            return None
        if now >= self._try_unreadable_at:
            self._unreadable.clear()
        unscanned = [backup for backup in self.read(directory) if backup.state == "unscanned"]
        waiting = [backup for backup in unscanned if not backup.unreadable]
        backup = next((backup for backup in waiting if _quiet(backup, now)), None)
        if backup is None:
            self._idle_until = 0.0 if waiting else now + _LOOK_AGAIN_SECONDS
            return None
        return self.scan(directory, backup, now)

    def scan(
        self, directory: Path, backup: Backup, now: float, between: Callable[[], None] = lambda: None
    ) -> Backup:
        """Scan a dump at once; return what is known of it then. What ``between`` blocks raises ends the scan."""
        try:
            scan = scan_file(directory / backup.name, between)
        except OSError as error:  # of the disk, say; the others must not wait for this one
            unreadable = replace(backup, unreadable=_cannot_be_read(error))
            with self._lock:
                self._unreadable[backup.name] = unreadable
            self._try_unreadable_at = now + _TRY_AGAIN_SECONDS
            return unreadable
        with self._lock:
            self._remember_scan(directory, backup, scan)
        return replace(backup, scan=scan, problem=scan.problem)

    def _idle(self, directory: Path, now: float) -> bool:
        """Whether nothing came or went since nothing waited; a file that changed in place is found by and by."""
        changed = directory.stat().st_mtime_ns if directory.is_dir() else 0
        idle = changed == self._directory_mtime and now < self._idle_until
        self._directory_mtime = changed
        return idle

    def remember_reason(self, name: str, reason: Reason) -> None:
        """Note why a name was given to a file whose manifest tells of an earlier dump."""
        with self._lock:
            self._recall().reasons[name] = reason
            self._save(present=set(self._read) | {name})

    def _complete(self, directory: Path, listed: Backup) -> Backup:
        memory = self._recall()
        backup = replace(listed, reason_of_name=memory.reasons.get(listed.name))
        known = self._read.get(backup.name)
        if known and known.identity == backup.identity and known.state != "unscanned":
            return replace(backup, manifest=known.manifest, scan=known.scan, problem=known.problem)
        if backup.size == 0:
            return replace(backup, problem="it is empty")
        scanned = memory.scans.get(backup.name)
        if scanned and scanned.identity == backup.identity:
            return replace(backup, scan=scanned.scan, problem=scanned.scan.problem)
        failed = self._unreadable.get(backup.name)
        if failed and failed.identity == backup.identity:
            return replace(backup, unreadable=failed.unreadable)
        return _with_manifest(directory, backup)

    def _recall(self) -> _Memory:
        if self._memory is None:
            try:
                self._memory = _Memory.model_validate_json(self._memory_file.read_bytes())
            except (OSError, ValidationError):  # lost or of another version: everything is scanned again
                self._memory = _Memory()
        return self._memory

    def _remember_scan(self, directory: Path, backup: Backup, scan: Scan) -> None:
        present = {listed.name: listed.identity for listed in _listing(directory)}
        if present.get(backup.name) != backup.identity:
            return  # it changed while it was read
        self._recall().scans[backup.name] = _Scanned(identity=backup.identity, scan=scan)
        self._save(present=set(present))

    def _save(self, present: set[str]) -> None:
        """Write down what is remembered of the files that are there."""
        memory = self._recall()
        memory.scans = {name: scan for name, scan in memory.scans.items() if name in present}
        memory.reasons = {name: reason for name, reason in memory.reasons.items() if name in present}
        with suppress(OSError):  # it can be lost at any time: what it held is found out again
            write_atomically(self._memory_file, memory.model_dump_json().encode())


def _with_manifest(directory: Path, backup: Backup) -> Backup:
    try:
        with open_backup(directory / backup.name) as file:
            return replace(backup, manifest=read_manifest(file, backup.size))
    except DamagedDump as error:
        return replace(backup, problem=str(error))
    except OSError as error:
        return replace(backup, unreadable=_cannot_be_read(error))


def _cannot_be_read(error: OSError) -> str:
    return f"it can't be read: {error.strerror}"


def scan_file(path: Path, between: Callable[[], None] = lambda: None) -> Scan:
    """Read a whole dump and say what it holds; what isn't valid gzip is a problem of the scan's.

    ``between`` is called before each block; what it raises ends the scan.
    """
    scanner = Scanner()
    problem = None
    with open_backup(path) as file:
        try:
            for block in sql_blocks(file):
                between()
                scanner.feed(block)
        except DamagedDump as error:
            problem = str(error)
    scan = scanner.finish()
    return replace(scan, problem=problem) if problem else scan


def open_backup(path: Path) -> BinaryIO:
    """Open a backup for reading; never follows a link, never waits for a pipe."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _listing(directory: Path) -> Iterator[Backup]:
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        hint = "A directory that the daemon may read must be there: see what is, its owner, and the mount below it."
        raise OperationFailed(
            "backups-unreadable", f"The backups in {directory} can't be read: {error.strerror}.", hint=hint
        ) from error
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
                modified_at=_moment(status.st_mtime),
                arrived_at=_moment(status.st_ctime),
                links=status.st_nlink,
            )


def _moment(seconds: float) -> datetime:
    """A file's time; filesystems know some that no calendar has."""
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LATEST), UTC)


def _quiet(backup: Backup, now: float) -> bool:
    changed = max(backup.modified_at, backup.arrived_at).timestamp()
    return not 0 <= now - changed < QUIET_SECONDS
