"""Load a dump into a database: decompress, let psql have what it may have, check what it says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arcbackupd.dumps.catalogue import Backup, open_backup
from arcbackupd.dumps.dumpfile import DamagedDump, sql_blocks
from arcbackupd.dumps.loading import LoadText, RefusedText, adapt_header
from arcbackupd.dumps.manifest import Manifest
from arcbackupd.dumps.sharing import Share
from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Notice, Progress, Step, Steps
from arcbackupd.operations.restore.server import Server
from arcbackupd.operations.restore.sessions import (
    LARGE_ROWS,
    PATIENCE,
    LoadProblem,
    Session,
    SessionEnded,
    Sessions,
)
from arcbackupd.postgres import LOAD_APPLICATION
from arcbackupd.stack.process import Dialogue, Finished, InputClosed

_PROGRESS_SECONDS = 0.25
_DISK_FULL = "No space left on device"
_FINISHING = (Share.KEY, Share.INDEX, Share.FOREIGN_KEY)
_FINISH = Step("finish-load", "Building indexes and constraints")


@dataclass(frozen=True)
class Loading:
    """A backup, and the database that it is loaded into.

    ``restricted``: whether psql knows ``\\restrict``; ``jobs``: how many sessions may load at the same time.
    """

    path: Path
    backup: Backup
    server: Server
    database: str
    server_major: int
    restricted: bool
    jobs: int

    @property
    def sessions(self) -> int:
        """How many are worth it."""
        return self.jobs if max(self.backup.rows.values(), default=0) >= LARGE_ROWS else 1


def load(loading: Loading, cancellation: Cancellation) -> Steps[None]:
    """Load it whole. Raise OperationFailed when anything of it isn't what it should be; nothing is undone then."""
    database = loading.server.database(loading.database)

    def start(application: str) -> Dialogue:
        return database.open_load(application, sessions=loading.sessions)

    with _open_sessions(loading.server, start, loading.sessions, cancellation) as psqls:
        try:
            first, *_ = [psql.begin() for psql in psqls]
            if first:
                yield Notice(f"The dump is loaded through the engine's stream, the slower path: {first}.")
            yield from _load(loading, psqls, cancellation)
        except RefusedText as error:
            hint = "arcbackupd loads what pg_dump writes and nothing else; if you trust the rest, load it by hand."
            raise OperationFailed("unsafe-dump", f"{loading.backup.name} holds {error}.", hint=hint) from None
        except DamagedDump as error:
            raise _damaged(loading, str(error)) from None
        except OSError as error:
            raise _damaged(loading, f"it can't be read: {error.strerror}") from error


def analyze(server: Server, database: str, cancellation: Cancellation) -> Steps[None]:
    """Let the planner know the new data before anybody waits for its plans."""

    def start(application: str) -> Dialogue:
        return Dialogue(server.database(database).load_command(application))

    with _open_sessions(server, start, 1, cancellation) as (psql,):
        began = time.monotonic()
        yield Progress(0, None, 0, 0.0)
        with contextlib.suppress(InputClosed):
            psql.write(PATIENCE + b"ANALYZE;\n")
        psql.end_input()
        while psql.read():
            yield Progress(0, None, 0, round(time.monotonic() - began, 3))
        finished = psql.finish(timeout=None)
        cancellation.check()
        if finished.status:
            raise server.database(database).explain(finished, "psql")


@contextlib.contextmanager
def _open_sessions(
    server: Server, start: Callable[[str], Dialogue], count: int, cancellation: Cancellation
) -> Iterator[list[Dialogue]]:
    """Some psql to be fed, known to the server by the name they are started with.

    Whatever goes wrong, the server's side of them is ended too.
    """
    application = f"{LOAD_APPLICATION}-{secrets.token_hex(6)}"
    try:
        with contextlib.ExitStack() as opened:
            psqls = [opened.enter_context(start(application)) for _ in range(count)]

            def kill() -> None:
                for psql in psqls:
                    psql.kill()

            with cancellation.interrupting(kill):
                yield psqls
    except BaseException as failure:
        try:
            server.end_application(application)
        except ArcbackupdError as error:  # the first failure stays the one that is told
            failure.add_note(f"The server's side of it could not be ended: {error.message}")
        raise


def _load(loading: Loading, psqls: Sequence[Dialogue], cancellation: Cancellation) -> Steps[None]:
    text = LoadText(loading.restricted)
    sessions = Sessions(psqls, text, loading.backup.rows)
    with open_backup(loading.path) as file:
        _check_same(loading, file)
        try:
            yield from _feed(loading, file, sessions, text)
            for session in sessions.all:
                _let_end(loading, session, cancellation)
        except SessionEnded as ended:
            _let_end(loading, ended.session, cancellation)
            raise _differs(loading, "psql ended before it had loaded the last of it") from None
        except LoadProblem as error:
            raise _differs(loading, str(error)) from None
    if problem := sessions.problem():
        raise _differs(loading, problem)


def _feed(loading: Loading, file: BinaryIO, sessions: Sessions, text: LoadText) -> Steps[None]:
    """All of the dump, through psql."""
    digest = hashlib.sha256()
    length = 0
    began = told = time.monotonic()
    finishing = False
    sessions.begin(restricted=loading.restricted)
    for number, block in enumerate(sql_blocks(file)):
        digest.update(block)
        length += len(block)
        if number == 0:
            block, left_out = adapt_header(block, loading.server_major)  # noqa: PLW2901  # the header is in the first
            text.leave_out(len(left_out))
            if left_out:
                yield Notice(
                    f"The server doesn't know {', '.join(left_out)} yet; the dump's settings of it are left out"
                )
        for piece in text.feed(block):
            if piece.shared.share in _FINISHING and not finishing:
                finishing = True
                yield _FINISH
            sessions.give(piece)
        if (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
            told = now
            yield _progress(loading, length, text, now - began)
    _check_read(loading, length, digest.hexdigest())
    for piece in text.finish():
        sessions.give(piece)
    if not finishing:
        yield _FINISH
    # An engine's client that is told to stop ends with 0: only psql's own word says that it got to the end.
    sessions.finish()


def _let_end(loading: Loading, session: Session, cancellation: Cancellation) -> None:
    """Hear a session to its end. Raise OperationFailed with what went wrong."""
    with contextlib.suppress(SessionEnded):
        while True:
            session.hear()
    finished = session.psql.finish(timeout=None)
    cancellation.check()
    if finished.status:
        raise _failed(loading, session, finished)


def _progress(loading: Loading, length: int, text: LoadText, elapsed: float) -> Progress:
    backup = loading.backup
    total = backup.manifest.sql_length if backup.manifest else backup.scan.length if backup.scan else None
    table = text.copies[-1] if text.copies else None
    all_rows = sum(backup.rows.values())
    eta = elapsed * (all_rows - text.rows) / text.rows if text.rows and all_rows else None
    return Progress(
        length, table.name if table else None, table.rows if table else 0, round(elapsed, 3), total,
        eta_s=eta if eta is None else round(max(eta, 0.0), 1),
    )  # fmt: skip


def _check_same(loading: Loading, file: BinaryIO) -> None:
    status = os.fstat(file.fileno())
    known = loading.backup.identity
    if (status.st_ino, status.st_size) != (known.inode, known.size):
        raise _damaged(loading, "it is another file than the one that was looked at")


def _check_read(loading: Loading, length: int, sha256: str) -> None:
    known = loading.backup.manifest or loading.backup.scan
    expected = (known.sql_length, known.sql_sha256) if isinstance(known, Manifest) else known and (
        known.length, known.sha256)  # fmt: skip
    if (length, sha256) != expected:
        raise _damaged(loading, "its SQL isn't the one that was written: the SHA-256 differs")


def _damaged(loading: Loading, why: str) -> OperationFailed:
    hint = "The disk may be failing (`journalctl -k`). Restore another one: `arcbackupctl list`."
    return OperationFailed("damaged-dump", f"{loading.backup.name} can't be loaded: {why}.", hint=hint)


def _differs(loading: Loading, problem: str) -> OperationFailed:
    hint = "The dump doesn't hold what it says it holds. Restore another one: `arcbackupctl list`."
    return OperationFailed("rows-differ", f"{loading.backup.name} was not loaded whole: {problem}.", hint=hint)


def _failed(loading: Loading, session: Session, finished: Finished) -> ArcbackupdError:
    """psql's error, which names the line of the dump, in one sentence."""
    line = next((line for line in finished.error.splitlines() if _ERROR.search(line)), None)
    if line is None:
        return loading.server.database(loading.database).explain(finished, "psql")
    said = _ERROR.sub("", line).strip().rstrip(".")
    if _DISK_FULL in line:
        return OperationFailed("disk-full", f"The database's disk is full: {said}.", hint="Free some space there.")
    where = _LINE.search(line)
    place = f" at line {session.line_of_dump(int(where[1]))} of its SQL" if where else ""
    hint = "The dump doesn't fit this server (its version, its extensions), or holds an error of its own."
    return OperationFailed("load-failed", f"{loading.backup.name} can't be loaded: {said}{place}.", hint=hint)


_ERROR = re.compile(r"^.*?(?:ERROR|FATAL|PANIC|error):\s*")
_LINE = re.compile(r"^psql:<stdin>:(\d+):")
