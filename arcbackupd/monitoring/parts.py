"""The parts of one configuration, together."""

from __future__ import annotations

from dataclasses import dataclass

from arcbackupd.alarms.alarms import Alarms
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.drills import Drills
from arcbackupd.operations.offhost.offhost import OffHost
from arcbackupd.operations.restores import Restores
from arcbackupd.scheduling import Scheduler
from arcbackupd.settings import Settings


@dataclass(frozen=True)
class Parts:
    """What a reload replaces: all that was made from one configuration."""

    settings: Settings
    backups: Backups
    restores: Restores
    off_host: OffHost
    drills: Drills
    scheduler: Scheduler
    alarms: Alarms
