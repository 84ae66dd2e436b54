"""The daemon, which kills itself where it is told to: `python -m tests.harness.dying --config …`.

Where, is told by the file that $DYING_AT names, read anew at every place: lines such as `before:swap` and
`undone:close` for the steps of a restore, `step:prove` for what any operation tells, and `change:7` for the moment
before the seventh change of a name, a mode or an owner beside that file or below (backups, state), counted down in
it. Each line is taken away as the daemon comes there; at the last one it dies, as by `kill -9`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arcbackupd.operations.restore.run  # noqa: F401  # with it come all the steps that there are
from arcbackupd.__main__ import main
from arcbackupd.operations.events import Step, Steps
from arcbackupd.operations.restore.work import RestoreStep
from tests.harness.faked_clock import install

VARIABLE = "DYING_AT"

_CHANGES = frozenset({"os.link", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.chown", "os.utime", "open"})
"""What Python tells an audit hook of before it is done."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_counting = threading.local()
_counter = threading.Lock()

Doing = Callable[[RestoreStep], Steps[None]]


def make_mortal() -> None:
    """Let every step there is look, before and after, and every change before it, whether it is time to die."""
    tell = Step.__init__

    def told(step: Step, name: str, text: str) -> None:
        tell(step, name, text)
        _arrive(f"step:{name}")

    Step.__init__ = told  # type: ignore[method-assign,assignment]
    sys.addaudithook(_audited)
    for kind in _kinds(RestoreStep):
        for verb, before, after in (("run", "before", "after"), ("undo", "undoing", "undone")):
            if verb in kind.__dict__:
                setattr(kind, verb, _watched(kind.__dict__[verb], before, after))


def _kinds(kind: type[RestoreStep]) -> Iterator[type[RestoreStep]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _watched(doing: Doing, before: str, after: str) -> Doing:
    def watched(step: RestoreStep, *arguments: Any) -> Steps[None]:
        _arrive(f"{before}:{step.name}")
        yield from doing(step, *arguments)
        _arrive(f"{after}:{step.name}")

    return watched


def _arrive(place: str) -> None:
    told = Path(os.environ[VARIABLE])
    if not told.exists():
        return
    first, *rest = told.read_text(encoding="ascii").split()
    if first != place:
        return
    if rest:
        told.write_text("\n".join(rest), encoding="ascii")
    else:
        told.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _audited(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _CHANGES or getattr(_counting, "busy", False) or not _is_ours(event, arguments):
        return
    _counting.busy = True  # what is opened here to count isn't counted
    try:
        with _counter:
            _count_down()
    finally:
        _counting.busy = False


def _is_ours(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open" and not arguments[2] & _WRITING:
        return False
    path = arguments[0]
    return isinstance(path, int) or os.fsdecode(path).startswith(str(Path(os.environ[VARIABLE]).parent))


def _count_down() -> None:
    told = Path(os.environ[VARIABLE])
    try:
        place, _, left = told.read_text(encoding="ascii").partition(":")
    except FileNotFoundError:
        return
    if place != "change":
        return
    if int(left) > 1:
        told.write_text(f"change:{int(left) - 1}", encoding="ascii")
    else:
        _arrive(f"change:{left}")


if __name__ == "__main__":
    install()
    if VARIABLE in os.environ:
        make_mortal()
    main()
