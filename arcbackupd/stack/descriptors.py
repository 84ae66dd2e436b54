"""File descriptors of programs that are run: pipes, files in memory, what can be waited for."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

PIPE_SIZE = 1 << 20
"""Bytes that fit into a pipe of ours, where the kernel lets a user have that."""
ROOM = 4 << 20
"""Bytes that a file in memory holds at most, unless it is told otherwise."""
_POLL_LIMIT = (1 << 31) - 1


def pipe() -> tuple[int, int]:
    """The reading and the writing end of a wide pipe, which no program inherits by itself."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    widen(writer)
    return reader, writer


def widen(end: int) -> None:
    """Let more fit into a pipe, so that its ends wait less for each other."""
    with contextlib.suppress(OSError):  # more than a user's limit on pipes: the default size does too
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


def milliseconds(seconds: float) -> float:
    """What `poll` takes: at most 24 days."""
    return min(seconds * 1000, _POLL_LIMIT)


@contextlib.contextmanager
def process_file(pid: int) -> Iterator[int]:
    """A descriptor that can be read from once a process has ended. Raise OSError when there is no such process."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_memory(size: int) -> int:
    """A file in memory that can't grow beyond a size, whatever is written to it; how much was tells its offset."""
    descriptor = os.memfd_create("stream", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    return descriptor


@contextlib.contextmanager
def memory_file(size: int = ROOM) -> Iterator[int]:
    """Such a file, closed at the end."""
    descriptor = open_memory(size)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def null_device() -> Iterator[int]:
    """Where there is nothing to read."""
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def written(descriptor: int) -> int:
    """Bytes that were written to a file in memory."""
    return os.lseek(descriptor, 0, os.SEEK_CUR)
