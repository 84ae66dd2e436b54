"""How much a program or a thread gives way to others, in the use of processors and of disks."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from dataclasses import dataclass
from typing import Literal, TypeAlias

IoClass: TypeAlias = Literal["normal", "low", "idle"]

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
"""Numbers of the system call, for which neither Python nor the C library has a name."""
_WHO_THREAD = 1
_CLASS_SHIFT = 13
_CLASSES = {"low": (2, 7), "idle": (3, 0)}
"""Class (best effort, idle) and level in it (ioprio_set(2))."""


@dataclass(frozen=True)
class Niceness:
    """``cpu`` as in nice(1), 0 to 19; ``io``: the lowest of the usual class, or only when nobody else wants to."""

    cpu: int = 0
    io: IoClass = "normal"

    def wrapper(self) -> tuple[str, ...]:
        """What stands before a program and its arguments so that it runs so nice, by ionice where there is one."""
        if self == NORMAL:
            return ()
        number, level = _CLASSES.get(self.io, (0, 0))
        io = f"ionice -c {number} -n {level} -p $$ 2>/dev/null; " if number else ""
        return ("sh", "-c", f'{io}exec nice -n {self.cpu} "$@"', "arcbackupd")

    def adopt(self) -> None:
        """Let the calling thread be so nice, unless it is nicer already, which only root may take back."""
        thread = threading.get_native_id()
        if os.getpriority(os.PRIO_PROCESS, thread) < self.cpu:
            os.setpriority(os.PRIO_PROCESS, thread, self.cpu)
        system_call = _IOPRIO_SET.get(platform.machine())
        if self.io in _CLASSES and system_call is not None:
            number, level = _CLASSES[self.io]
            # Refused where a sandbox doesn't know the call: slower for others, and no reason to have no dump.
            ctypes.CDLL(None).syscall(system_call, _WHO_THREAD, thread, number << _CLASS_SHIFT | level)


NORMAL = Niceness()
