"""What a filesystem's error numbers mean for a destination that is on one, and what to do about them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from arcbackupd.destinations import DestinationError

NO_WAY = (errno.ENOTDIR, errno.ELOOP)
"""A part of the way is a file, or a link, which isn't followed."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_AWAY = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENODEV,
        errno.ENXIO,
        errno.EREMOTEIO,
        errno.ESHUTDOWN,
    }
)


@contextmanager
def explained(name: str, doing: str) -> Iterator[None]:
    """Turn what fails inside into a DestinationError that names the destination, and what was being done."""
    try:
        yield
    except OSError as error:
        code, hint = meaning(error.errno)
        message = f"The destination {name!r} failed while {doing}: {error.strerror or type(error).__name__}."
        raise DestinationError(code, message, hint=hint, passing=code == "destination-unreachable") from error


def meaning(number: int | None) -> tuple[str, str]:
    """The code of an error number, and what to do about it."""
    if number in _FULL:
        return "destination-full", "Make room there, or keep fewer dumps."
    if number == errno.EROFS:
        return "destination-denied", "Mount it for writing; the kernel itself mounts a damaged disk read-only."
    if number in _DENIED:
        return "destination-denied", "Give the daemon's user the right to write there."
    if number in _AWAY:
        return "destination-unreachable", "Look whether the disk, or the server behind it, is there."
    return "destination-failed", "Look at the disk or the share, and at the kernel's log."
