"""A program on a real terminal, and somebody who reads it and types.

with Terminal(["arcbackupd", "setup"]) as terminal:
    terminal.wait_for("Do it?")
    terminal.type("y")
    assert terminal.wait_end() == 0
    print(terminal.text)
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from tests.harness.process import DeadlinePassed


class Terminal:
    """Use it as a context manager; leaving it ends the program."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        self._argv = list(argv)
        self._env = {**os.environ, **(env or {})}
        self._seen = 0
        self.text = ""
        """All that was shown so far."""

    def __enter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        self._program = subprocess.Popen(
            self._argv, stdin=slave, stdout=slave, stderr=slave, env=self._env, start_new_session=True
        )
        os.close(slave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._program.poll() is None:
            self._program.kill()
        self._program.wait()
        os.close(self._master)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until that is shown, after what was waited for before."""
        deadline = time.monotonic() + seconds
        while text not in self.text[self._seen :]:
            if time.monotonic() > deadline or not self._read(0.2):
                raise DeadlinePassed(f"{text!r} wasn't shown: {self.text[self._seen :]}")
        self._seen = self.text.index(text, self._seen) + len(text)

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._master, f"{line}\n".encode())

    def wait_end(self, seconds: float = 120) -> int:
        """Wait for its end, reading on; return its exit status."""
        deadline = time.monotonic() + seconds
        while self._read(0.2):
            if time.monotonic() > deadline:
                raise DeadlinePassed(f"it didn't end: {self.text[self._seen :]}")
        return self._program.wait(max(deadline - time.monotonic(), 1))

    def _read(self, seconds: float) -> bool:
        """Take what is shown within that time; return whether more can come."""
        if select.select([self._master], [], [], seconds)[0]:
            try:
                shown = os.read(self._master, 65536)
            except OSError:  # how a terminal says that nobody holds its other end any more
                return False
            self.text += shown.decode("utf-8", "replace").replace("\r\n", "\n")
        return True
