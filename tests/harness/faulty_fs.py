"""A filesystem that fails when it is told to: another directory's files, passed through by FUSE.

with FaultyFilesystem(directory, mounted) as disk:
    disk.fails("fsync", errno.EIO)         # from now on
    disk.fails("write", errno.ENOSPC, after=20)
    disk.slow(write=0.05)
    disk.works()

The daemon's system calls really fail, or take long: nothing inside it is patched. Run as a process of its own:
`python -m tests.harness.faulty_fs SOURCE MOUNTPOINT ORDERS`.
"""

from __future__ import annotations

import ctypes.util
import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.harness.process import run, wait_until
from tests.require import require


class FaultyFilesystem:
    """A mounted one; a context manager."""

    def __init__(self, directory: Path, mounted: Path) -> None:
        """Plan one that keeps its files below `directory` and shows them at `mounted`."""
        self.source = directory / "kept"
        self.mounted = mounted
        self._orders = directory / "orders.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        directory.mkdir(exist_ok=True)

    def __enter__(self) -> FaultyFilesystem:
        if os.geteuid() != 0:
            require("root", "only root may mount a filesystem that fails")
        if not Path("/dev/fuse").exists() or not ctypes.util.find_library("fuse3"):
            require("fuse", "this machine has no FUSE: a kernel with it and the package fuse3 are needed")
        self.source.mkdir(parents=True, exist_ok=True)
        self.mounted.mkdir(exist_ok=True)
        self.works()
        argv = [sys.executable, "-m", __name__, str(self.source), str(self.mounted), str(self._orders)]
        self._process = subprocess.Popen(argv, cwd=Path(__file__).parents[2])
        wait_until(self._is_mounted, "the filesystem that fails to be mounted")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.works()
        run(["umount", "--lazy", str(self.mounted)], check=False)
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def fails(self, operation: str, error: int, *, after: int = 0, times: int = 0) -> None:
        """Let an operation fail from now on, but for the first `after` times; at most `times` times, if told."""
        self._order({"operation": operation, "errno": error, "after": after, "times": times})

    def slow(self, **seconds: float) -> None:
        """Let operations take that long."""
        self._order({"slow": seconds})

    def works(self) -> None:
        """Let all go well again."""
        self._order({})

    def _order(self, order: dict[str, Any]) -> None:
        self._count += 1
        with tempfile.NamedTemporaryFile("w", dir=self._orders.parent, delete=False) as file:
            json.dump({**order, "number": self._count}, file)
        Path(file.name).replace(self._orders)

    def _is_mounted(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise AssertionError("the filesystem that fails has ended")
        return os.path.ismount(self.mounted)


class Orders:
    """What is to fail now, read anew whenever it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = (0, 0)
        self._order: dict[str, Any] = {}
        self._seen = 0

    def heed(self, operation: str) -> None:
        """Wait, or raise OSError, as the orders say."""
        status = self._path.stat()
        if (stamp := (status.st_ino, status.st_mtime_ns)) != self._stamp:
            self._stamp, self._seen = stamp, 0
            self._order = json.loads(self._path.read_text())
        time.sleep(self._order.get("slow", {}).get(operation, 0))
        if self._order.get("operation") != operation:
            return
        self._seen += 1
        failed = self._seen - self._order["after"]
        if failed > 0 and (not self._order["times"] or failed <= self._order["times"]):
            raise OSError(self._order["errno"], os.strerror(self._order["errno"]))


def serve(source: str, mountpoint: str, orders_file: str) -> None:
    """Mount it and serve it until it is unmounted."""
    import mfusepy  # looks for libfuse, which not every machine has

    orders = Orders(Path(orders_file))

    def at(path: str) -> str:
        return source + path

    def failing(operation: str, doing: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any) -> Any:
            try:
                orders.heed(operation)
                result = doing(*arguments)
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from error
            return 0 if result is None else result

        return done

    def create(path: str, mode: int, *_: object) -> int:
        return os.open(at(path), os.O_RDWR | os.O_CREAT, mode)

    doing: dict[str, Callable[..., Any]] = {
        "create": create,
        "open": lambda path, flags: os.open(at(path), flags & ~os.O_CREAT),
        "read": lambda path, size, offset, fh: os.pread(fh, size, offset),
        "write": lambda path, data, offset, fh: os.pwrite(fh, data, offset),
        "fsync": lambda path, datasync, fh: os.fsync(fh),
        "fsyncdir": lambda path, datasync, fh: None,
        "flush": lambda path, fh: None,
        "release": lambda path, fh: os.close(fh),
        "link": lambda target, source: os.link(at(source), at(target)),
        "unlink": lambda path: Path(at(path)).unlink(),
        "rename": lambda old, new, *_: Path(at(old)).replace(at(new)) and None,
        "mkdir": lambda path, mode: Path(at(path)).mkdir(mode),
        "rmdir": lambda path: Path(at(path)).rmdir(),
        "chmod": lambda path, mode, *_: Path(at(path)).chmod(mode),
        "chown": lambda path, user, group, *_: os.chown(at(path), user, group),
        "truncate": lambda path, length, *_: os.truncate(at(path), length),
        "utimens": lambda path, times=None, *_: os.utime(at(path), ns=times),
        "statfs": lambda path: _statfs(at(path)),
        "getattr": lambda path, *_: _attributes(at(path)),
        "readdir": lambda path, *_: _entries(at(path)),
    }
    operations = {name: staticmethod(failing(name, how)) for name, how in doing.items()}
    pass_through = type("PassThrough", (mfusepy.Operations,), {"use_ns": True, **operations})

    # Nothing is remembered by the kernel: what the directory below has is what is seen. `use_ino` for hard links.
    options = {"attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0, "use_ino": True, "hard_remove": True}
    mfusepy.FUSE(pass_through(), mountpoint, foreground=True, nothreads=True, allow_other=True, **options)


def _attributes(path: str) -> dict[str, Any]:
    found = os.lstat(path)
    names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
    times = {f"st_{kind}time": getattr(found, f"st_{kind}time_ns") for kind in "amc"}
    return {**{name: getattr(found, name) for name in names}, **times}


def _entries(path: str) -> list[tuple[str, dict[str, Any], int]]:
    """Each with its inode: the kernel leaves out what has none."""
    names = [".", "..", *(entry.name for entry in Path(path).iterdir())]
    return [(name, _attributes(f"{path}/{name}"), 0) for name in names]


def _statfs(path: str) -> dict[str, int]:
    found = os.statvfs(path)
    names = (
        "f_bsize",
        "f_frsize",
        "f_blocks",
        "f_bfree",
        "f_bavail",
        "f_files",
        "f_ffree",
        "f_favail",
        "f_namemax",
    )
    return {name: getattr(found, name) for name in names}


if __name__ == "__main__":
    serve(*sys.argv[1:])
