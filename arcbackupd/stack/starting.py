"""Start programs: an environment built from nothing, and a limit on the moment between fork and exec.

What `sh` must not do here: copy output through itself (it keeps it in memory, and reads a TTY at 37 MiB/s), raise
exceptions or log lines that carry the whole argument list, or share our session, so that a signal meant for
the daemon ends a dump first. Hence descriptors for all three streams, ``_bg_exc=False`` and ``_new_session=True``.

What is forked while other threads run is a copy of this process in which those threads' locks stay locked for ever
(fork(2), signal-safety(7)), and `sh` runs Python there. Should it meet such a lock, nothing ends that by itself:
whoever started it waits for the end of a pipe that the copy holds open.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import threading
import traceback
from pathlib import Path
from types import TracebackType

import sh

from arcbackupd.errors import OperationFailed
from arcbackupd.stack.command import Command, TimedOut

START_SECONDS = 15
"""Seconds that a program may take to become one; tried once more, as nothing of it has run."""
_STARTS = 2
_KNOWN_SH = "2.4.0"
_ANY_STATUS = tuple(range(-64, 256))
_INHERITED = (
    "PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH",
)  # fmt: skip


def start(command: Command, stdin: int, stdout: int, stderr: int) -> sh.RunningCommand:
    """Start it with these three streams. Raise OperationFailed when it can't be, TimedOut when it never begins."""
    program = shutil.which(command.argv[0])
    if program is None:
        raise _not_installed(command.argv[0])
    if command.cwd and not (Path(command.cwd).is_dir() and os.access(command.cwd, os.X_OK)):
        raise _not_started(command)
    for _ in range(_STARTS):
        process = _start_once(command, program, stdin, stdout, stderr)
        if process is not None:
            return process
    raise _start_hung(command)


def _start_once(command: Command, program: str, stdin: int, stdout: int, stderr: int) -> sh.RunningCommand | None:
    """Start it; None when it had to be killed before it was the program."""
    limit = StartLimit(START_SECONDS)
    process: sh.RunningCommand | None = None
    try:
        with limit:
            process = sh.Command(
                program
            )(  # type: ignore[call-overload]  # its hints lack descriptors for _in
                *command.argv[1:],
                _in=stdin,
                _out=stdout,
                _err=stderr,
                _env=_environment(command),
                _cwd=command.cwd,
                _bg=True,
                _bg_exc=False,
                _new_session=True,
                _ok_code=_ANY_STATUS,
            )
    except RuntimeError as error:  # the host has no thread left, of which sh needs one more once the program runs
        limit.undo()
        raise _no_thread(command) from error
    except (sh.ForkException, OSError) as error:  # its text is a traceback
        _tidy_up(error)
        if isinstance(error, sh.ForkException):
            limit.undo()
        raise _not_started(command) from None
    except ValueError as error:  # what was killed had not yet told sh its session
        if not limit.killed:
            raise
        _tidy_up(error)
    if not limit.killed:
        return process
    if process is not None:
        process.wait()
    else:
        os.waitpid(limit.killed[0], 0)
    return None


def _tidy_up(failed: BaseException) -> None:
    """Do what sh leaves undone when a start fails in its hands: close what it opened, collect garbage again.

    No more than what it hasn't closed at that place, as another number may be somebody else's by now; so nothing
    where another version of it may have closed more.
    """
    gc.enable()
    if sh.__version__ != _KNOWN_SH:
        return
    frames = (frame for frame, _ in traceback.walk_tb(failed.__traceback__))
    for frame in filter(lambda frame: frame.f_code.co_qualname == "OProc.__init__", frames):
        names = ["session_pipe_read"]
        if not isinstance(failed, ValueError):
            names.append("session_pipe_write")
        found = [frame.f_locals.get(name) for name in names]
        if isinstance(failed, OSError):  # there was no fork
            process = frame.f_locals["self"]
            found += [frame.f_locals.get(name) for name in ("exc_pipe_read", "exc_pipe_write")]
            found += [getattr(process, f"_std{name}_child_fd", None) for name in ("in", "out", "err")]
        for descriptor in found:
            if descriptor is not None:
                os.close(descriptor)


def _environment(command: Command) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # A service has no home, and its user needn't have one, or may not see it; podman, unless it may mount, ends
    # where there is none.
    home = inherited.pop("HOME", "/")
    home = home if os.path.isdir(home) else "/"  # noqa: PTH112  (pathlib's raises where it may not look)
    return {"PATH": os.defpath, "HOME": home, **inherited, "LC_ALL": "C.UTF-8", **command.environment}


class StartLimit:
    """Watches this thread start a program: what it forked and hasn't become one after so many seconds is killed.

    A context manager, which is left when the program runs or was killed; ``killed`` tells which, once it is left.
    For one that runs although its start failed there is `undo`.
    """

    def __init__(self, seconds: float) -> None:
        self._children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
        self._timer = threading.Timer(seconds, self._kill)
        self._before: set[int] | None = None
        self.killed: list[int] = []

    def __enter__(self) -> StartLimit:
        self._before = self._forked()
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()

    def undo(self) -> None:
        """End what this thread has started since, and what that did."""
        for pid in self._forked() - self._before if self._before is not None else ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _kill(self) -> None:
        for pid in filter(_is_copy, self._forked()):
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)

    def _forked(self) -> set[int]:
        try:
            return set(map(int, self._children.read_text().split()))
        except FileNotFoundError:  # a kernel made without CONFIG_PROC_CHILDREN
            return set()


def _is_copy(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return False


def _not_started(command: Command) -> OperationFailed:
    place = f" in {command.cwd}" if command.cwd else ""
    hint = "The program, what interprets it and its directory must be there, and open to the daemon's user."
    return OperationFailed("not-started", f"{command.called} can't be started{place}.", hint=hint)


def _no_thread(command: Command) -> OperationFailed:
    hint = "The limit of the unit's tasks is reached, or the host's: `systemctl status arcbackupd`."
    return OperationFailed("not-started", f"{command.called} can't be started: no thread is left.", hint=hint)


def _start_hung(command: Command) -> TimedOut:
    hint = "The host is overloaded, or the daemon is stuck: `systemctl restart arcbackupd` starts it afresh."
    took = f"{_STARTS} times {START_SECONDS:g} s"
    return TimedOut("start-hung", f"{command.called} did not begin to run in {took}; nothing of it ran.", hint=hint)


def _not_installed(program: str) -> OperationFailed:
    name = program.rpartition("/")[2]
    hint = f"Install {name}, or correct PATH in the unit's environment."
    return OperationFailed("not-installed", f"{name} is not installed on this host.", hint=hint)
