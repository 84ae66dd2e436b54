"""A limit on the moment between fork and exec.

What is forked while other threads run is a copy of this process in which those threads' locks stay locked for ever
(fork(2), signal-safety(7)), and `sh` runs Python there. Should it meet such a lock, nothing ends that by itself:
whoever started it waits for the end of a pipe that the copy holds open.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from types import TracebackType


class StartLimit:
    """Watches this thread start a program: what it forked and hasn't become one after so many seconds is killed.

    A context manager, which is left when the program runs or was killed; ``killed`` tells which, once it is left.
    """

    def __init__(self, seconds: float) -> None:
        self._children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
        self._timer = threading.Timer(seconds, self._kill)
        self.killed: list[int] = []

    def __enter__(self) -> StartLimit:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()

    def _kill(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # a kernel made without CONFIG_PROC_CHILDREN
            for pid in filter(_is_copy, map(int, self._children.read_text().split())):
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)


def _is_copy(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return False
