"""The kernel's freezer of a container: one file that stops all of it, and lets it go on, behind the engine's back.

`docker pause` uses the same freezer, but tells the engine, which calls a container with a health check unhealthy at
once. SIGSTOP to every process of it would need repeating for those that are born meanwhile, and can be seen by a
supervisor inside. The freezer needs one line written, which also a line of shell can take back.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.errors import OperationFailed

_V1 = "freezer.state"
_V2 = "cgroup.freeze"
_WORDS = {_V1: ("FROZEN", "THAWED"), _V2: ("1", "0")}
_SETTLE_SECONDS = 5.0
_TRY_SECONDS = 0.05
_OPEN_SECONDS = 0.003
_POLL_SECONDS = 0.001
_CLOSED = ("FROZEN", "FREEZING", "1")
_NAMES = ("{}", "docker-{}.scope", "libpod-{}.scope", "libpod-{}")
"""What docker and podman call a container's control group, without and with systemd as their manager."""
_GONE = (errno.ENOENT, errno.ENODEV)
"""How the kernel says that a control group has gone, its container with it."""
_INNER = "container"
"""Below its group podman can have one for the container proper, beside one for its monitor."""


@dataclass(frozen=True)
class Freezer:
    """The control file of one container's freezer, of either version of control groups."""

    file: Path

    @property
    def thaw_word(self) -> str:
        """What lets everything go on when it is written to the file."""
        return _WORDS[self.file.name][1]

    def freeze(self) -> None:
        """Let none of the container's processes get back to its own code. Raise OSError."""
        self._close()
        if self.file.name == _V1:
            self._settle()

    def _close(self) -> None:
        self.file.write_text(_WORDS[self.file.name][0])

    def _settle(self) -> None:
        """Wait until all stands still, opening and closing again as often as that takes.

        Version 1 freezes a program in the middle of its execve for good: it waits for its threads to end, which are
        frozen already (seen on busy machines, where the start event comes before the container's first execve is
        through). Whoever asks such a container anything, even docker itself, waits as long as it does.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while not self._rests(time.monotonic() + _TRY_SECONDS):
            self.thaw()
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "it does not come to rest")
            time.sleep(_OPEN_SECONDS)
            self._close()

    def _rests(self, until: float) -> bool:
        while (state := self.file.read_text().strip()) != "FROZEN":
            if time.monotonic() > until or state == "THAWED":
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def thaw(self) -> None:
        """Let everything go on; nothing happens when the container has ended. Raise OSError."""
        try:
            self.file.write_text(self.thaw_word)
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def is_frozen(self) -> bool:
        """Whether it is frozen now, or freezing; False when the container has ended.

        While it is freezing, a process may still be inside the kernel, waiting for a disk say, and for seconds on a
        busy one; but none gets back to its own code.
        """
        try:
            return self.file.read_text().strip() in _CLOSED
        except OSError:
            return False


@dataclass(frozen=True)
class Hierarchy:
    """A mounted tree of control groups: where, from which of its groups on, and the file that freezes one."""

    mount: Path
    root: str
    file: str


def find_freezer(container: str, pid: int = 0, proc: Path = Path("/proc")) -> Freezer:
    """The freezer of a running container by its id, or by its first process where its place is an unusual one.

    Raise OperationFailed when there is none. Never gives one of a group that isn't the container's own.
    """
    trees = hierarchies((proc / "self" / "mountinfo").read_text())
    places = itertools.chain(_by_name(trees, container), _by_process(trees, container, _cgroups(proc, pid)))
    found = next((file for file in places if file.is_file()), None)
    if found is None:
        hint = "Mount the control groups of the host, of version 2 or with the freezer; or set boot.hold = false."
        raise OperationFailed("no-freezer", "The control group of the backend's container isn't found.", hint=hint)
    return Freezer(found)


def hierarchies(mountinfo: str) -> list[Hierarchy]:
    """The trees that can freeze, those of version 1 first: a container is in its group of both, or of one."""
    found = []
    for line in mountinfo.splitlines():
        place, _, kind = line.partition(" - ")
        fields, (filesystem, _, options) = place.split(), kind.split(" ", 2)
        if filesystem == "cgroup" and "freezer" in options.split(","):
            found.append(Hierarchy(Path(fields[4]), fields[3], _V1))
        elif filesystem == "cgroup2":
            found.append(Hierarchy(Path(fields[4]), fields[3], _V2))
    return sorted(found, key=lambda tree: (tree.file != _V1, len(tree.mount.parts)))


def _by_name(trees: list[Hierarchy], container: str) -> Iterator[Path]:
    """Where engines put a container: in a group named after it, one below the top."""
    names = [name.format(container) for name in _NAMES]
    for tree in trees:
        for parent in _directories(tree.mount):
            for name in names:
                group = parent / name
                yield group / _INNER / tree.file
                yield group / tree.file


def _by_process(trees: list[Hierarchy], container: str, cgroups: str) -> Iterator[Path]:
    """Where the container's first process is, up to the group that has the container's name."""
    lines = [line.split(":", 2) for line in cgroups.splitlines()]
    for tree in trees:
        for number, controllers, path in lines:
            mine = "freezer" in controllers.split(",") if tree.file == _V1 else number == "0"
            if mine and (group := _own_group(path, container)) and group.is_relative_to(tree.root):
                yield tree.mount / group.relative_to(tree.root) / tree.file


def _own_group(path: str, container: str) -> Path | None:
    parts = Path(path).parts
    last = next((number for number, part in enumerate(parts) if container in part), None)
    if last is None:
        return None
    inner = parts[last + 1 : last + 2] == (_INNER,)
    return Path(*parts[: last + 1 + inner])


def _cgroups(proc: Path, pid: int) -> str:
    try:
        return (proc / str(pid) / "cgroup").read_text()
    except OSError:  # it ended, or is in another namespace
        return ""


def _directories(mount: Path) -> list[Path]:
    try:
        return [entry for entry in mount.iterdir() if entry.is_dir()]
    except OSError:
        return []
