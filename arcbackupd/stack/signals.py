"""Signals that wait for a process which stands still."""

from __future__ import annotations

import signal
from pathlib import Path

_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL)
_PENDING = ("SigPnd:", "ShdPnd:")


def is_asked_to_end(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a signal that ends programs waits for a process; False for one that isn't there, or can't be seen."""
    try:
        status = (proc / str(pid) / "status").read_text()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(_PENDING)]
    return any(mask >> (number - 1) & 1 for mask in masks for number in _ENDING)
