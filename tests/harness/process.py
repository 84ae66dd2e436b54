"""Running commands and waiting for conditions: always a limit, always an error that tells."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class CommandFailed(AssertionError):
    """A command of the harness failed, or took too long; the text has its last words."""


class DeadlinePassed(AssertionError):
    """Something that was waited for didn't happen in time."""


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run `argv` and return what it said; `env` is laid over our own environment.

    Raise CommandFailed when it takes longer than `timeout`, or fails and `check` is set.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"took longer than {timeout:g} s: {_shown(argv)}") from error
    except FileNotFoundError as error:
        raise CommandFailed(f"{argv[0]} isn't installed") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-3000:]
        raise CommandFailed(f"exit status {done.returncode} of {_shown(argv)}: {said}")
    return done


def wait_until(condition: Callable[[], T], what: str, *, seconds: float = 30, interval: float = 0.05) -> T:
    """Return the first truthy answer of `condition`.

    Raise DeadlinePassed, naming `what` was waited for, when there is none within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise DeadlinePassed(f"waited {seconds:g} s in vain for {what}")
        time.sleep(interval)
    return answer


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold `lock` against every other process of the harness."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _shown(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    return text if len(text) < 500 else f"{text[:500]}…"
