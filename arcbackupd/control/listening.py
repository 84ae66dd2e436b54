"""The socket file: born with the right owner and mode, and taken away only when it is ours."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.errors import OperationFailed, UsageError

BACKLOG = 128
_PATH_BYTES = 107  # sun_path, less its closing NUL


@dataclass
class Listener:
    """A listening socket, and what to know about it."""

    socket: socket.socket
    path: Path | None = None
    """The file to remove at the end; None for an inherited socket, which is somebody else's."""
    notice: str = ""
    """A sentence for the journal; empty when all is as configured."""
    hint: str = ""
    _identity: tuple[int, int] | None = None

    def close(self) -> None:
        """Stop listening. Remove the file unless it isn't the one we made any more."""
        self.socket.close()
        if self.path is not None and _identity(self.path) == self._identity:
            with suppress(FileNotFoundError):
                self.path.unlink()


def inherited(listening: socket.socket) -> Listener:
    """Wrap a socket that systemd listens on for us. Raise UsageError when it is no listening Unix stream socket."""
    unix = listening.family == socket.AF_UNIX and listening.type == socket.SOCK_STREAM
    if not unix or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError(
            "socket-not-usable",
            "The socket handed over by systemd is not a listening Unix stream socket.",
            hint="arcbackupd.socket must have one ListenStream= with a path; compare it with the one shipped.",
        )
    listening.setblocking(False)
    return Listener(listening)


def listen(path: Path, group: str | None) -> Listener:
    """Listen at ``path``, for root (or whoever runs this) and ``group``. Blocks; call it before serving.

    The mode is 0660 with the group, and 0600 without one, or with one that the host doesn't have or
    that we can't give; the Listener's notice then says so. Raise OperationFailed when another daemon
    listens there, UsageError when nothing can.
    """
    _check_length(path)
    gid = _gid_of(group)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _clear(path)
        return _listen(path, group, gid)
    except OSError as error:
        raise UsageError(
            "socket-not-usable",
            f"The control socket {path} can't be made: {error.strerror or error}.",
            hint="Its directory must exist and be writable for the daemon; see [control] socket, and df.",
        ) from error


def _listen(path: Path, group: str | None, gid: int | None) -> Listener:
    # Why nobody can slip in: until listen() every connect is refused, whoever asks. So owner and mode
    # only have to be right before that. The mode comes from the umask, at birth, and no chmod follows;
    # only the group is given after, which at worst is the daemon's own meanwhile. (The umask is the whole
    # process's: a file made by another thread just now gets less than it asked for, never more.)
    if gid is not None:
        with suppress(PermissionError):
            return _bind(path, mask=0o117, gid=gid)
    listener = _bind(path, mask=0o177, gid=None)
    if group is not None:
        why = "does not exist on this host" if gid is None else "can't be given to it by this user"
        listener.notice = f"The control socket {path} is for its owner alone: the group {group} {why}."
        listener.hint = f"To let others look and take backups: sudo groupadd --system {group}, restart arcbackupd."
    return listener


def _bind(path: Path, *, mask: int, gid: int | None) -> Listener:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(mask)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        if gid is not None:
            _give(path, gid)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return Listener(listening, path, _identity=_identity(path))


def _give(path: Path, gid: int) -> None:
    try:
        os.chown(path, -1, gid)
    except OSError as error:
        path.unlink()
        raise PermissionError(error.errno, error.strerror) from error


def _clear(path: Path) -> None:
    """Remove the socket of a daemon that is gone. Raise when it is alive, or when this is no socket."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(
                "socket-not-usable",
                f"{path} is there already, and is not a socket; it was left alone.",
                hint="Move it away, or set another path: [control] socket.",
            )
        if _answers(path):
            raise OperationFailed(
                "already-running",
                f"Another daemon listens on {path}.",
                hint="See which: systemctl status arcbackupd, or sudo ss -xlp. Only one may run here.",
            )
        path.unlink()


def _answers(path: Path) -> bool:
    # Anything but a refusal counts as alive: a full backlog says EAGAIN, for one.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise UsageError(
            "socket-not-usable",
            f"The path of the control socket is longer than the {_PATH_BYTES} bytes that Linux allows: {path}",
            hint="Set a shorter one: [control] socket.",
        )


def _gid_of(group: str | None) -> int | None:
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
