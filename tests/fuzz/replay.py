"""The inputs of a target's corpus, without the fuzzer: ``python -m tests.fuzz.replay TARGET [FILE…]``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import targets
from tests.fuzz.limits import Peak, TooSlow, limit_memory, processor_seconds

SECONDS = 5.0
"""Of the processor, for one input; the slowest of those that are kept takes a tenth of it."""
MEMORY = 96 << 20
"""Bytes that one input may cost at most."""
_MEMORY_OF_ALL = 1 << 30


def complaint(
    target: Callable[[bytes], None], data: bytes, *, seconds: float = SECONDS, memory: int = MEMORY
) -> str | None:
    """What is wrong with how a target takes an input; ``None`` when it returns within its limits."""
    peak = Peak()
    try:
        with processor_seconds(seconds):
            target(data)
    except TooSlow:
        return f"it takes more than {seconds:g} s of the processor"
    except (Exception, SystemExit):  # noqa: BLE001  (whatever it is, the rest is replayed too)
        return traceback.format_exc()
    took = peak.bytes()
    return f"it takes {took >> 20} MiB of memory" if took > memory else None


def main() -> None:
    """Say what is wrong, file by file; the exit status is 1 if anything is."""
    name, *files = sys.argv[1:]
    target = targets.target(name)
    paths = [Path(file) for file in files] or sorted(targets.corpus(name).iterdir())
    target(b"")  # what is made once isn't the first input's
    limit_memory(_MEMORY_OF_ALL)
    complaints = [(path, told) for path in paths if (told := complaint(target, path.read_bytes()))]
    for path, told in complaints:
        print(f"{path}: {told}", flush=True)
    print(f"{name}: {len(paths)} inputs, {len(complaints)} of them taken badly")
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
