"""The steps of a restore: each knows its commands, how to run, and how to be undone, also by another process."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime

from arcbackupd.errors import OperationFailed, Refused
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.events import Notice, Steps
from arcbackupd.operations.restore.checks import blockers
from arcbackupd.operations.restore.loading import Loading, analyze, load
from arcbackupd.operations.restore.replaced import Replaced
from arcbackupd.operations.restore.work import RestoreStep, Work
from arcbackupd.postgres import databases as sql


class Create(RestoreStep):
    """The database that the dump is loaded into."""

    name = "create"

    @property
    def text(self) -> str:
        return f"Creating {self.work.journal.incoming}"

    def commands(self) -> Sequence[str]:
        work = self.work
        roles = [sql.create_role(role) for role in work.journal.create_roles]
        statements = [*roles, self.work.server.create_statement(work.journal.incoming, work.journal.live)]
        return [work.server.shown(statement) for statement in statements]

    def run(self) -> Steps[None]:
        work = self.work
        work.server.create_roles(work.journal.create_roles)
        work.server.drop(work.journal.incoming)  # half of it, from before a crash
        work.note(incoming_oid=work.server.create(work.journal.incoming, work.journal.live))
        yield from ()

    def undo(self) -> Steps[None]:
        self.work.server.drop(self.work.journal.incoming)
        yield from ()


class Load(RestoreStep):
    """The dump into that database."""

    name = "load"

    @property
    def text(self) -> str:
        return f"Loading {self.work.journal.source} into {self.work.journal.incoming}"

    def commands(self) -> Sequence[str]:
        _, path = self.work.find(self._source())
        return [self.work.server.shown_load(str(path), self.work.journal.incoming)]

    def run(self) -> Steps[None]:
        work = self.work
        backup, path = work.find(self._source())
        situation = work.situation
        loading = Loading(
            path, backup, work.server, work.journal.incoming, situation.server_major, situation.restricted
        )
        yield from load(loading, work.cancellation)

    def _source(self) -> str:
        assert self.work.journal.source is not None
        return self.work.journal.source


class Analyze(RestoreStep):
    """Statistics for the planner."""

    name = "analyze"

    @property
    def text(self) -> str:
        return "Analyzing its tables"

    def commands(self) -> Sequence[str]:
        return [self.work.server.shown("ANALYZE", database=self.work.journal.incoming)]

    def run(self) -> Steps[None]:
        yield from analyze(self.work.server, self.work.journal.incoming, self.work.cancellation)


class Check(RestoreStep):
    """What may have come up since the beginning."""

    name = "check"

    @property
    def text(self) -> str:
        return f"Making sure that {self.work.journal.database} can be replaced"

    def run(self) -> Steps[None]:
        journal = self.work.journal
        for refusal in blockers(self.work.server, journal.database, in_place=journal.in_place):
            raise refusal.error()
        incoming = self.work.server.properties(journal.incoming)
        if journal.kind == "rollback" and (incoming is None or incoming.oid != journal.incoming_oid):
            hint = "`arcbackupctl list` shows what can be restored."
            raise Refused("nothing-to-roll-back", f"{journal.incoming} is gone: nothing was touched.", hint=hint)
        if journal.live and incoming:  # what can't be carried over is told now, and not when the services are down
            self.work.server.rehearse(sql.carry(same_live(self.work), incoming))
        yield from ()


class StopServices(RestoreStep):
    """Those that use the database, and run."""

    name = "stop"

    @property
    def text(self) -> str:
        return "Stopping the services that use the database"

    def commands(self) -> Sequence[str]:
        return [self.work.engine.stop_service(name).shown() for name in self.work.services.running()]

    def run(self) -> Steps[None]:
        yield from stop_running(self.work)

    def undo(self) -> Steps[None]:
        work = self.work
        stopped = [name for name in work.journal.stopped if name not in work.services.running()]
        with contextlib.suppress(Cancelled):  # they are started; who asked to stop doesn't wait until they are up
            yield from work.services.start(stopped, work.cancellation)


def stop_running(work: Work) -> Steps[None]:
    """Stop what runs, noted first: those that the engine, or somebody, started again meanwhile too."""
    work.expect_starts()
    running = work.services.running()
    if work.journal.stopped_at is None or running:
        stopped = tuple(dict.fromkeys([*work.journal.stopped, *running]))
        work.note(stopped=stopped, stopped_at=work.journal.stopped_at or datetime.now(UTC))
    yield from work.services.stop(running)


class Close(RestoreStep):
    """The live database, to everybody."""

    name = "close"

    @property
    def text(self) -> str:
        return f"Closing {self.work.journal.database} to connections"

    def commands(self) -> Sequence[str]:
        database = self.work.journal.database
        statements = (sql.allow_connections(database, False), sql.end_sessions([database]))
        return [self.work.server.shown(statement) for statement in statements]

    def run(self) -> Steps[None]:
        work = self.work
        yield from stop_running(work)
        work.note(live=same_live(work))
        work.server.close(work.journal.database)

    def undo(self) -> Steps[None]:
        live = self.work.server.properties(self.work.journal.database)
        if live and not live.datallowconn:
            self.work.server.open(live.datname)
        yield from ()


def same_live(work: Work) -> sql.Properties:
    """The live database as it is now. Raise OperationFailed when it isn't the one that was looked at first."""
    journal = work.journal
    live = work.server.properties(journal.database)
    if live is None or journal.live is None or live.oid != journal.live.oid:
        hint = "Somebody else works on the server's databases. Look at them, then begin anew."
        raise OperationFailed("database-changed", f"{journal.database} is another one than before.", hint=hint)
    return live


class Swap(RestoreStep):
    """Names, in one transaction: from here on there is no way back but a rollback."""

    name = "swap"

    @property
    def text(self) -> str:
        journal = self.work.journal
        return f"Giving the name {journal.database} to {journal.incoming}"

    def commands(self) -> Sequence[str]:
        return [self.work.server.shown(*self._renaming(keep=self.work.journal.replaced_as is not None))]

    def run(self) -> Steps[None]:
        work, journal = self.work, self.work.journal
        incoming = work.server.properties(journal.incoming)
        if incoming is None or incoming.oid != journal.incoming_oid:
            hint = "Somebody else works on the server's databases. Look at them, then begin anew."
            raise OperationFailed("database-changed", f"{journal.incoming} is gone.", hint=hint)
        live = work.server.properties(journal.database)
        if live and journal.replaced_as is None:
            hint = f"Drop or rename it if it isn't needed: what was restored is in {journal.incoming} until then."
            raise OperationFailed("name-taken", f"A database {journal.database} exists already.", hint=hint)
        work.cancellation.commit()
        if live is None:
            work.server.drop_invalid(journal.database)
        carried = sql.carry(journal.live, incoming) if journal.live else []
        names = [journal.database, journal.incoming]
        work.server.swap([*carried, *self._renaming(keep=live is not None)], names, Cancellation())
        work.committed = True
        work.note(swapped_at=datetime.now(UTC))
        yield from ()

    def _renaming(self, *, keep: bool) -> list[str]:
        journal = self.work.journal
        statements = [sql.rename(journal.incoming, journal.database)]
        if keep and journal.replaced_as:
            statements.insert(0, sql.rename(journal.database, journal.replaced_as))
            statements.append(sql.allow_connections(journal.replaced_as, True))
        return statements


class Keep(RestoreStep):
    """Note the replaced database, for a rollback."""

    name = "keep"

    @property
    def text(self) -> str:
        return f"Keeping what was replaced as {self.work.journal.replaced_as}"

    def run(self) -> Steps[None]:
        work, journal = self.work, self.work.journal
        if journal.kind == "rollback":
            work.replaced.remove(journal.incoming)
        if journal.replaced_as and (kept := work.server.properties(journal.replaced_as)):
            known = work.replaced.find(journal.replaced_as)
            now = datetime.now(UTC)
            keep_until = now + work.keep_replaced if journal.safety_backup else None
            work.replaced.put(known or Replaced(
                database=kept.datname, oid=kept.oid, replaced_at=journal.stopped_at or now, keep_until=keep_until,
                wanted=journal.safety_backup,
            ))  # fmt: skip
        yield from ()


class StartServices(RestoreStep):
    """Those that were stopped, and wait until they are up."""

    name = "start"

    @property
    def text(self) -> str:
        return "Starting the services again"

    def commands(self) -> Sequence[str]:
        return [self.work.engine.start_service(name).shown() for name in reversed(self.work.services.running())]

    def run(self) -> Steps[None]:
        work = self.work
        # One that was started meanwhile has seen another database, or none: its migrations must run on this one.
        early = work.services.running_since_before(work.journal.swapped_at)
        yield from work.services.stop(name for name in early if name in work.journal.stopped)
        yield from work.services.start(work.journal.stopped, work.cancellation)
        if not work.journal.stopped:
            yield Notice("No service ran before, so none is started.")
