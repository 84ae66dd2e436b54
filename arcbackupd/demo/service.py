"""The demo's service manager: what systemctl is on a host, for one process that leaves a pidfile.

python -m arcbackupd.demo.service HOME start|stop|is-active NAME
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

_STOP_SECONDS = 10.0
_INACTIVE = 3  # as systemctl has it


def main(home: str, verb: str, name: str) -> int:
    """Do it; return the exit status."""
    service = Service(Path(home), name)
    if verb == "is-active":
        return 0 if service.pid() else _INACTIVE
    return service.start() if verb == "start" else service.stop()


class Service:
    """``NAME.json`` says how to start it, ``NAME.pid`` which process it is."""

    def __init__(self, home: Path, name: str) -> None:
        self._definition = home / f"{name}.json"
        self._pidfile = home / f"{name}.pid"

    def start(self) -> int:
        """Start it unless it runs."""
        if self.pid() is None:
            definition = json.loads(self._definition.read_text())
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(
                definition["argv"], cwd=definition["cwd"], env=definition["environment"], stdin=quiet, stdout=quiet,
                stderr=quiet, start_new_session=True,
            )  # fmt: skip
            self._pidfile.write_text(f"{process.pid}\n")
        return 0

    def stop(self) -> int:
        """End it, and wait until it has ended."""
        pid = self.pid()
        if pid is None:
            return 0
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            ended, _, _ = select.select([handle], [], [], _STOP_SECONDS)
        finally:
            os.close(handle)
        return 0 if ended else 1

    def pid(self) -> int | None:
        """The process that runs, if one does."""
        try:
            pid = int(self._pidfile.read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        return None if state == "Z" else pid


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
