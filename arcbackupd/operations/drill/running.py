"""Run an engine's command that ends at once when the operation is cancelled."""

from __future__ import annotations

from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.stack.command import Command
from arcbackupd.stack.process import Finished, Stream

_BLOCK = 1 << 16
_LIMIT = 1 << 20


def run_unless_cancelled(
    command: Command, cancellation: Cancellation, *, seconds: float, errors_too: bool = False
) -> Finished:
    """Run it to its end; ``seconds`` is how long it may be silent. Raise Cancelled, TimedOut or OperationFailed.

    What its engine was asked for may still be done after a cancellation.
    """
    output = bytearray()
    with Stream(command, errors_too=errors_too) as stream, cancellation.interrupting(stream.kill):
        while block := stream.read(_BLOCK, timeout=seconds):
            output += block[: max(0, _LIMIT - len(output))]
        finished = stream.finish(timeout=seconds)
    cancellation.check()
    return Finished(finished.status, bytes(output), finished.error)
