"""Faults of the disk: full, failing, read-only, slow. Its system calls really fail: nothing is patched."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arcbackupd.operations.backups_dir import ROOM_BESIDE_A_DUMP
from tests.harness.loop_disk import LoopDisk
from tests.harness.process import run
from tests.torture import kills
from tests.torture.kills import Doing, make_ready
from tests.torture.rig import Rig

_BLOCK = bytes(1 << 20)


@dataclass(frozen=True)
class Failing:
    """An operation of the filesystem fails from its nth time on, by chance up to `most`, while something is done.

    Where a name can't be removed, what is left is for the next start.
    """

    operation: str
    error: int
    doing: Doing
    most: int = 1

    def prepare(self, rig: Rig) -> None:
        make_ready(rig, self.doing)

    def strike(self, rig: Rig) -> None:
        assert rig.disk is not None
        rig.disk.fails(self.operation, self.error, after=rig.chance.randrange(self.most))
        try:
            self.doing(rig)
        finally:
            rig.disk.works()
        if self.operation == "unlink":
            rig.daemon.restart()


@dataclass(frozen=True)
class Slow:
    """A disk that takes its time: a dump takes longer, and is whole."""

    def prepare(self, rig: Rig) -> None:
        pass

    def strike(self, rig: Rig) -> None:
        assert rig.disk is not None
        rig.disk.slow(write=rig.chance.uniform(0.01, 0.05), fsync=rig.chance.uniform(0, 2), link=0.2, fsyncdir=0.5)
        try:
            answer = rig.ask("Backup")
        finally:
            rig.disk.works()
        assert answer, f"a dump to a slow disk failed:\n{rig.daemon.log()}"
        assert answer["result"]["outcome"] == "published"


@dataclass(frozen=True)
class FillingUp:
    """The disk gets full in the middle of a dump."""

    def prepare(self, rig: Rig) -> None:
        pass

    def strike(self, rig: Rig) -> None:
        with contextlib.ExitStack() as until_its_end, rig.dump_in_its_middle():
            until_its_end.enter_context(ballast(rig.quick.stack.shared_data))
        assert rig.daemon.log_lines("no space was left while writing")


@dataclass(frozen=True)
class AlreadyFull:
    """The disk is full before a dump, or nearly so."""

    def prepare(self, rig: Rig) -> None:
        pass

    def strike(self, rig: Rig) -> None:
        with ballast(rig.quick.stack.shared_data, left=rig.chance.randrange(ROOM_BESIDE_A_DUMP)):
            assert rig.ask("Backup") is None
            rig.ask("Prune")
        assert rig.daemon.log_lines("bytes are free, a dump needs about")


@dataclass(frozen=True)
class ReadOnly:
    """The filesystem becomes read-only between two operations."""

    def prepare(self, rig: Rig) -> None:
        rig.age()

    def strike(self, rig: Rig) -> None:
        mounted = str(rig.quick.stack.shared_data)
        run(["mount", "-o", "remount,ro", mounted])
        try:
            assert rig.ask("Backup") is None
            assert rig.ask("Prune") is None
            assert rig.ask("List") is not None
        finally:
            run(["mount", "-o", "remount,rw", mounted])
        assert rig.daemon.log_lines("can't be written: Read-only file system")


@dataclass(frozen=True)
class OutOfBlocks:
    """A thin disk takes what is written and can't store it, from the middle of a dump on: only fsync tells.

    It is checked and mounted again, as after any failure of a disk. See tests/harness/loop_disk.py.
    """

    def prepare(self, rig: Rig) -> None:
        pass

    def strike(self, rig: Rig) -> None:
        assert isinstance(rig.mount, LoopDisk)
        with contextlib.ExitStack() as until_its_end, rig.dump_in_its_middle():
            until_its_end.enter_context(rig.mount.dead())
        assert rig.daemon.log_lines("error_code=disk-"), rig.daemon.log()
        rig.daemon.stop()
        rig.mount.repair()
        rig.daemon.start()


@contextlib.contextmanager
def ballast(directory: Path, *, left: int = 0) -> Iterator[None]:
    """Fill a filesystem up to some bytes that are left, for as long as it lasts."""
    path = directory / "ballast"
    free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # others write too, and it is full
        for _ in range(math.ceil((free - left) / len(_BLOCK))):
            file.write(_BLOCK)
    try:
        yield
    finally:
        path.unlink()


FAULTS: dict[str, Failing | Slow] = {
    "no space at any write of a dump": Failing("write", errno.ENOSPC, kills.dump, 40),
    "no space at a dump's fsync": Failing("fsync", errno.ENOSPC, kills.dump),
    "no space at a dump's publication": Failing("link", errno.ENOSPC, kills.dump),
    "an I/O error before a dump's first byte": Failing("create", errno.EIO, kills.dump),
    "an I/O error at any write of a dump": Failing("write", errno.EIO, kills.dump, 40),
    "an I/O error at a dump's fsync": Failing("fsync", errno.EIO, kills.dump),
    "an I/O error at a dump's publication": Failing("link", errno.EIO, kills.dump),
    "an I/O error at the directory's fsync": Failing("fsyncdir", errno.EIO, kills.dump),
    "an I/O error at a dump's chmod": Failing("chmod", errno.EIO, kills.dump),
    "an I/O error at the removal of a name": Failing("unlink", errno.EIO, kills.dump),
    "an I/O error in a prune": Failing("unlink", errno.EIO, kills.prune, 3),
    "an I/O error as a restore reads its dump": Failing("read", errno.EIO, kills.restore, 40),
    "a disk read-only from any write of a dump on": Failing("write", errno.EROFS, kills.dump, 40),
    "a slow disk": Slow(),
}
"""On the filesystem that fails; by name."""
