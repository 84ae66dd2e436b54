"""Destinations behind a program, rclone or restic: how it is watched, and what its words mean for an operator.

A program that moves bytes is never waited for blindly: the caller is told twice a second that it still runs, and
may end it by raising. It is then asked to end before it is made to, because both tidy up at the far end: rclone
gives up a multipart upload that would be billed, restic removes its lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import select
import shutil
import stat
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from arcbackupd.destinations import DestinationError, Transfer
from arcbackupd.destinations.program_errors import damaged, unreadable
from arcbackupd.destinations.transfers import blocks, deliver, open_source
from arcbackupd.errors import OperationFailed
from arcbackupd.stack.command import Command, TimedOut
from arcbackupd.stack.process import Finished, Stream, run

SILENCE_SECONDS = 600.0
"""How long a program may say nothing: restic reads a whole index first, and a far server may hash a large file."""

_TICK_SECONDS = 0.5
_PULSE_SECONDS = 0.25
_GRACE_SECONDS = 10.0
_END_SECONDS = 60.0
_VERSION_SECONDS = 20.0
_BLOCK = 1 << 20
_LINE_LIMIT = 4 << 20

Tick = Callable[[], None]
"""Called at least once a second while a program runs; what it raises ends the program."""


def nothing() -> None:
    """The tick of what is done soon and shan't be ended meanwhile."""


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Let what running a program raises be errors of the destination of that name; never around what isn't ours."""
    try:
        yield
    except TimedOut as error:
        hint = "Look whether its server runs and the network leads there."
        message = f"The destination {name!r} doesn't answer: {error.message}"
        raise DestinationError("destination-unreachable", message, hint=hint, passing=True) from error
    except OperationFailed as error:
        message = f"The destination {name!r} can't be used: {error.message}"
        raise DestinationError("destination-failed", message, hint=error.hint) from error


class Watched:
    """A program at work for the destination of that name, whose output is read."""

    def __init__(self, name: str, stream: Stream, tick: Tick) -> None:
        self._name = name
        self._stream = stream
        self._tick = tick
        self.ended = False

    def blocks(self) -> Iterator[bytes]:
        """Yield what it writes. Raise DestinationError when it says nothing for too long."""
        poll = select.poll()
        poll.register(self._stream, select.POLLIN)
        heard, told = time.monotonic(), 0.0  # it is told at the first word, too
        while True:
            ready = poll.poll(_TICK_SECONDS * 1000)
            now = time.monotonic()
            if not ready or now - told >= _TICK_SECONDS:
                self._tick()
                told = now
            if ready:
                if not (block := self._stream.read(_BLOCK, timeout=None)):
                    return
                heard = now
                yield block
            elif now - heard > SILENCE_SECONDS:
                with _translated(self._name):
                    raise self._stream.silent(SILENCE_SECONDS)

    def lines(self) -> Iterator[str]:
        """Yield the lines that it writes, without their ends; one that is too long is cut."""
        rest = b""
        for block in self.blocks():
            *lines, rest = (rest + block).split(b"\n")
            rest = rest[:_LINE_LIMIT]
            yield from (line.decode("utf-8", "replace") for line in lines)
        if rest:
            yield rest.decode("utf-8", "replace")

    def finish(self) -> Finished:
        """How it ended, after its last byte."""
        self.ended = True
        with _translated(self._name):
            return self._stream.finish(timeout=_END_SECONDS)


@contextlib.contextmanager
def started(name: str, command: Command, tick: Tick, *, errors_too: bool = False) -> Iterator[Watched]:
    """Run a program for the destination of that name.

    Leaving the block before `Watched.finish` ends the program: asked first, then made to.
    """
    with contextlib.ExitStack() as running:
        with _translated(name):
            stream = running.enter_context(Stream(command, errors_too=errors_too))
        watched = Watched(name, stream, tick)
        try:
            yield watched
        finally:
            if not watched.ended:
                stream.interrupt()
                with contextlib.suppress(TimedOut):
                    stream.finish(timeout=_GRACE_SECONDS)


@dataclass(frozen=True)
class LocalFile:
    """A file of this host's for the destination of that name, links followed, with its size as it was then."""

    name: str
    path: Path
    size: int

    @classmethod
    def of(cls, name: str, source: Path) -> LocalFile:
        """Look at what is to be stored in that destination. Raise DestinationError when it is no file."""
        try:
            path = source.resolve(strict=True)
            status = path.stat()
        except OSError as error:
            raise unreadable(name, source, error.strerror or "no reason is known") from error
        if not stat.S_ISREG(status.st_mode):
            raise unreadable(name, source, "it is no file")
        return cls(name, path, status.st_size)

    def hash(self, algorithm: str, tick: Tick) -> str:
        """The hash of its contents, in hexadecimal digits. Raise DestinationError when they can't be read."""
        digest = hashlib.new(algorithm, usedforsecurity=False)
        with open_source(self.name, self.path) as file:
            for block in blocks(self.name, self.path, file):
                digest.update(block)
                tick()
        return digest.hexdigest()


class Pulse:
    """A tick that tells ``advance`` that it goes on, four times a second however often it is called."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._next = time.monotonic() + _PULSE_SECONDS

    def __call__(self) -> None:
        """See the class."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + _PULSE_SECONDS
            self._advance(0)


def fields(line: str) -> dict[str, Any]:
    """The object that a line of JSON holds; empty for any other line."""
    with contextlib.suppress(ValueError):
        if isinstance(value := json.loads(line), dict):
            return cast("dict[str, Any]", value)
    return {}


def receive(
    name: str, key: str, size: int, come: Generator[bytes, None, None], target: BinaryIO, transfer: Transfer
) -> None:
    """Write what a program yields of a file of ``size`` bytes. Raise DestinationError when it isn't all."""
    received = 0
    with contextlib.closing(come):
        for block in come:
            deliver(name, target, block)
            received += len(block)
            transfer.advance(len(block))
    if received != size:
        raise damaged(name, key, f"{received} bytes came of {size}")


def version_problem(program: str, least: tuple[int, int]) -> tuple[str, str] | None:
    """What is wrong with the program that is installed here, and what to do; ``None`` when nothing."""
    wanted = ".".join(map(str, least))
    install = f"apt install {program} (version {wanted} or newer)"
    if shutil.which(program) is None:
        return f"{program} is not installed on this host", install
    try:
        said = run(Command((program, "version")), timeout=_VERSION_SECONDS).output.decode("utf-8", "replace")
    except OperationFailed as error:
        return error.message.rstrip("."), install
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < least:
        return f"{program} is older than {wanted}", install
    return None
