"""A small ext4 on a loop device that runs out of blocks as a thin volume does: it claims more than there is.

The loop device's file is sparse and lies in a tmpfs that is smaller. With the tmpfs full, the kernel takes what is
written and can't store it: the page cache has it, and fsync fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tests.harness.process import CommandFailed, run
from tests.require import require

_ROOM = "200m"
_CLAIMED = 1 << 30


class LoopDisk:
    """A mounted one; a context manager."""

    def __init__(self, directory: Path, mounted: Path) -> None:
        """Plan one whose file lies below `directory`, mounted at `mounted`."""
        self.mounted = mounted
        self._below = directory
        self._file = directory / "disk.img"
        self._device = ""

    def __enter__(self) -> LoopDisk:
        if os.geteuid() != 0:
            require("root", "only root may mount a loop device")
        self._below.mkdir(exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(self._below)])
        try:
            with self._file.open("wb") as file:
                file.truncate(_CLAIMED)
            self._attach()
            run(["mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1", self._device])
            self._mount()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run(["umount", "--lazy", str(self.mounted)], check=False)
        if self._device:
            run(["losetup", "--detach", self._device], check=False)
        run(["umount", "--lazy", str(self._below)], check=False)

    @contextmanager
    def dead(self) -> Iterator[None]:
        """Let no new block be written, for as long as it lasts."""
        ballast = self._below / "ballast"
        free = os.statvfs(self._below).f_bavail * os.statvfs(self._below).f_frsize
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free)
        try:
            yield
        finally:
            ballast.unlink()

    def repair(self) -> None:
        """Unmount it, check it and mount it again, as an operator does."""
        run(["umount", str(self.mounted)])
        done = run(["e2fsck", "-f", "-y", self._device], check=False)
        if done.returncode not in (0, 1, 2):
            raise CommandFailed(f"e2fsck: {done.stdout}{done.stderr}")
        self._mount()

    def _attach(self) -> None:
        try:
            self._device = run(["losetup", "--find", "--show", str(self._file)]).stdout.strip()
        except CommandFailed as error:
            require("loop", f"no loop device can be had: {error}")

    def _mount(self) -> None:
        run(["mount", "-t", "ext4", "-o", "errors=continue", self._device, str(self.mounted)])
