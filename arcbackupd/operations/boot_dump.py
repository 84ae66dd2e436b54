"""The dump of one start of the backend, once more when its database went while the backend stood still."""

from __future__ import annotations

import asyncio

from arcbackupd.dumps.manifest import Reason
from arcbackupd.errors import ArcbackupdError
from arcbackupd.log import get_logger
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.before import BootDump

_WENT = {"server-went", "not-accepting", "program-killed", "container-stopped", "container-missing", "incomplete"}
"""Codes of what a dump fails with when the database, its container or the engine ended under it."""
_log = get_logger()


async def dump_boot(backups: Backups, boot: BootDump) -> None:
    """Take it, and let the backend go. Raise what the dump raises."""
    try:
        try:
            await asyncio.shield(backups.take(Reason.BOOT, boot).result)
        except ArcbackupdError as error:
            if error.code not in _WENT or not await asyncio.to_thread(lambda: boot.held):
                raise
            _log.info("The backend still stands still: its dump is taken once more")
            await asyncio.shield(backups.take(Reason.BOOT, boot).result)
    finally:
        await asyncio.to_thread(boot.release, "its dump has ended")
