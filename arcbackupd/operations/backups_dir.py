"""The directory of the backups: who may read what is in it, whether there is room, what went wrong with it."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shutil
from pathlib import Path

from arcbackupd.dumps.writer import DirectoryLock, FileRights
from arcbackupd.errors import OperationFailed, UsageError
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Step, Steps
from arcbackupd.settings import Dump as DumpSettings

_LOCK_RETRY_SECONDS = 0.5
_DROP_IN = "/etc/systemd/system/arcbackupd.service.d/paths.conf"
ROOM_BESIDE_A_DUMP = 64 << 20
"""Bytes that must stay free beside a dump as large as the last one was."""


def file_rights(settings: DumpSettings) -> FileRights:
    """Mode, owner and group as ids. Raise UsageError when a name doesn't exist on this host."""
    try:
        owner = pwd.getpwnam(settings.owner).pw_uid if settings.owner else -1
        group = grp.getgrnam(settings.group).gr_gid if settings.group else -1
    except KeyError as error:
        hint = "Correct dump.owner and dump.group in the configuration, or create them on this host."
        raise UsageError(
            "no-such-account", f"Dumps can't be given to their owner: {error.args[0]}.", hint=hint
        ) from None
    return FileRights(settings.mode, owner, group)


def check_shared_path(directory: Path) -> None:
    """Raise OperationFailed when the directory that should hold the backups' one isn't there, or isn't mounted."""
    if not directory.parent.is_dir():
        hint = "Correct SHARED_DATA_PATH in .env, or mount what should be there."
        raise OperationFailed("no-shared-path", f"{directory.parent} does not exist.", hint=hint)


def prepare_directory(directory: Path, rights: FileRights) -> None:
    """Create the directory of backups if it is missing; whoever may read a dump may list it."""
    if directory.is_dir():
        return
    check_shared_path(directory)
    try:
        directory.mkdir(mode=0o700)
        os.chown(directory, rights.owner, rights.group)
        directory.chmod(0o700 | (rights.mode & 0o044) | (rights.mode & 0o044) >> 2)
    except OSError as error:
        raise disk_error(error, directory) from error


def locked(directory: Path, cancellation: Cancellation) -> Steps[DirectoryLock]:
    """Wait until no other process changes the backups; return the lock to be left when done."""
    try:
        lock = DirectoryLock(directory)
    except OSError as error:
        raise disk_error(error, directory) from error
    try:
        if not lock.acquire():
            yield Step("lock", "Waiting for another arcbackupd that works on these backups")
            while not lock.acquire():
                cancellation.wait(_LOCK_RETRY_SECONDS)
    except BaseException:
        lock.__exit__()
        raise
    return lock


def check_room(directory: Path, dump_size: int) -> None:
    """Raise OperationFailed when a dump of about that many bytes wouldn't fit."""
    needed = dump_size + ROOM_BESIDE_A_DUMP
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise _disk_full(directory, f"{free:,} bytes are free, a dump needs about {needed:,}")


def disk_error(error: OSError, directory: Path) -> OperationFailed:
    """An error of the filesystem below the backups in English."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(directory, "no space was left while writing")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        place = directory.resolve() if directory.is_symlink() else directory.parent
        hint = (
            f"Let the service write there by ReadWritePaths={place} in {_DROP_IN} (paths.conf.example is"
            " beside it); if it may already, see the mount and the owner of the directory."
        )
        return OperationFailed("not-writable", f"{directory} can't be written: {error.strerror}.", hint=hint)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        hint = "Move away what is there in its place; the next dump creates it."
        return OperationFailed("not-a-directory", f"{directory} is not a directory.", hint=hint)
    if error.errno in (errno.ENOENT, errno.ESTALE):
        hint = "It was moved, removed or unmounted meanwhile; the next dump creates it if its parent is there."
        return OperationFailed("directory-gone", f"{directory} is not what it was any more.", hint=hint)
    hint = "See the kernel's log (`journalctl -k`): the disk itself may be failing."
    return OperationFailed("disk-error", f"Writing to {directory} failed: {error.strerror}.", hint=hint)


def _disk_full(directory: Path, figures: str) -> OperationFailed:
    hint = "Free some space there; older backups stay, and the next dump comes by itself."
    return OperationFailed("disk-full", f"The disk of {directory} is too full for a dump: {figures}.", hint=hint)
