"""How much of the processor and of memory an input may cost."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class TooSlow(BaseException):
    """An input took more of the processor than it may; no handler of the code under test catches it."""


@contextmanager
def processor_seconds(seconds: float) -> Iterator[None]:
    """Raise TooSlow where so much of the processor is used up; a busy machine makes nothing too slow."""
    previous = signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


class Peak:
    """The most memory that the process holds from its making on, in bytes beyond what it held then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets the peak back to the present
        self._before = _highest()

    def bytes(self) -> int:
        """The peak so far."""
        return _highest() - self._before


def _highest() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def limit_memory(more: int) -> None:
    """From now on the process gets so many bytes more, and then a MemoryError, before others suffer."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
