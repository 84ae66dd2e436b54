"""The daemon's own directory, and who may work in it: one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from arcbackupd.errors import Busy, OperationFailed
from arcbackupd.files import remove_unfinished


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state directory; two daemons on one would undo each other's work."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_dir / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        hint = "Correct state_dir in the configuration, or the rights of that directory."
        raise OperationFailed("state-dir", f"{state_dir}: {error.strerror}.", hint=hint) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        hint = "`systemctl status arcbackupd` shows it; stop that one first."
        raise Busy("already-running", f"Another arcbackupd uses {state_dir}.", hint=hint) from None
    try:
        with contextlib.suppress(OSError):  # a disk that fails is told by whoever writes to it
            remove_unfinished(state_dir)
        yield
    finally:
        os.close(descriptor)
