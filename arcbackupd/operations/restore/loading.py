"""Load a dump into a database: decompress, let psql have what it may have, check what it says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arcbackupd.dumps.catalogue import Backup, open_backup
from arcbackupd.dumps.dumpfile import DamagedDump, sql_blocks
from arcbackupd.dumps.loading import CopyCheck, LoadText, RefusedText, adapt_header
from arcbackupd.dumps.manifest import Manifest
from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.niceness import NORMAL, Niceness
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Notice, Progress, Step, Steps
from arcbackupd.operations.restore.server import Server
from arcbackupd.postgres import LOAD_APPLICATION, SEND_AUTOVACUUM_AWAY
from arcbackupd.stack.process import OUTPUT_LIMIT, Dialogue, Finished, InputClosed

_PROGRESS_SECONDS = 0.25
_DISK_FULL = "No space left on device"
_PATIENCE = f"{SEND_AUTOVACUUM_AWAY};\n".encode()


@dataclass(frozen=True)
class Loading:
    """A backup, and the database that it is loaded into. ``restricted``: whether psql knows ``\\restrict``."""

    path: Path
    backup: Backup
    server: Server
    database: str
    server_major: int
    restricted: bool
    niceness: Niceness = NORMAL


@dataclass(frozen=True)
class Loaded:
    """What the dump said of itself on its way: how many of its constraints it makes without checking them."""

    not_valid: int


def load(loading: Loading, cancellation: Cancellation) -> Steps[Loaded]:
    """Load it whole. Raise OperationFailed when anything of it isn't what it should be; nothing is undone then."""
    session = _session(loading.server, loading.database, loading.niceness)
    with session as psql, cancellation.interrupting(psql.kill):
        try:
            if why := psql.begin():
                yield Notice(f"The dump is loaded through the engine's stream, the slower path: {why}.")
            return (yield from _load(loading, psql, cancellation))
        except RefusedText as error:
            hint = "arcbackupd loads what pg_dump writes and nothing else; if you trust the rest, load it by hand."
            if not loading.restricted:
                hint = (
                    f"A newer image of PostgreSQL {loading.server_major}, whose psql is safer, may take it. {hint}"
                )
            raise OperationFailed("unsafe-dump", f"{loading.backup.name} holds {error}.", hint=hint) from None
        except DamagedDump as error:
            raise _damaged(loading, str(error)) from None
        except OSError as error:
            raise _damaged(loading, f"it can't be read: {error.strerror}") from error


def analyze(server: Server, database: str, cancellation: Cancellation) -> Steps[None]:
    """Let the planner know the new data before anybody waits for its plans."""
    yield from run_script(server, database, _PATIENCE + b"ANALYZE;\n", cancellation)


def run_script(
    server: Server, database: str, script: bytes, cancellation: Cancellation, niceness: Niceness = NORMAL
) -> Steps[bytes]:
    """Run what may take long, as a load may; return what psql answers. Raise OperationFailed with what it said."""
    answers = bytearray()
    with _session(server, database, niceness) as psql, cancellation.interrupting(psql.kill):
        began = time.monotonic()
        yield Progress(0, None, 0, 0.0)
        with contextlib.suppress(InputClosed):
            psql.begin()
            psql.write(script, answers.extend)
        psql.end_input()
        while answer := psql.read():
            answers += answer
            if len(answers) > OUTPUT_LIMIT:
                raise OperationFailed("too-much-output", f"psql has more to say of {database} than can be read.")
            yield Progress(0, None, 0, round(time.monotonic() - began, 3))
        finished = psql.finish(timeout=None)
        cancellation.check()
        if finished.status:
            raise server.database(database).explain(finished, "psql")
    return bytes(answers)


@contextlib.contextmanager
def _session(server: Server, database: str, niceness: Niceness) -> Iterator[Dialogue]:
    """A psql to be fed; whatever goes wrong, the server's side of it is ended too."""
    application = f"{LOAD_APPLICATION}-{secrets.token_hex(6)}"
    try:
        with server.database(database).open_load(application, niceness=niceness) as psql:
            yield psql
    except BaseException as failure:
        try:
            server.end_application(application)
        except ArcbackupdError as error:  # the first failure stays the one that is told
            failure.add_note(f"The server's side of it could not be ended: {error.message}")
        raise


def _load(loading: Loading, psql: Dialogue, cancellation: Cancellation) -> Steps[Loaded]:
    text = LoadText(loading.restricted)
    answers = _Answers(loading, CopyCheck(text, loading.backup.rows))
    with open_backup(loading.path) as file:
        _check_same(loading, file)
        with contextlib.suppress(InputClosed):  # it ended: how, it tells now
            yield from _feed(loading, file, psql, text, answers)
        finished = psql.finish(timeout=None)
    cancellation.check()
    if finished.status:
        raise _failed(loading, finished, text)
    answers.finish()
    return Loaded(text.not_valid)


class _Answers:
    """What psql says while it loads. Raises OperationFailed for what differs from the manifest.

    It waits for the next answer before it does: where psql's input broke off, a table was simply shorter, and that
    is the last that psql says.
    """

    def __init__(self, loading: Loading, check: CopyCheck) -> None:
        self._loading = loading
        self._check = check
        self._problem: str | None = None
        self._last = b""
        self.last_word = secrets.token_hex(16).encode()
        """What psql says when it has done all that it was given."""

    def hear(self, answer: bytes) -> None:
        """Check the next piece."""
        self._raise_for(self._problem)
        self._problem = self._check.feed(answer)
        self._last = (self._last + answer)[-2 * len(self.last_word) :]

    def finish(self) -> None:
        """Check the whole of it."""
        if self.last_word not in self._last:
            message = f"psql ended before it had loaded the last of {self._loading.backup.name}."
            hint = (
                "Its container was stopped, or the engine restarted: `docker ps -a` tells. The backup may be fine."
            )
            raise OperationFailed("load-cut", message, hint=hint)
        self._raise_for(self._problem or self._check.finish())

    def _raise_for(self, problem: str | None) -> None:
        if problem:
            raise _differs(self._loading, problem)


def _feed(loading: Loading, file: BinaryIO, psql: Dialogue, text: LoadText, answers: _Answers) -> Steps[None]:
    """All of the dump, through psql."""
    digest = hashlib.sha256()
    length = 0
    began = told = time.monotonic()
    if loading.restricted:
        text.insert(b"\\restrict %s\n" % secrets.token_hex(16).encode())
    text.insert(_PATIENCE)
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
            psql.write(piece, answers.hear)
        if (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
            told = now
            yield _progress(loading, length, text, now - began)
    _check_read(loading, length, digest.hexdigest())
    # An engine's client that is told to stop ends with 0: only psql's own word says that it got to the end.
    # Behind rows and an empty statement a psql of 18 answers nothing any more: none may stand before it.
    for piece in [*text.finish(), memoryview(b"\nSELECT '%s';\n" % answers.last_word)]:
        psql.write(piece, answers.hear)
    psql.end_input()
    yield Step("finish-load", "Building indexes and constraints")
    while answer := psql.read():
        answers.hear(answer)


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
    hint = "The disk may be failing (`journalctl -k`). Use another one: `arcbackupctl list`."
    return OperationFailed("damaged-dump", f"{loading.backup.name} can't be loaded: {why}.", hint=hint)


def _differs(loading: Loading, problem: str) -> OperationFailed:
    hint = "The dump doesn't hold what it says it holds. Use another one: `arcbackupctl list`."
    return OperationFailed("rows-differ", f"{loading.backup.name} was not loaded whole: {problem}.", hint=hint)


def _failed(loading: Loading, finished: Finished, text: LoadText) -> ArcbackupdError:
    """psql's error, which names the line of the dump, in one sentence."""
    line = next((line for line in finished.error.splitlines() if _ERROR.search(line)), None)
    if line is None or _SERVER_WENT.search(finished.error):  # which says nothing of the dump
        return loading.server.database(loading.database).explain(finished, "psql")
    said = _ERROR.sub("", line).strip().rstrip(".")
    if _DISK_FULL in line:
        return OperationFailed("disk-full", f"The database's disk is full: {said}.", hint="Free some space there.")
    where = _LINE.search(line)
    place = f" at line {text.line_of_dump(int(where[1]))} of its SQL" if where else ""
    hint = "The dump doesn't fit this server (its version, its extensions), or holds an error of its own."
    return OperationFailed("load-failed", f"{loading.backup.name} can't be loaded: {said}{place}.", hint=hint)


_ERROR = re.compile(r"^.*?(?:ERROR|FATAL|PANIC|error):\s*")
_LINE = re.compile(r"^psql:<stdin>:(\d+):")
_SERVER_WENT = re.compile(
    r"^(?:psql:<stdin>:\d+: )?(?:FATAL:  terminating connection|server closed the connection unexpectedly)",
    re.MULTILINE,
)
