"""One target under the fuzzer: ``python -m tests.fuzz.engine TARGET [libFuzzer's options]``."""

from __future__ import annotations

import shlex
import sys

import atheris

from tests.fuzz import pump, targets
from tests.fuzz.limits import processor_seconds

SECONDS = 5.0
"""Of the processor, for one input: watched code takes a multiple of what it takes otherwise."""
LONGEST = 24 << 10
"""Bytes that an input grows to under the fuzzer, which tries many; the replay lets them grow further."""


def main() -> None:
    """Hand over to libFuzzer, which ends the process."""
    with atheris.instrument_imports(include=["arcbackupd", "isal"]):
        target = targets.target(sys.argv[1])
    pump.limit = LONGEST

    def one(data: bytes) -> None:
        with processor_seconds(SECONDS):
            target(data)

    # libFuzzer begins itself anew for a merge: through a shell, with its first argument as it stands.
    again = f"{shlex.quote(sys.executable)} -m tests.fuzz.engine {sys.argv[1]}"
    atheris.Setup([again, *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
