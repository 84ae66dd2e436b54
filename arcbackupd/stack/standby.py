"""What lets a frozen container go when the daemon can't: a shell that outlives it, and a timer of systemd's."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from arcbackupd.errors import OperationFailed
from arcbackupd.stack.command import Command, TimedOut
from arcbackupd.stack.freezer import Freezer
from arcbackupd.stack.process import run

_SYSTEMD_SECONDS = 10.0
_DISMISS_SECONDS = 5.0
_SCRIPT = 'timeout "$3" cat >/dev/null; echo "$2" >"$1"'
"""cat ends when the last writer of its pipe has, however that came about; timeout ends it in any case."""


class Guard:
    """A shell in a session of its own that lets go when the daemon has ended, or after ``seconds``.

    It needs nothing of the daemon's but its end: no signal, no Python, no configuration.
    """

    def __init__(self, freezer: Freezer, seconds: float) -> None:
        argv = ["/bin/sh", "-c", _SCRIPT, "arcbackupd-hold", str(freezer.file), freezer.thaw_word, f"{seconds:.0f}"]
        self._shell = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath},
            cwd="/",
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Let it let go, and wait for that: it must not come in the middle of the next hold."""
        if self._shell.stdin:
            self._shell.stdin.close()
        try:
            self._shell.wait(_DISMISS_SECONDS)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()


def under_systemd() -> bool:
    """Whether we are a service of systemd's, which ends all that a service started with it."""
    return "INVOCATION_ID" in os.environ and Path("/run/systemd/system").is_dir()


@contextlib.contextmanager
def timer(name: str, freezer: Freezer, seconds: float) -> Iterator[None]:
    """Within it a timer of systemd's stands by, which no end of ours touches. Raise OperationFailed without one.

    One of the same name, which an earlier run of the daemon left, is replaced: it would end this hold too early.
    """
    unit = f"arcbackupd-let-go-{name}"
    _stop(unit)
    let_go = f"echo {freezer.thaw_word} >{shlex.quote(str(freezer.file))}"
    when = (f"--on-active={seconds:.0f}s", "--timer-property=AccuracySec=1s")
    place = ("systemd-run", "--quiet", "--collect", f"--unit={unit}", *when)
    finished = run(Command((*place, "/bin/sh", "-c", let_go)), timeout=_SYSTEMD_SECONDS)
    if finished.status:
        hint = "A shell of the daemon's and ExecStopPost= let the backend go all the same."
        raise OperationFailed("no-timer", f"systemd-run set no timer: {finished.error}", hint=hint)
    try:
        yield
    finally:
        with contextlib.suppress(TimedOut):  # then it fires, and lets go what isn't held any more
            _stop(unit)


def _stop(unit: str) -> None:
    run(Command(("systemctl", "stop", f"{unit}.timer")), timeout=_SYSTEMD_SECONDS)
