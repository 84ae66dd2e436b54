"""What the steps of a restore share, and what a step is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from arcbackupd.dumps.catalogue import Backup
from arcbackupd.errors import OperationFailed
from arcbackupd.log import get_logger
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Steps
from arcbackupd.operations.restore.checks import Situation
from arcbackupd.operations.restore.journal import Journal, JournalFile
from arcbackupd.operations.restore.replaced import ReplacedDatabases
from arcbackupd.operations.restore.server import Server
from arcbackupd.operations.restore.services import Services
from arcbackupd.operations.take import TakeOutcome
from arcbackupd.stack import Engine

_log = get_logger()

Snapshot = Callable[[str, datetime, Cancellation], Steps[TakeOutcome]]
"""Takes the pre-restore backup of a database, named after a moment."""


@dataclass
class Work:
    """One restore or rollback at work: its journal, and what its steps work with.

    ``find`` gives the backup of a name, as it is now, and its file.
    """

    journal: Journal
    file: JournalFile
    situation: Situation
    engine: Engine
    services: Services
    replaced: ReplacedDatabases
    find: Callable[[str], tuple[Backup, Path]]
    snapshot: Snapshot
    keep_replaced: timedelta
    cancellation: Cancellation
    expect_starts: Callable[[], None] = lambda: None
    """Called before services are stopped: from then on starts of the backend are the restore's own."""
    committed: bool = False
    """Whether the live database is the new one: nothing may stand in the way of the services any more."""

    @property
    def server(self) -> Server:
        """The databases."""
        return self.situation.server

    def note(self, **changes: object) -> None:
        """Write into the journal what becomes true next."""
        for name, value in changes.items():
            setattr(self.journal, name, value)
        try:
            self.file.write(self.journal)
        except OperationFailed as error:
            if not self.committed:
                raise
            _log.warning(error.message, hint=error.hint)


class RestoreStep:
    """A step. ``name`` is for the journal and for programs."""

    name = ""

    def __init__(self, work: Work) -> None:
        self.work = work

    @property
    def text(self) -> str:
        """What it does, for people."""
        raise NotImplementedError

    def commands(self) -> Sequence[str]:
        """What it runs, as a shell would take it."""
        return ()

    def run(self) -> Steps[None]:
        """Do it."""
        raise NotImplementedError

    def undo(self) -> Steps[None]:
        """Undo what was done of it, if anything; may be called again, by another process too."""
        yield from ()
