"""Faults: somebody changes the files of backups while they are scanned, pruned, restored, uploaded."""

from __future__ import annotations

import gzip
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.restoring import FOREIGN
from tests.torture.dump_reading import read_dump
from tests.torture.rig import Rig

Change = Callable[[Path], None]


def truncate(path: Path) -> None:
    """Cut it in its middle."""
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    """Put another file in its place."""
    other = path.parent.parent / "other"
    other.write_bytes(gzip.compress(b"-- nothing\n"))
    other.replace(path)


def overwrite(path: Path) -> None:
    """Write over its middle: same inode, same size."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(4096))


def delete(path: Path) -> None:
    """Remove it, unless the daemon was faster."""
    path.unlink(missing_ok=True)


CHANGES: tuple[Change, ...] = (truncate, replace, overwrite, delete)


@dataclass(frozen=True)
class WhileScanned:
    """A dump that was dropped in changes while it is read."""

    def prepare(self, rig: Rig) -> None:
        rig.quick.drop_in(rig.quick.sql)

    def strike(self, rig: Rig) -> None:
        rig.damaged = [FOREIGN]
        change = rig.chance.choice(CHANGES)
        with rig.asking("Inspect", reference=FOREIGN, verify=True):
            time.sleep(rig.chance.uniform(0, 0.3))
            change(rig.daemon.path(FOREIGN))
        rows = {row["name"]: row["status"] for row in rig.wait_scanned()}
        if change in (truncate, overwrite):
            assert rows[FOREIGN] == "broken", f"{change.__name__}: {rows[FOREIGN]}"


@dataclass(frozen=True)
class WhileRestored:
    """The dump changes while it is loaded: the live database is wholly the old one, or wholly the new one."""

    def prepare(self, rig: Rig) -> None:
        rig.live = [rig.new]

    def strike(self, rig: Rig) -> None:
        name = rig.quick.drop_in_held()
        rig.damaged = [name]
        with rig.quick.held(), rig.asking("Restore", name=name, safety_backup=True):
            rig.quick.wait_held()
            rig.chance.choice(CHANGES)(rig.daemon.path(name))
            rig.quick.let_go()


@dataclass(frozen=True)
class WhilePruned:
    """What is to be pruned is replaced and removed by somebody else meanwhile; others' files stay."""

    def prepare(self, rig: Rig) -> None:
        rig.age(8)

    def strike(self, rig: Rig) -> None:
        old = sorted(rig.site.backups.glob("backup-20260[12]0*"))
        strange = rig.site.backups / "observing-notes.txt"
        strange.write_text("not a backup")
        changing = threading.Thread(target=_replace_each, args=(old,))
        changing.start()
        rig.ask("Prune")
        changing.join()
        assert strange.read_text() == "not a backup"
        strange.unlink()
        for path in old:
            if path.exists() and read_dump(path).problem:
                path.unlink()


def _replace_each(paths: list[Path]) -> None:
    for number, path in enumerate(paths):
        if path.exists():
            (replace if number % 2 else delete)(path)


@dataclass(frozen=True)
class WhileUploaded:
    """A dump changes while it is uploaded: what arrives is whole, or doesn't arrive."""

    def prepare(self, rig: Rig) -> None:
        rig.change()
        rig.ask("Backup")

    def strike(self, rig: Rig) -> None:
        name = max(rig.daemon.names())  # the one that isn't there yet
        inode = rig.daemon.path(name).stat().st_ino
        rig.damaged = [other for other in rig.daemon.names() if rig.daemon.path(other).stat().st_ino == inode]
        with rig.asking("Upload"):
            time.sleep(rig.chance.uniform(0, 0.03))
            rig.chance.choice(CHANGES)(rig.daemon.path(name))
        arrived = [path for path in (rig.quick.stack.directory / "nas").rglob("*.sql.gz") if path.is_file()]
        assert arrived
        for path in arrived:
            assert read_dump(path).problem is None, f"{path.name} arrived and isn't whole"
        for other in rig.damaged:
            rig.daemon.path(other).unlink(missing_ok=True)
