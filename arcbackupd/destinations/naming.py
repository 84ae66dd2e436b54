"""Giving a file its name, at once and only if nobody has it."""

from __future__ import annotations

import ctypes
import errno
import os

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NO_RENAMEAT2 = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_RENAME_NOREPLACE = 1


def give_name(name: str, directory: int, final: str, final_directory: int) -> None:
    """Make a file appear under its final name. Raise FileExistsError when that is taken, and OSError.

    The old name may be left; it is the caller's to remove.
    """
    try:
        os.link(name, final, src_dir_fd=directory, dst_dir_fd=final_directory, follow_symlinks=False)
    except OSError as error:
        # FAT, exFAT and some shares have no links: EPERM there says so, and not that something is forbidden.
        if error.errno not in _NO_LINKS:
            raise
        rename_new(name, directory, final, final_directory)


def rename_new(name: str, directory: int, final: str, final_directory: int) -> None:
    """Rename a file, never over another. Raise FileExistsError, and OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(name), os.fsencode(final)
    if not library.renameat2(directory, names[0], final_directory, names[1], _RENAME_NOREPLACE):
        return
    number = ctypes.get_errno()
    if number not in _NO_RENAMEAT2:
        raise OSError(number, os.strerror(number), final)
    # Some FUSE filesystems can neither. Taking the name first with an empty file would leave that behind after a
    # crash, for a whole one; so we look and then rename: two daemons in the same instant are the lesser evil.
    if stands(final, final_directory):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final)
    os.rename(name, final, src_dir_fd=directory, dst_dir_fd=final_directory)


def stands(name: str, directory: int) -> bool:
    """Whether anything has a name in a directory: a link that leads nowhere too."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
