"""The direct path: a named pipe inside the container, which the host opens through ``/proc/PID/root``.

The engine's stream of a ``docker exec`` goes through the client, the engine, its shim and two sockets; a pipe goes
through the kernel alone. What runs is still ``docker exec``: its client tells how the program ended and what it
said, and its input and output are the stream that is used where the pipe can't be.

The container isn't trusted. The pipe is made in a directory of its own, mode 0700, that is new and has a random
name; it is opened part by part without following links, proved to be a pipe before it is opened to read or write,
and never waited for. Both ends open, its name is removed before the program's first byte.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.stack.command import Command
from arcbackupd.stack.descriptors import milliseconds, widen
from arcbackupd.stack.process import Dialogue, Finished, InputClosed

PLACES = ("/tmp", "/dev/shm", "/var/tmp")  # noqa: S108  # of the container, not of the host
_PREFIX = "arcbackupd-pipe-"
_PIPE = "pipe"
_OUT, _IN = "out", "in"
_ANSWER_SECONDS = 60.0
_ANSWER_LIMIT = 4096
_SCRIPT = f"""\
umask 077
way=$1 name=$2 own=
shift 2
trap 'exit 1' HUP INT TERM
trap 'test -z "$own" || rm -rf "$own"' EXIT
for place in {" ".join(PLACES)}; do
    find "$place" -maxdepth 1 -type d -name '{_PREFIX}*' -mmin +60 -exec \\
        sh -c 'rm -f "$1/{_PIPE}"; rmdir "$1"' sweep {{}} \\; 2>/dev/null
    mkdir "$place/$name" 2>/dev/null || continue
    own=$place/$name
    mkfifo "$own/{_PIPE}" 2>/dev/null && break
    rmdir "$own"
    own=
done
test -z "$own" || exec 3<>"$own/{_PIPE}"
echo "${{own:-none}}"
IFS= read -r path || exit 1
if test "$path" = direct; then
    if test "$way" = {_OUT}; then exec >"$own/{_PIPE}"; else exec <"$own/{_PIPE}"; fi
fi
exec 3>&-
test -z "$own" || rm -rf "$own"
test "$way" = {_IN} || exec </dev/null
trap - EXIT HUP INT TERM
exec "$@"
"""
"""Runs a program with a pipe in place of its output or input, if so told by a line of its input.

Descriptor 3 has both ends, so that neither side waits for the other to open; an input that ends instead of telling
means that nobody is there any more. What a killed container left is swept an hour later.
"""


class Unreachable(Exception):
    """The pipe can't be had or isn't trusted; the text says why."""


def open_pipe(root: Path, directory: str, name: str, flags: int) -> int:
    """Open a pipe that the script made in a container whose root directory is seen at ``root``.

    ``directory`` is what the container says; ``flags`` read or write. Raise Unreachable.
    """
    place = directory.removesuffix(f"/{name}")
    if place not in PLACES or directory == place:
        raise Unreachable("the container can't make a pipe")
    with contextlib.ExitStack() as opened:

        def step(part: str | Path, flag: int, parent: int | None = None) -> int:
            descriptor = os.open(part, os.O_PATH | os.O_CLOEXEC | flag, dir_fd=parent)
            opened.callback(os.close, descriptor)
            return descriptor

        try:
            here = step(root, os.O_DIRECTORY)
            if os.path.samestat(os.fstat(here), Path("/").stat()):
                raise Unreachable("its process is not one of a container")
            for part in [*place.strip("/").split("/"), name]:
                here = step(part, os.O_DIRECTORY | os.O_NOFOLLOW, here)
            pipe = step(_PIPE, os.O_NOFOLLOW, here)
            _check(os.fstat(here), os.fstat(pipe))
            # What was checked is what is opened: by its descriptor, not by its name.
            end = os.open(f"/proc/self/fd/{pipe}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Unreachable(f"{root} can't be reached: {error.strerror}") from error
    widen(end)
    return end


def _check(directory: os.stat_result, pipe: os.stat_result) -> None:
    if not stat.S_ISFIFO(pipe.st_mode):
        raise Unreachable("what stands there is no pipe")
    if stat.S_IMODE(directory.st_mode) != 0o700 or pipe.st_nlink != 1 or pipe.st_uid != directory.st_uid:
        raise Unreachable("its pipe is open to others")


@dataclass(frozen=True)
class DirectPath:
    """How programs are started for it: ``make`` makes the command that runs an argument list in the container, fed.

    ``root`` tells where the container's root directory is seen; ``forced``: there must be no other path.
    """

    make: Callable[[tuple[str, ...]], Command]
    root: Callable[[], Path]
    forced: bool

    def start(self, argv: tuple[str, ...], way: str) -> tuple[str, Command]:
        """The name of the pipe's directory, and the command that makes it and then becomes ``argv``."""
        name = _PREFIX + secrets.token_hex(16)
        script = ("sh", "-c", _SCRIPT, "arcbackupd", way, name, *argv)
        return name, replace(self.make(script), name=argv[0])

    def agree(self, client: Dialogue, name: str, flags: int) -> tuple[int | None, str]:
        """Our end of the pipe, or why there is none; the program goes on with what was agreed.

        Raise InputClosed when it ended, TimedOut when it doesn't answer, and OperationFailed where nothing but the
        direct path will do.
        """
        directory = _answer(client)
        pipe, why = None, ""
        try:
            pipe = open_pipe(self.root(), directory, name, flags)
        except Unreachable as unreachable:
            why = str(unreachable)
        except ArcbackupdError as error:
            if self.forced:
                raise
            why = error.message.rstrip(".")
        if why and self.forced:
            hint = 'Run the daemon on the engine\'s host, as its unit does; or set engine.data_path = "auto".'
            raise OperationFailed("no-direct-path", f"The direct path can't be used: {why}.", hint=hint)
        try:
            client.write(b"stream\n" if pipe is None else b"direct\n", lambda _: None)
        except BaseException:
            if pipe is not None:
                os.close(pipe)
            raise
        return pipe, why


class DirectOutput:
    """A program in a container whose output comes through a pipe of the kernel's; see `Output`."""

    def __init__(self, path: DirectPath, argv: tuple[str, ...]) -> None:
        self._path = path
        self._name, command = path.start(argv, _OUT)
        self._client = Dialogue(command)
        self._pipe: int | None = None

    def __enter__(self) -> DirectOutput:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
        self._client.__exit__(*exception)

    def begin(self) -> str:
        """See `Output.begin`."""
        try:
            self._pipe, why = self._path.agree(self._client, self._name, os.O_RDONLY)
        except InputClosed:
            return ""
        if self._pipe is not None:
            self._poll = select.poll()
            self._poll.register(self._pipe, select.POLLIN)
            self._poll.register(self._client, select.POLLIN)
        return why

    def kill(self) -> None:
        """See `Output.kill`."""
        self._client.kill()

    def read(self, size: int, *, timeout: float | None) -> bytes:
        """See `Output.read`. The end of the engine's client is an end too: nobody tells then how it went on."""
        if self._pipe is None:
            return self._client.read(size, timeout=timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else milliseconds(max(deadline - time.monotonic(), 0))
            ready = [descriptor for descriptor, _ in self._poll.poll(left)]
            if not ready:
                self.kill()
                raise self._client.silent(timeout)
            with contextlib.suppress(BlockingIOError):
                if self._pipe in ready:
                    return os.read(self._pipe, size)
            if self._client.fileno() in ready and not self._client.read():
                return self._what_is_left(self._pipe, size)

    def _what_is_left(self, pipe: int, size: int) -> bytes:
        try:
            return os.read(pipe, size)
        except BlockingIOError:  # what it was the client of may go on without it
            return b""

    def finish(self, *, timeout: float | None) -> Finished:
        """See `Output.finish`."""
        return self._client.finish(timeout=timeout)


class DirectDialogue(Dialogue):
    """A program in a container that is fed through a pipe of the kernel's."""

    def __init__(self, path: DirectPath, argv: tuple[str, ...]) -> None:
        self._path = path
        self._name, command = path.start(argv, _IN)
        super().__init__(command)

    def begin(self) -> str:
        """See `Output.begin`."""
        try:
            pipe, why = self._path.agree(self, self._name, os.O_WRONLY)
        except InputClosed:  # it ended: how, it tells whoever goes on
            return ""
        if pipe is not None:
            self.feed_through(pipe)
        return why


def _answer(client: Dialogue) -> str:
    """The line that the script writes: where its pipe is. Raise InputClosed when it ends without one."""
    line = b""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while b"\n" not in line:
        if len(line) > _ANSWER_LIMIT:
            client.kill()
        if not (more := client.read(timeout=max(deadline - time.monotonic(), 0))):
            raise InputClosed
        line += more
    return line.partition(b"\n")[0].decode("ascii", "replace")
