"""The daemon, which kills itself at a step of a restore: `python -m tests.harness.dying --config …`.

Where, is told by the file that $DYING_AT names, read anew at every step: lines such as `before:swap`, `after:swap`,
`undone:close`. Each line is taken away as the daemon comes there; at the last one it dies, as by `kill -9`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import arcbackupd.operations.restore.run  # noqa: F401  # with it come all the steps that there are
from arcbackupd.__main__ import main
from arcbackupd.operations.events import Steps
from arcbackupd.operations.restore.work import RestoreStep

VARIABLE = "DYING_AT"

Doing = Callable[[RestoreStep], Steps[None]]


def make_mortal() -> None:
    """Let every step there is look, before and after, whether it is time to die."""
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


if __name__ == "__main__":
    make_mortal()
    main()
