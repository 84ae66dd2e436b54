"""How bytes move: in a thread at their own pace, while the caller's tells how it goes on and may end it.

A kernel that waits for a share and a library that waits for a network tell nobody anything; so what may take long
runs beside the caller, who is free to look in between.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO, TypeVar

from arcbackupd.destinations import PARTIAL, DestinationError, Transfer

BLOCK = 1 << 20
"""Bytes that are moved at once, where no limit asks for less."""

_TELL_SECONDS = 0.5
_BLOCKS_PER_SECOND = 4  # under a limit
_LEAST_BLOCK = 4096

T = TypeVar("T")


class Stopped(Exception):
    """Nobody wants the rest: raised where the bytes move, and never out of `watched`."""


class Meter:
    """Counts what moves and holds it to a limit, in one thread; another one takes the count, and may stop it."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._moved = 0
        self._free_at = time.monotonic()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def block(self) -> int:
        """How many bytes to move at once: so few that a limit makes it steady, not a series of bursts."""
        if self._limit is None:
            return BLOCK
        return min(max(self._limit // _BLOCKS_PER_SECOND, _LEAST_BLOCK), BLOCK)

    def moved(self, count: int) -> None:
        """Count bytes, and wait as long as they have to take. Raise Stopped."""
        with self._lock:
            self._moved += count
        self.pace(count)

    def pace(self, count: int) -> None:
        """Wait as long as bytes have to take that are no progress, as those read again. Raise Stopped."""
        seconds = 0.0
        if self._limit is not None:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._limit
            seconds = self._free_at - now
        if self._stopped.wait(seconds):
            raise Stopped

    def check(self) -> None:
        """Raise Stopped when nobody wants the rest."""
        self.pace(0)

    def take(self) -> int:
        """The bytes counted since this was asked last."""
        with self._lock:
            count, self._moved = self._moved, 0
        return count

    def stop(self) -> None:
        """Let each call that counts or waits raise Stopped from now on."""
        self._stopped.set()


def watched(transfer: Transfer, work: Callable[[Meter], T], undo: Callable[[], None] = lambda: None) -> T:
    """Do ``work`` beside us and return what it returns or raise what it raises, telling ``advance`` all the while.

    What ``advance`` raises is raised once ``work`` has ended: at its next block, or after its own timeout. If it
    was done by then, ``undo`` undoes it as far as it can.
    """
    meter = Meter(transfer.limit)
    with ThreadPoolExecutor(1, thread_name_prefix="transfer") as beside:
        working = beside.submit(work, meter)
        try:
            while not wait([working], timeout=_TELL_SECONDS).done:
                transfer.advance(meter.take())
            if working.exception() is None:
                transfer.advance(meter.take())
        except BaseException:
            meter.stop()
            if working.exception() is None:
                with contextlib.suppress(DestinationError):
                    undo()
            raise
        return working.result()


def parts(name: str, key: str) -> tuple[str, ...]:
    """A key's parts. Raise DestinationError for what is no key: it might name something outside."""
    found = tuple(key.split("/"))
    if not _can_be_named(key) or {"", ".", ".."} & set(found) or found[0] == PARTIAL:
        raise DestinationError("destination-failed", f"{key!r} can't name a file in the destination {name!r}.")
    return found


def _can_be_named(key: str) -> bool:
    try:
        return b"\0" not in os.fsencode(key)
    except UnicodeEncodeError:
        return False


def checked(name: str, key: str) -> str:
    """The key, for what takes it as it is. Raise DestinationError as `parts` does."""
    return "/".join(parts(name, key))


def open_source(name: str, source: Path) -> BinaryIO:
    """Open what is to be stored. Raise DestinationError when it can't be read."""
    try:
        return open(source, "rb", buffering=0)
    except OSError as error:
        raise _unreadable(name, source, error) from error


def blocks(name: str, source: Path, file: BinaryIO, size: int = BLOCK) -> Iterator[bytes]:
    """Yield what is left in a file of ours. Raise DestinationError when it can't be read."""
    while True:
        try:
            block = file.read(size)
        except OSError as error:
            raise _unreadable(name, source, error) from error
        if not block:
            return
        yield block


def _unreadable(name: str, source: Path, error: OSError) -> DestinationError:
    message = f"{source} can't be stored in the destination {name!r}: reading it here failed: {error.strerror}."
    return DestinationError("destination-failed", message, hint="Look at the file, and at this host's own disk.")


def deliver(name: str, target: BinaryIO, block: bytes) -> None:
    """Write bytes that came into a file of ours. Raise DestinationError when that can't be done."""
    try:
        write(target, block)
    except OSError as error:
        message = f"What comes from the destination {name!r} can't be written here: {error.strerror}."
        raise DestinationError("destination-failed", message, hint="Look at this host's own disk.") from error


def write(file: BinaryIO, block: bytes) -> None:
    """Write all of it, also where a file without a buffer takes only a part at once."""
    left = memoryview(block)
    while left:
        left = left[file.write(left) :]


def sha256_of(some: Iterator[bytes], told: Callable[[int], None]) -> str:
    """The SHA-256 of bytes in blocks; ``told`` is told how many, block by block."""
    digest = hashlib.sha256()
    for block in some:
        digest.update(block)
        told(len(block))
    return digest.hexdigest()


def damaged(name: str, key: str) -> DestinationError:
    """What is stored there isn't what was sent."""
    message = f"What arrived as {key} in the destination {name!r} isn't what was sent; it isn't kept there."
    hint = "If it happens again, test the disk, the memory and the network there."
    return DestinationError("destination-damaged", message, hint=hint, passing=True)


def taken(name: str, key: str) -> DestinationError:
    """The key has something under it, and stays as it is."""
    message = f"The destination {name!r} has something under {key} already; it stays as it is."
    hint = "If it is no backup of this installation, move it away there, or give each its own directory."
    return DestinationError("destination-conflict", message, hint=hint)


def lacking(name: str, key: str) -> DestinationError:
    """There is no such file."""
    return DestinationError("destination-lacks", f"The destination {name!r} has no file {key}.")


def changed(name: str, source: Path) -> DestinationError:
    """What is to be stored didn't stay as it was."""
    message = f"{source} can't be stored in the destination {name!r}: it changed meanwhile."
    return DestinationError(
        "destination-failed", message, hint="Only files that don't change any more can be stored."
    )
