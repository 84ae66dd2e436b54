"""What checks look at: one configuration, and the daemon that lives by it, if one does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.installation import Installation, read_installation
from arcbackupd.log import redact
from arcbackupd.operations.database import Database
from arcbackupd.settings import Settings
from arcbackupd.stack import Engine


@dataclass(frozen=True)
class Living:
    """What only the daemon knows of itself."""

    started_at: datetime
    running: Callable[[], str | None]
    """The kind of the operation that runs now."""
    newest_good: Callable[[], Backup | None]
    clock_doubt: Callable[[], str | None]
    warn_after: timedelta
    """The age of the newest good backup from which on it is too old."""


@dataclass(frozen=True)
class Subject:
    """A configuration as it was read from ``config``, and how to reach what it names."""

    config: Path
    settings: Settings
    engine: Engine
    destinations: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    """By name, what checks a destination and tells where it is. It blocks, and raises ArcbackupdError."""
    living: Living | None = None
    """``None``: nobody lives by it yet."""

    @property
    def in_containers(self) -> bool:
        """Whether the installation is one of containers."""
        return self.settings.engine.kind != "local"

    def installation(self) -> Installation:
        """The ``.env`` as it is now. Raise OperationFailed when it can't be used."""
        installation = read_installation(self.settings.install_dir)
        redact(installation.password.get_secret_value())
        return installation

    def database(self) -> Database:
        """The installation's database. Raise OperationFailed when ``.env`` can't be used."""
        return Database(self.engine, self.installation())

    def running(self) -> str | None:
        """The kind of the operation that the daemon is at."""
        return self.living.running() if self.living else None
