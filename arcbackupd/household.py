"""What was made from one configuration, and how it lives until the next one takes its place."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.log import get_logger
from arcbackupd.monitoring.parts import Parts
from arcbackupd.operations.boot import BootWatch

_TAKE_UP_SECONDS = 60.0
"""Between two tries to finish or undo an interrupted restore."""
_log = get_logger()


@dataclass
class Household:
    """The scheduler and the watch of the backend, and all that they work with."""

    parts: Parts
    watch: BootWatch
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch and to schedule."""
        self._task = asyncio.create_task(self._live(), name="household")
        self._task.add_done_callback(_report_crash)

    async def stop(self) -> None:
        """Begin nothing more; what the queue runs goes on."""
        await self.parts.scheduler.stop()
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _live(self) -> None:
        await self._finish_what_was_left()
        if self.watch.pending:  # of the configuration before
            await asyncio.wait([self.watch.pending])
        async with asyncio.TaskGroup() as living:
            living.create_task(self.watch.run())
            living.create_task(self._keep_finishing())
            # A boot that was missed comes before catching up: its dump may be all that is missing.
            await self.watch.looked.wait()
            self.parts.scheduler.start()
            # In a thread, so that catching up finds it remembered. What is wrong there, the job's own run tells.
            with contextlib.suppress(ArcbackupdError, OSError):
                await asyncio.to_thread(self.parts.backups.newest_automatic)
            self.parts.scheduler.catch_up()

    async def _finish_what_was_left(self) -> None:
        """Finish or undo what a daemon that was killed was at, its restore first: nobody else sees half of one."""
        if interrupted := self.parts.restores.take_up():
            await asyncio.wait([interrupted.result])
        await self._clean_up()
        # Whatever keeps it from the server, every operation and `status` say so.
        with contextlib.suppress(ArcbackupdError, OSError):
            await asyncio.to_thread(self.parts.restores.clean_up)
        self.parts.restores.take_snapshots()
        self.parts.drills.reap()

    async def _keep_finishing(self) -> None:
        """What could neither be finished nor undone is tried again by and by."""
        while True:
            await asyncio.sleep(_TAKE_UP_SECONDS)
            self.parts.restores.take_up()

    async def _clean_up(self) -> None:
        try:
            await asyncio.to_thread(self.parts.backups.clean_up)
        except ArcbackupdError as error:
            _log.warning(f"What earlier runs left behind could not be looked at: {error.message}", hint=error.hint)
        except OSError as error:
            _log.warning(f"What earlier runs left behind could not be looked at: {error}")


async def made_meanwhile(make: Callable[[], Household], stop: asyncio.Event) -> Household | None:
    """What ``make`` makes, in a thread, as a plugin may take its time; ``None`` when the daemon stops before that.

    Whoever asks or boots meanwhile doesn't wait for it, nor does the end of the process. Raise OperationFailed when
    no thread is left, and what ``make`` raises.
    """
    made: Future[Household] = Future()
    made.set_running_or_notify_cancel()

    def run() -> None:
        try:
            made.set_result(make())
        except BaseException as error:  # noqa: BLE001 - whoever awaits it tells it
            made.set_exception(error)

    try:
        threading.Thread(target=run, name="reload", daemon=True).start()
    except RuntimeError as error:
        message = "The configuration is not read: no thread is left."
        hint = "Look what uses up the host's processes: `systemctl status arcbackupd`, `ps -eLf`."
        raise OperationFailed("no-thread", message, hint=hint) from error
    making = asyncio.wrap_future(made)
    stopping = asyncio.create_task(stop.wait())
    stopping.add_done_callback(lambda _stopping: making.cancel())
    try:
        return await making
    except asyncio.CancelledError:
        return None
    finally:
        stopping.cancel()


def _report_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _log.critical("The daemon can't go on; systemd will start it again", exc_info=error)
        os.kill(os.getpid(), signal.SIGABRT)
