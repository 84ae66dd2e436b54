"""The real daemon as a process beside a real stack, and the real client to talk to it.

with Daemon(stack, jobs={"dump": {"schedule": "every 2s"}}) as daemon:
    daemon.wait_backups(1)
    daemon.json("list")["backups"]
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness.process import CommandFailed, DeadlinePassed, wait_until
from tests.harness.stack import ArcsecondStack

LOCK = ".arcbackupd.lock"
"""The only hidden name that the daemon leaves among the backups."""

READY_SECONDS = 30.0
STOP_SECONDS = 30.0
_OURS = ("ARCBACKUPD_", "DOCKER_", "CONTAINER_", "NOTIFY_", "JOURNAL_", "LISTEN_", "WATCHDOG_")
"""Beginnings of variables that a daemon under test must not inherit from whoever runs the tests."""


@dataclass(frozen=True)
class Answer:
    """How a run of the client ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Return what it printed, read as JSON."""
        return dict(json.loads(self.out))


class Daemon:
    """`python -m arcbackupd` on a stack; use as a context manager, or start and stop it by hand."""

    module = "arcbackupd"
    """What Python runs."""
    wrapper: Sequence[str] = ()
    """A program, with its arguments, that becomes the daemon."""

    def __init__(
        self,
        stack: ArcsecondStack,
        *,
        environment: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """Plan a daemon with the stack's settings; tables in `settings` are merged in.

        `environment` is laid over our own, for the daemon only.
        """
        self.stack = stack
        self._environment = dict(environment or {})
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    # Life

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        orphans = self._children()
        self.kill()
        for pid in orphans:  # the engine's event stream, say, which outlives a crash until its next event
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _children(self) -> list[int]:
        if self._process is None:
            return []
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    @property
    def pid(self) -> int:
        """Return the id of the running process."""
        if self._process is None:
            raise RuntimeError("the daemon doesn't run")
        return self._process.pid

    @property
    def config(self) -> Path:
        """Return the path of the configuration file, written anew at every start."""
        return self.stack.directory / "config.toml"

    def configure(self, **settings: Any) -> None:
        """Lay further settings over those there are and write the file; a running daemon has the old ones."""
        self._settings = self.stack.settings(**{**self._settings, **settings})
        self.config.write_text(self.stack.settings_toml(**self._settings), encoding="utf-8")

    def start(self) -> None:
        """Start the daemon and wait until it says that it is ready."""
        self.configure()
        self._log_start = self._log_file.stat().st_size if self._log_file.exists() else 0
        with _notify_socket(self.stack.directory / "notify.sock") as notify:
            with self._log_file.open("ab") as log:
                self._process = subprocess.Popen(
                    [*self.wrapper, sys.executable, "-m", self.module, "--config", str(self.config)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**_clean_environment(), **self._environment, "NOTIFY_SOCKET": str(_path(notify))},
                )
            try:
                wait_until(lambda: self._said_ready(notify), "the daemon to be ready", seconds=READY_SECONDS)
            except BaseException:
                self.kill()
                raise

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Ask the daemon to end, as systemd does, and return its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def runs(self) -> bool:
        """Return whether the daemon runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end of the process and return its exit status."""
        if self._process is None:
            raise RuntimeError("the daemon doesn't run")
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            raise DeadlinePassed(f"the daemon didn't end within {seconds:g} s:\n{self.log()}") from error
        self._process = None
        return status

    def kill(self) -> None:
        """End the daemon as a crash does; nothing happens when it doesn't run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop it properly and start it again."""
        self.stop()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        os.kill(self.pid, number)

    # The client

    def ctl(self, *arguments: str, status: int | None = 0, timeout: float = 120) -> Answer:
        """Run `arcbackupctl`. Raise CommandFailed when it ends with another status than `status`."""
        try:
            done = subprocess.run(
                _ctl(arguments), env=self._client_environment(), capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise DeadlinePassed(f"{error}; {self._last_words()}") from error
        if status is not None and done.returncode != status:
            raise CommandFailed(
                f"arcbackupctl {' '.join(arguments)} ended with {done.returncode}, not {status}:"
                f"\n{done.stdout}{done.stderr}\nThe daemon's log:\n{self.log()}"
            )
        return Answer(done.returncode, done.stdout, done.stderr)

    def program(self, *arguments: str, timeout: float = 120) -> Answer:
        """Run `arcbackupd …` with the daemon's configuration, as an operator does by hand."""
        argv = [sys.executable, "-m", "arcbackupd", "--config", str(self.config), *arguments]
        done = subprocess.run(argv, env=_clean_environment(), capture_output=True, text=True, timeout=timeout)
        return Answer(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str, status: int | None = 0, timeout: float = 120) -> dict[str, Any]:
        """Run `arcbackupctl … --json` and return its answer."""
        return self.ctl(*arguments, "--json", status=status, timeout=timeout).json

    def listed(self) -> list[dict[str, Any]]:
        """Return the rows of `arcbackupctl list --json`, newest first."""
        return list(self.json("list")["backups"])

    @contextmanager
    def client(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run `arcbackupctl` beside the test; its output lines can be read as they come."""
        with subprocess.Popen(
            _ctl(arguments),
            env={**self._client_environment(), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    # What it did

    def log(self) -> str:
        """Return what the daemon wrote since it was last started."""
        with self._log_file.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode("utf-8", "replace")

    def log_lines(self, text: str) -> list[str]:
        """Return the lines of its log that contain `text`."""
        return [line for line in self.log().splitlines() if text in line]

    def wait_log(self, text: str, seconds: float = 30) -> str:
        """Wait for a line of its log that contains `text`, and return the newest."""

        def found() -> list[str]:
            self.require_running()
            return self.log_lines(text)

        try:
            return wait_until(found, f"the daemon to say {text!r}", seconds=seconds)[-1]
        except DeadlinePassed as error:
            raise DeadlinePassed(f"{error}; it said:\n{self.log()}") from error

    def names(self) -> list[str]:
        """Return the names of the backups in their directory, oldest first."""
        return [name for name in self._directory() if not name.startswith(".")]

    def leftovers(self) -> list[str]:
        """Return the hidden names among the backups that should not be there."""
        return [name for name in self._directory() if name.startswith(".") and name != LOCK]

    def path(self, name: str) -> Path:
        """Return the path of a backup."""
        return self.stack.backups / name

    def wait_backups(self, count: int, seconds: float = 90) -> list[str]:
        """Wait until there are that many backups, or more, and return their names, oldest first."""
        try:
            wait_until(lambda: len(self.names()) >= count, f"{count} backups", seconds=seconds)
        except DeadlinePassed as error:
            raise DeadlinePassed(f"{error}; there are {self.names()}; the daemon said:\n{self.log()}") from error
        return self.names()

    def wait_boot_dumps(self, count: int, seconds: float = 90) -> list[str]:
        """Wait until there are that many backups and the daemon has noted that the newest was a boot's."""
        names = self.wait_backups(count, seconds)
        newest = self.path(names[-1])
        memory = self.stack.state_dir / "boot.json"

        def noted() -> bool:
            self.require_running()
            return memory.exists() and memory.stat().st_mtime_ns >= newest.stat().st_ctime_ns

        try:
            wait_until(noted, "the boot's dump to be noted", seconds=seconds)
        except DeadlinePassed as error:
            raise DeadlinePassed(f"{error}; the daemon said:\n{self.log()}") from error
        return names

    def children(self, *words: str) -> list[int]:
        """Return the daemon's child processes whose command lines hold all these words."""
        return [pid for pid in _children(self.pid) if set(words) <= set(_cmdline(pid))]

    def require_running(self) -> None:
        """Raise CommandFailed with its last words when the daemon has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise CommandFailed(f"the daemon ended with {self._process.returncode}:\n{self.log()}")

    # Inside

    def _last_words(self) -> str:
        """End a daemon that hangs in the way that lets it tell where each of its threads was."""
        if self._process is not None:
            self.signal(signal.SIGABRT)
            self.wait()
        return f"the daemon said:\n{self.log()}"

    @property
    def _log_file(self) -> Path:
        return self.stack.directory / "daemon.log"

    def _directory(self) -> list[str]:
        present = self.stack.backups.iterdir() if self.stack.backups.is_dir() else ()
        return sorted(path.name for path in present)

    def _client_environment(self) -> dict[str, str]:
        return {**_clean_environment(), "ARCBACKUPD_SOCKET": str(self.stack.control_socket)}

    def _said_ready(self, notify: socket.socket) -> bool:
        running = self.runs()  # asked first: what it says and then ends at once counts as said
        readable, _, _ = select.select([notify], [], [], 0)
        if readable and b"READY=1" in notify.recv(4096).splitlines():
            return True
        if not running and not readable:
            self.require_running()
        return False


@contextmanager
def _notify_socket(path: Path) -> Iterator[socket.socket]:
    """Listen as systemd does for sd_notify."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        yield listener
    path.unlink(missing_ok=True)


def _path(listener: socket.socket) -> Path:
    return Path(str(listener.getsockname()))


def _ctl(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "arcbackupd.ctl.main", *arguments]


def _clean_environment() -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    return {**inherited, "NO_COLOR": "1"}


def _children(pid: int) -> list[int]:
    """Return the ids of a process's children, whichever of its threads started them."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text(encoding="ascii").split())
        except OSError:  # the thread has ended
            continue
    return found


def _cmdline(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []
