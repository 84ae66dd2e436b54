"""What tests of restores by the local engine share: a database, two services that use it, a daemon's restores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

from arcbackupd.dumps.catalogue import Catalogue
from arcbackupd.dumps.manifest import Reason
from arcbackupd.errors import ArcbackupdError
from arcbackupd.installation import Installation, read_installation
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.events import Event, Step
from arcbackupd.operations.own_starts import OwnStarts
from arcbackupd.operations.queue import Operation, OperationQueue
from arcbackupd.operations.restore.checks import Request
from arcbackupd.operations.restore.journal import JournalFile
from arcbackupd.operations.restore.replaced import ReplacedDatabases
from arcbackupd.operations.restore.report import Report
from arcbackupd.operations.restore.server import Server
from arcbackupd.operations.restores import Restores
from arcbackupd.postgres import databases as sql
from arcbackupd.settings import load_settings
from arcbackupd.stack import open_engine
from tests.harness.embedded import EmbeddedPostgres, available_majors
from tests.integration.test_take import fingerprint
from tests.unit import sample_dumps

DEBIAN = Path("/usr/lib/postgresql/15")
MAJORS = [*([15] if (DEBIAN / "bin/initdb").exists() else []), *available_majors()]
PASSWORD = "Geheim-im-Test-4711"
MANAGER = """#!/bin/sh
cd {home}
case $1 in
is-active) test -e running.$2 ;;
start) echo "start $2" >> log; test ! -e broken.$2 && touch running.$2 ;;
stop) echo "stop $2" >> log; test ! -e on-stop || sh on-stop; rm -f running.$2 ;;
esac
"""
T = TypeVar("T")


class Stand:
    """A database, two services that use it, and a daemon's restores, anew for everything that is asked of them."""

    def __init__(self, server: EmbeddedPostgres, home: Path, database: str, *, keep_replaced: str = "24h") -> None:
        self.server = server
        self.home = home
        self.database = database
        self.events: list[Event] = []
        self.clock_doubt: str | None = None
        self.own_starts = OwnStarts()
        for name in ("shared", "state", "services"):
            (home / name).mkdir()
        (home / ".env").write_text(
            f'SHARED_DATA_PATH=shared\nPOSTGRES_DB="{database}"\n'
            f"POSTGRES_USER={server.superuser}\nPOSTGRES_PASSWORD={PASSWORD}\n"
        )
        manager = home / "manager"
        manager.write_text(MANAGER.format(home=home / "services"))
        manager.chmod(0o755)
        for name in ("api", "worker"):
            (home / "services" / f"running.{name}").touch()
        config = home / "config.toml"
        config.write_text(f"""
            install_dir = "{home}"
            state_dir = "{home}/state"
            [engine]
            kind = "local"
            services = ["api", "worker"]
            manage = ["true"]
            [engine.local]
            bin_dir = "{server.bin_dir}"
            host = "{server.socket_dir}"
            os_user = "{server.user or "root"}"
            service_manager = ["{manager}"]
            [restore]
            keep_replaced = "{keep_replaced}"
            """)
        self.settings = load_settings(config)
        self.engine = open_engine(self.settings.engine)
        self.replaced = ReplacedDatabases(home / "state" / "replaced.json")
        self.journal = JournalFile(home / "state" / "restore.json")

    # What is there

    @property
    def installation(self) -> Installation:
        return read_installation(self.home)

    @property
    def backups(self) -> Path:
        directory = self.installation.backups_dir
        directory.mkdir(exist_ok=True)
        return directory

    @property
    def services_log(self) -> list[str]:
        log = self.home / "services" / "log"
        return log.read_text().splitlines() if log.exists() else []

    def servers_databases(self) -> Server:
        return Server(self.engine, self.installation)

    def properties(self, name: str | None = None) -> sql.Properties:
        found = self.servers_databases().properties(name or self.database)
        assert found is not None
        return found

    def ours(self) -> list[str]:
        """Databases that a restore made or replaced."""
        return self.servers_databases().names_like("arcbackupd_")

    def running(self) -> list[str]:
        return sorted(path.suffix[1:] for path in (self.home / "services").glob("running.*"))

    def sql(self, text: str, database: str | None = None) -> str:
        return self.server.psql(text, database or self.database)

    def contents(self, database: str | None = None) -> dict[str, str]:
        return fingerprint(self.server, database or self.database)

    def whole(self) -> tuple[object, ...]:
        """All that must be the same when nothing happened."""
        return self.properties(), self.contents(), self.running()

    # What is done

    def do(
        self,
        begin: Callable[[Restores], Operation[T]],
        heard: Callable[[Event, Operation[T]], object] = lambda event, operation: None,
    ) -> T:
        """Let a daemon do something and everything that follows from it; return how it ended, or raise it."""

        async def main() -> T:
            operation = begin(self._restores(queue := OperationQueue()))
            following = asyncio.create_task(self._follow(operation, heard))
            try:
                return await operation.result
            finally:
                await following
                while running := queue.current:
                    await running.ended.wait()

        return asyncio.run(asyncio.wait_for(main(), 100))

    async def _follow(self, operation: Operation[T], heard: Callable[[Event, Operation[T]], object]) -> None:
        async for event in operation.events():
            self.events.append(event)
            heard(event, operation)

    def _restores(self, queue: OperationQueue) -> Restores:
        return Restores(self.settings, self.engine, queue, self._backups(queue), self.own_starts)

    def _backups(self, queue: OperationQueue) -> Backups:
        catalogue = Catalogue(self.home / "catalogue.json")
        return Backups(self.settings, self.engine, queue, "this-host", lambda: self.clock_doubt, catalogue)

    def look(self, look: Callable[[Restores], T]) -> T:
        """Ask what needs no operation."""
        return look(self._restores(OperationQueue()))

    def take(self) -> str:
        """Take a backup; return its name."""

        async def main() -> str:
            outcome = await self._backups(OperationQueue()).take(Reason.MANUAL).result
            assert outcome.name is not None
            return outcome.name

        return asyncio.run(main())

    def restore(self, name: str, request: Request | None = None) -> Report:
        return self.do(lambda restores: restores.restore(name, request or Request()))

    def rollback(self) -> Report:
        return self.do(lambda restores: restores.rollback())

    def crash(self, begin: Callable[[Restores], Operation[Report]], step: str) -> bool:
        """Begin something and end the process's part of it as a crash would, just before a step.

        Return whether it came so far.
        """

        async def main() -> Operation[Report]:
            queue = OperationQueue()
            queue._next = lambda: None  # type: ignore[method-assign]  # its steps are done here
            return begin(self._restores(queue))

        steps = asyncio.run(main()).start(Cancellation())
        with suppress(StopIteration):
            while True:
                event = next(steps)
                if isinstance(event, Step) and event.name == step:
                    steps.close()
                    return True
        return False

    def take_up(self) -> Report | None:
        """What a daemon that starts does."""

        async def main() -> Report | None:
            queue = OperationQueue()
            restores = self._restores(queue)
            operation = restores.take_up()
            try:
                return await operation.result if operation else None
            finally:
                while running := queue.current:
                    await running.ended.wait()

        try:
            return asyncio.run(main())
        finally:
            self.look(lambda restores: restores.clean_up())

    @contextmanager
    def untouched(self, code: str) -> Iterator[list[ArcbackupdError]]:
        """Within it an error of that code is raised, and nothing of what there is changes or stops."""
        before, log = self.whole(), self.services_log
        caught: list[ArcbackupdError] = []
        with pytest.raises(ArcbackupdError) as raised:
            yield caught
        caught.append(raised.value)
        assert raised.value.code == code, raised.value.message
        assert raised.value.hint or isinstance(raised.value, Cancelled)
        assert self.whole() == before
        assert self.services_log == log
        assert self.ours() == []
        assert not self.journal.exists()


def filled(stand: Stand) -> Stand:
    stand.sql(
        "CREATE TABLE t (id int PRIMARY KEY, note text);"
        "INSERT INTO t SELECT i, E'é\\\\\\n\\t\\\\.' || i FROM generate_series(1, 500) i;"
        "CREATE TABLE empty (); CREATE VIEW v AS SELECT count(*) FROM t"
    )
    return stand


def write(stand: Stand, text: bytes, **lies: object) -> str:
    """A dump file with a manifest, which says what the text says but for what is told otherwise."""
    told = sample_dumps.manifest(text, **lies)
    path = stand.backups / f"backup-20260101-12{len(list(stand.backups.iterdir())):02}00.sql.gz"
    path.write_bytes(sample_dumps.dump_file(text, told))
    return path.name


def good(stand: Stand, name: str) -> bool:
    listed = Catalogue(stand.home / "catalogue.json").read(stand.backups)
    return any(backup.name == name and backup.good for backup in listed)
