"""Run programs to their end, or speak with them while they run: time limits, bounded output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import sh

from arcbackupd.errors import OperationFailed
from arcbackupd.stack.command import Command, TimedOut
from arcbackupd.stack.descriptors import (
    PIPE_SIZE,
    ROOM,
    memory_file,
    milliseconds,
    null_device,
    open_memory,
    pipe,
    process_file,
    written,
)
from arcbackupd.stack.starting import start

OUTPUT_LIMIT = 16 << 20
"""Bytes of output that a program run to its end may have; those that have more are streamed."""
ERROR_LIMIT = 64 << 10
"""Bytes that are read of what a program says to its error output: the last ones."""
_REAP_SECONDS = 5
_MUCH = PIPE_SIZE // 2
_DRAIN_MILLISECONDS = 2


@dataclass(frozen=True)
class Finished:
    """How a program ended: its status (negative: by that signal) and what it wrote."""

    status: int
    output: bytes
    error: str


def run(command: Command, *, timeout: float, stdin: bytes = b"") -> Finished:
    """Run a program to its end, at most ``timeout`` seconds, and return what it wrote (up to OUTPUT_LIMIT).

    Raise OperationFailed when it can't be started or writes more than that, TimedOut when it doesn't end in time.
    """
    with memory_file(len(stdin)) as source, memory_file(OUTPUT_LIMIT + ROOM) as output, memory_file() as error:
        os.write(source, stdin)
        os.lseek(source, 0, os.SEEK_SET)
        process = start(command, source, output, error)
        try:
            _wait(process, timeout)
        except sh.TimeoutException:
            _kill(process)
            with contextlib.suppress(sh.TimeoutException):
                _wait(process, _REAP_SECONDS)
            raise _timed_out(command, f"did not end within {timeout:g} s") from None
        if written(output) > OUTPUT_LIMIT:
            raise _too_much(command)
        return Finished(process.exit_code, os.pread(output, written(output), 0), _last_words(error))


class _Running:
    """A program at work, what it says to its error output kept. A context manager: leaving it ends the program."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._open: list[int] = []
        self._finished = False
        self._error = self._keep(open_memory(ROOM))

    def begin(self) -> str:
        """See `Output.begin`: there is one way only."""
        return ""

    def interrupt(self) -> None:
        """Ask the program to end, as Ctrl-C does: for one that tidies up elsewhere before it does."""
        _kill(self._process, signal.SIGINT)

    def kill(self) -> None:
        """End the program and what it started, at once; nothing happens when it has ended."""
        _kill(self._process)

    def finish(self, *, timeout: float | None) -> Finished:
        """Wait for its end after the last byte, for ever without a limit. Raise TimedOut when it doesn't come."""
        try:
            _wait(self._process, timeout)
        except sh.TimeoutException:
            self.kill()
            raise _timed_out(self._command, "did not end after its last byte") from None
        self._finished = True
        return Finished(self._process.exit_code, b"", _last_words(self._error))

    def silent(self, seconds: float | None) -> TimedOut:
        """The error for a program that was killed after so many seconds without a word."""
        return _timed_out(self._command, f"wrote nothing for {seconds or 0:g} s")

    def _begin(self, stdin: int, stdout: int, stderr: int | None = None) -> None:
        try:
            self._process = start(self._command, stdin, stdout, self._error if stderr is None else stderr)
        except BaseException:
            self._close()
            raise

    def _end(self) -> None:
        if not self._finished:  # else its process group's number may be somebody else's by now
            self.kill()
        self._close()  # first: one that can't be killed must not wait for us for ever
        self._process.wait()

    def _keep(self, descriptor: int) -> int:
        self._open.append(descriptor)
        return descriptor

    def _close(self) -> None:
        while self._open:
            os.close(self._open.pop())


class Output(Protocol):
    """What a program writes, read while it runs. A context manager: leaving it ends the program."""

    def __enter__(self) -> Output: ...

    def __exit__(self, *_exception: object) -> None: ...

    def begin(self) -> str:
        """Agree on the path of the data, before any come; why it isn't the direct one, if that was tried."""

    def kill(self) -> None:
        """End the program and what it started, at once; nothing happens when it has ended."""

    def read(self, size: int, *, timeout: float | None) -> bytes:
        """The next bytes, at most ``size``; ``b""`` at the end. Raise TimedOut after ``timeout`` silent seconds."""

    def finish(self, *, timeout: float | None) -> Finished:
        """Wait for its end after the last byte, for ever without a limit. Raise TimedOut when it doesn't come."""


class Stream(_Running):
    """A program whose output is read while it runs. A context manager: leaving it ends the program.

    ``errors_too``: what it says to its error output is read with the rest, for one that tells there how it goes on.
    """

    def __init__(self, command: Command, *, errors_too: bool = False) -> None:
        super().__init__(command)
        reader, writer = pipe()
        self._reader = self._keep(reader)
        try:
            with null_device() as null:
                self._begin(null, writer, writer if errors_too else None)
        finally:
            os.close(writer)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()

    def fileno(self) -> int:
        """What can be waited for until it writes."""
        return self._reader

    def read(self, size: int, *, timeout: float | None) -> bytes:
        """See `Output.read`."""
        if timeout is not None and not self._poll.poll(milliseconds(timeout)):
            self.kill()
            raise self.silent(timeout)
        return os.read(self._reader, size)


class InputClosed(Exception):
    """The program reads no more: it ended, and `Dialogue.finish` tells how."""


class Dialogue(_Running):
    """A program that is fed through its input while its output is read. A context manager: leaving it ends it."""

    def __init__(self, command: Command) -> None:
        super().__init__(command)
        source, feed = pipe()
        answers, output = pipe()
        self._feed, self._answers = self._keep(feed), self._keep(answers)
        try:
            self._begin(source, output)
        finally:
            os.close(source)
            os.close(output)
        os.set_blocking(self._feed, False)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)

    def __enter__(self) -> Dialogue:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()

    def write(self, data: bytes | memoryview, hear: Callable[[bytes], None]) -> None:
        """Hand over all of it, and tell what is answered meanwhile. Raise InputClosed when it reads no more."""
        view = memoryview(data)
        self._poll.register(self._feed, 0)
        try:
            while view:
                # A full pipe has room again for every page that is read: to fill each at once costs both sides more
                # than the page. Nothing tells when there is room for many, so that is looked at by and by.
                wait = self._backlog() > _MUCH
                self._poll.modify(self._feed, 0 if wait else select.POLLOUT)
                for descriptor, event in self._poll.poll(_DRAIN_MILLISECONDS if wait else None):
                    if descriptor == self._answers:
                        hear(self._hear())
                    elif event & select.POLLERR:
                        raise InputClosed
                    else:
                        with contextlib.suppress(BlockingIOError):  # somebody else writes there too
                            view = view[os.write(self._feed, view) :]
        except BrokenPipeError:
            raise InputClosed from None
        finally:
            self._poll.unregister(self._feed)

    def _backlog(self) -> int:
        """Bytes that were handed over and that nobody has read yet."""
        return int.from_bytes(fcntl.ioctl(self._feed, termios.FIONREAD, bytes(4)), sys.byteorder)

    def end_input(self) -> None:
        """There is nothing more to hand over."""
        self._open.remove(self._feed)
        os.close(self._feed)

    def fileno(self) -> int:
        """What can be waited for until it answers."""
        return self._answers

    def feed_through(self, pipe: int) -> None:
        """Hand over through this descriptor from now on, which is closed with the rest."""
        self.end_input()
        self._feed = self._keep(pipe)

    def read(self, size: int = PIPE_SIZE, *, timeout: float | None = None) -> bytes:
        """The next answer; see `Output.read`."""
        if timeout is not None and not self._poll.poll(milliseconds(timeout)):
            self.kill()
            raise self.silent(timeout)
        return os.read(self._answers, size)

    def _hear(self) -> bytes:
        answer = os.read(self._answers, PIPE_SIZE)
        if not answer:  # it closed its output, and so will end
            raise InputClosed
        return answer


def _wait(process: sh.RunningCommand, timeout: float | None) -> None:
    """Wait for its end. Raise sh.TimeoutException when it doesn't come."""
    if timeout is not None and hasattr(os, "pidfd_open"):  # a Python made for older systems lacks it
        # sh would look ten times a second, and most of what we run takes less than a tenth.
        with contextlib.suppress(OSError), process_file(process.pid) as descriptor:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            timeout = None if poll.poll(milliseconds(timeout)) else 0
    process.wait(timeout=timeout)


def _kill(process: sh.RunningCommand, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended just now, or is a zombie
        os.killpg(process.pid, number)


def _timed_out(command: Command, what: str) -> TimedOut:
    hint = "See whether the database or the engine hangs: `docker ps`, `docker logs`."
    return TimedOut("timed-out", f"{command.called} {what} and was killed.", hint=hint)


def _too_much(command: Command) -> OperationFailed:
    hint = "Run it by hand to see what it has to say."
    return OperationFailed("too-much-output", f"{command.called} wrote more than can be read.", hint=hint)


def _last_words(descriptor: int) -> str:
    end = written(descriptor)
    raw = os.pread(descriptor, min(end, ERROR_LIMIT), max(0, end - ERROR_LIMIT))
    return raw.decode("utf-8", "backslashreplace").strip()
