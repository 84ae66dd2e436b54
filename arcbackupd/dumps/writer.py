"""Write the file of a dump: hidden while it grows, named only when it is proved, never over another file."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from arcbackupd.dumps.dumpfile import MEMBER_SIZE, compressor, reserved_member
from arcbackupd.dumps.names import BackupName, parse_name
from arcbackupd.niceness import NORMAL, Niceness

_QUEUED_BLOCKS = 4
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
_PARTIAL_PREFIX, _PARTIAL_SUFFIX = ".", ".partial"
_LOCK = ".arcbackupd.lock"


@dataclass(frozen=True)
class FileRights:
    """Mode and owner that a dump is born with; -1 leaves owner or group as the process has it."""

    mode: int = 0o640
    owner: int = -1
    group: int = -1


class NoLinks(Exception):
    """The filesystem has no hard links, or the file has as many as it can have."""


class PartialDump:
    """A dump being written under a hidden name, compressed in a thread of its own; a context manager.

    Leaving it removes the hidden name. What the file system refuses comes out of `write` and `complete` as OSError.
    ``niceness`` is that of the compressing thread.
    """

    def __init__(
        self, directory: Path, name: BackupName, *, level: int, rights: FileRights, niceness: Niceness = NORMAL
    ) -> None:
        self._directory = directory
        self._path = directory / f"{_PARTIAL_PREFIX}{name}{_PARTIAL_SUFFIX}"
        self._descriptor = _create(self._path, rights)
        self._compressor = compressor(level)
        self._niceness = niceness
        self._blocks: queue.Queue[bytes | None] = queue.Queue(_QUEUED_BLOCKS)
        self._error: Exception | None = None
        self._written = 0
        self._thread = threading.Thread(target=self._work, name="compress", daemon=True)
        self._thread.start()

    def __enter__(self) -> PartialDump:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop()
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)

    @property
    def compressed_length(self) -> int:
        """Bytes of the SQL's member written so far."""
        return max(0, self._written - MEMBER_SIZE)

    def write(self, block: bytes) -> None:
        """Hand over a block of SQL; waits while the compressor is behind."""
        if self._error:
            raise self._error
        self._blocks.put(block)

    def complete(self) -> None:
        """Wait until all SQL is compressed and written."""
        self._stop()
        if self._error:
            raise self._error

    def seal(self, manifest_member: bytes, contents_members: bytes) -> int:
        """Fill in the manifest, append what stands behind the data, make it durable; return the file's size."""
        os.pwrite(self._descriptor, manifest_member, 0)
        _write_all(self._descriptor, contents_members)
        os.fsync(self._descriptor)
        return os.fstat(self._descriptor).st_size

    def publish(self, name: BackupName) -> BackupName:
        """Give the file its name, or that of the next free second; never over another file."""
        return _at_free_second(name, lambda free: _link_or_rename(self._path, self._directory / str(free)))

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._blocks.put(None)
            self._thread.join()

    def _work(self) -> None:
        self._attempt(self._begin)
        for block in iter(self._blocks.get, None):
            self._attempt(lambda block=block: self._compressor.compress(block))  # type: ignore[misc]
        self._attempt(self._compressor.flush)

    def _begin(self) -> bytes:
        self._niceness.adopt()
        return reserved_member()

    def _attempt(self, produce: Callable[[], bytes]) -> None:
        """After an error the queue is only emptied: whoever fills it must not wait for us."""
        if self._error:
            return
        try:
            data = produce()
            _write_all(self._descriptor, data)
            self._written += len(data)
        except Exception as error:  # noqa: BLE001  # raised again in the thread that writes
            self._error = error


class IncomingDump:
    """A dump that comes whole from elsewhere, hidden until it is proved. A context manager."""

    def __init__(self, directory: Path, name: str, rights: FileRights) -> None:
        self._directory = directory
        self._name = name
        self.path = directory / f"{_PARTIAL_PREFIX}{name}{_PARTIAL_SUFFIX}"
        """The hidden name."""
        self.path.unlink(missing_ok=True)  # of a try that was killed
        self.file = os.fdopen(_create(self.path, rights), "wb")
        """Open for writing."""
        fcntl.flock(self.file, fcntl.LOCK_EX)  # so that `sweep_partials` leaves it alone

    def __enter__(self) -> IncomingDump:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Make it durable and give it its name. Raise FileExistsError when there is one of that name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        _link_or_rename(self.path, self._directory / self._name)
        make_durable(self._directory)


def link_unchanged(directory: Path, previous: str, name: BackupName) -> BackupName:
    """Give an existing dump another name as well, and the present as its mtime; NoLinks where that can't be."""

    def link(free: BackupName) -> None:
        try:
            os.link(directory / previous, directory / str(free), follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise NoLinks(error.strerror) from error
            raise

    published = _at_free_second(name, link)
    os.utime(directory / str(published))
    return published


def free_name(directory: Path, name: BackupName) -> BackupName:
    """The name itself, or that of the next second that no file has."""
    while os.path.lexists(directory / str(name)):
        name = _next_second(name)
    return name


def make_durable(directory: Path) -> None:
    """Force the directory's own entries to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partials(directory: Path) -> list[str]:
    """Remove what killed dumps left; return the names. Only for whoever holds the `DirectoryLock`."""
    partials = [entry for entry in directory.iterdir() if _is_partial(entry.name) and not _is_incoming(entry)]
    for partial in partials:
        partial.unlink(missing_ok=True)
    return [partial.name for partial in partials]


class DirectoryLock:
    """The right to change the backups in a directory: one process, one operation at a time. A context manager."""

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(directory / _LOCK, flags, 0o600)

    def __enter__(self) -> DirectoryLock:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)

    def acquire(self) -> bool:
        """Try to take it; it is given back when this is left."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _is_incoming(path: Path) -> bool:
    """Whether an `IncomingDump` is at work on it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_partial(name: str) -> bool:
    inner = name.removeprefix(_PARTIAL_PREFIX).removesuffix(_PARTIAL_SUFFIX)
    return name == f"{_PARTIAL_PREFIX}{inner}{_PARTIAL_SUFFIX}" and parse_name(inner) is not None


def _create(path: Path, rights: FileRights) -> int:
    """Create the file with its final rights before anything is in it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchown(descriptor, rights.owner, rights.group)
        os.fchmod(descriptor, rights.mode)
    except BaseException:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _next_second(name: BackupName) -> BackupName:
    return BackupName(name.taken_at + timedelta(seconds=1), name.kind)


def _at_free_second(name: BackupName, give: Callable[[BackupName], None]) -> BackupName:
    while True:
        try:
            give(name)
        except FileExistsError:
            name = _next_second(name)
        else:
            return name


def _link_or_rename(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename_without_replacing(source, target)
    else:
        with suppress(FileNotFoundError):
            source.unlink()


def _rename_without_replacing(source: Path, target: Path) -> None:
    """renameat2(2) with RENAME_NOREPLACE, which Python's `os` lacks; FAT and network shares know it."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if libc.renameat2(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
