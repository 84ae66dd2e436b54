"""A directory on a disk or a share that is mounted here: ``type = "directory"``.

A mount point without its mount is an empty directory on this host's own disk, and a backup there would be none: so
what isn't mounted is refused, unless ``mount = false`` says that an ordinary directory is meant. Each operation
looks again, on the very directory that it goes on with.

A file arrives under `PARTIAL`, is read back from the disk, and gets its name at once and for the first time. Below
the directory no link is followed: who may write into the share can't lead us out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, ClassVar

from arcbackupd.destinations import (
    PARTIAL,
    Destination,
    DestinationError,
    DestinationSettings,
    StoredFile,
    Transfer,
)
from arcbackupd.destinations.disk_errors import NO_WAY, explained
from arcbackupd.destinations.naming import give_name, stands
from arcbackupd.destinations.transfers import (
    BLOCK,
    Meter,
    blocks,
    damaged,
    deliver,
    lacking,
    open_source,
    parts,
    sha256_of,
    taken,
    watched,
    write,
)
from arcbackupd.settings import AbsolutePath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INSIDE = _DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe planted there must not hold us up
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DAY_SECONDS = 24 * 60 * 60


class DirectorySettings(DestinationSettings):
    """What ``[destinations.NAME]`` of this type may say."""

    path: AbsolutePath
    """The directory. It must exist: nobody else can tell whether it is the right one."""

    mount: bool | AbsolutePath = True
    """What must be mounted: this mount point, at or above ``path``; true: any but that of ``/``; false: nothing."""


class DirectoryDestination(Destination[DirectorySettings]):
    """Whole files in a directory, each under its own name, for every other program to read."""

    Settings: ClassVar[type[DestinationSettings]] = DirectorySettings

    @property
    def location(self) -> str:
        return self.settings.path.as_uri()

    def check(self) -> None:
        with self._root("looking at it") as root, _partial(root) as partial:
            _sweep(partial, older_than=time.time() - _DAY_SECONDS)

    def list(self, prefix: str) -> list[StoredFile]:
        way = parts(self.name, prefix)
        found: list[StoredFile] = []
        with self._root(f"listing {prefix}") as root, _if_there(), _within(root, way) as directory:
            found += _files(directory, prefix)
        return sorted(found, key=lambda file: file.key)

    def put(self, source: Path, key: str, transfer: Transfer) -> None:
        way = parts(self.name, key)
        with open_source(self.name, source) as file:
            watched(transfer, lambda meter: self._put(file, source, way, meter), lambda: self.delete(key))

    def get(self, key: str, target: BinaryIO, transfer: Transfer) -> None:
        def copy(meter: Meter) -> None:
            with self._stored(key) as file:
                while block := file.read(meter.block):
                    deliver(self.name, target, block)
                    meter.moved(len(block))

        watched(transfer, copy)

    def read(self, key: str, length: int) -> bytes:
        with self._stored(key) as file:
            found = bytearray()
            while len(found) < length and (block := file.read(min(length - len(found), BLOCK))):
                found += block
            return bytes(found)

    def delete(self, key: str) -> None:
        *way, last = parts(self.name, key)
        with self._root(f"removing {key}") as root, _if_there(), _within(root, tuple(way)) as directory:
            # A directory or a link of this name is no file that was put here.
            if stat.S_ISREG(os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(last, dir_fd=directory)
                os.fsync(directory)

    def _put(self, file: BinaryIO, source: Path, way: tuple[str, ...], meter: Meter) -> None:
        key = "/".join(way)
        with self._root(f"storing {key}") as root:
            try:
                with _within(root, way[:-1], create=True) as directory, _partial(root) as partial:
                    if stands(way[-1], directory):
                        raise taken(self.name, key)
                    with _temporary(partial) as (name, copy):
                        self._copy(blocks(self.name, source, file, meter.block), copy, key, meter)
                        give_name(name, partial, way[-1], directory)
                    _make_last(way[-1], directory)
            except OSError as error:
                if isinstance(error, FileExistsError) or error.errno in NO_WAY:
                    raise taken(self.name, key) from error
                raise

    def _copy(self, come: Iterator[bytes], copy: BinaryIO, key: str, meter: Meter) -> None:
        """Write a file, and see that the disk has it. Raise DestinationError when what it has is something else."""
        digest = hashlib.sha256()
        for block in come:
            write(copy, block)
            digest.update(block)
            meter.moved(len(block))
        os.fsync(copy.fileno())
        # What is read now comes from the disk or the server, and not from this host's memory of it.
        os.posix_fadvise(copy.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        copy.seek(0)
        if sha256_of(iter(lambda: copy.read(BLOCK), b""), lambda _: meter.check()) != digest.hexdigest():
            raise damaged(self.name, key)

    @contextmanager
    def _stored(self, key: str) -> Iterator[BinaryIO]:
        """Open a file that is there. Raise DestinationError."""
        way = parts(self.name, key)
        with self._root(f"reading {key}") as root:
            if (descriptor := _open_regular(root, way)) is None:
                raise lacking(self.name, key)
            with open(descriptor, "rb", buffering=0) as file:
                yield file

    @contextmanager
    def _root(self, doing: str) -> Iterator[int]:
        """Open the directory, proved to be the one that is meant; explain what fails inside."""
        with explained(self.name, doing), ExitStack() as opened:
            try:
                root = _open(opened, self.settings.path, _DIRECTORY)
            except (FileNotFoundError, NotADirectoryError) as error:
                message = f"The destination {self.name!r} isn't there: there is no directory {self.settings.path}."
                hint = "Mount what belongs there; or make the directory, if it is new."
                raise DestinationError("destination-missing", message, hint=hint, passing=True) from error
            self._prove_mounted(root)
            yield root

    def _prove_mounted(self, root: int) -> None:
        mount = self.settings.mount
        if mount is False:
            return
        if mount is True:
            mounted, what = os.fstat(root).st_dev != Path("/").stat().st_dev, "at or above it"
        else:
            mounted, what = _is_mounted(mount, root), f"at {mount}"
        if not mounted:
            message = (
                f"The destination {self.name!r} isn't there: nothing is mounted {what} for {self.settings.path}."
            )
            hint = "Mount it; or set mount = false, if a directory on this host's own disk is meant."
            raise DestinationError("destination-missing", message, hint=hint, passing=True)


@contextmanager
def _if_there() -> Iterator[None]:
    """Leave what is inside when a file or a part of its way isn't there."""
    try:
        yield
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and error.errno not in NO_WAY:
            raise


def _make_last(name: str, directory: int) -> None:
    """Let a name outlive a crash; where that fails it isn't left either."""
    try:
        os.fsync(directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise


def _is_mounted(mount: Path, root: int) -> bool:
    """Whether a directory is on a filesystem that is mounted at a mount point."""
    try:
        here, above = mount.stat().st_dev, mount.parent.stat().st_dev
    except FileNotFoundError:
        return False
    return here != above and here == os.fstat(root).st_dev


def _open(opened: ExitStack, path: str | Path, flags: int, directory: int | None = None) -> int:
    descriptor = os.open(path, flags, dir_fd=directory)
    opened.callback(os.close, descriptor)
    return descriptor


@contextmanager
def _within(root: int, way: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
    """Open a directory below another, part by part and following no link; ``create`` what lacks of it."""
    with ExitStack() as opened:
        here = root
        for part in way:
            if create and not stands(part, here):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=here)
                os.fsync(here)
            here = _open(opened, part, _INSIDE, here)
        yield here


def _partial(root: int) -> contextlib.AbstractContextManager[int]:
    return _within(root, (PARTIAL,), create=True)


def _open_regular(root: int, way: tuple[str, ...]) -> int | None:
    """Open a file; ``None`` when there is none, or what is there is something else."""
    with _if_there(), _within(root, way[:-1]) as directory:
        descriptor = os.open(way[-1], _FILE, dir_fd=directory)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    return None


@contextmanager
def _temporary(partial: int) -> Iterator[tuple[str, BinaryIO]]:
    """A new file, with a name nobody can guess, which is gone afterwards whatever happened."""
    name = secrets.token_hex(16)
    descriptor = os.open(name, _NEW, 0o600, dir_fd=partial)
    try:
        with open(descriptor, "r+b", buffering=0) as file:
            yield name, file
    finally:
        with contextlib.suppress(FileNotFoundError):  # it may have been renamed
            os.unlink(name, dir_fd=partial)


def _sweep(partial: int, *, older_than: float) -> None:
    for name in os.listdir(partial):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=partial, follow_symlinks=False)
            if found.st_mtime < older_than and not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=partial)


def _files(directory: int, prefix: str) -> Iterator[StoredFile]:
    """Yield the regular files below a directory, without what is on its way."""
    for name in os.listdir(directory):
        key = f"{prefix}/{name}"
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                yield StoredFile(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))
            elif stat.S_ISDIR(found.st_mode):
                with _within(directory, (name,)) as below:
                    yield from _files(below, key)
        except FileNotFoundError:  # removed meanwhile
            continue
