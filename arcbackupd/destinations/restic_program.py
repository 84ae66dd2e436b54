"""restic itself: how it is run for one repository, what it tells, and how it fails.

Only what writes takes a lock: one left behind by a program that was killed would stop others from tidying up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arcbackupd.destinations import Transfer
from arcbackupd.destinations.program_errors import LastWords, meaning
from arcbackupd.destinations.programs import Tick, fields, nothing, started
from arcbackupd.stack.command import Command
from arcbackupd.stack.process import Finished

_SOME_UNREADABLE = 3
_LOCKING_SECONDS = 10.0


@dataclass(frozen=True)
class Snapshot:
    """One of the repository's. ``size``: of what is in it, where this restic tells."""

    id: str
    taken_at: datetime
    path: str
    tags: frozenset[str]
    size: int | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Snapshot:
        """Read an object as ``snapshots --json`` writes it."""
        size = (told.get("summary") or {}).get("total_bytes_processed")
        moment = datetime.fromisoformat(told["time"]).astimezone(UTC)
        return cls(told["id"], moment, told["paths"][0], frozenset(told.get("tags") or ()), size)

    @property
    def file(self) -> str:
        """The path in it of its only file: a name alone, because restic was run beside that file."""
        return "/" + self.path.rpartition("/")[2]

    def value(self, tag: str) -> str:
        """What stands behind a tag like ``name=``; empty when it has none."""
        return next((found.removeprefix(tag) for found in self.tags if found.startswith(tag)), "")


@dataclass(frozen=True)
class Done:
    """What came of a transfer: the snapshot that was made, and the paths that couldn't be read, and why."""

    snapshot: str
    unread: Mapping[str, str]


class _Held:
    """A tick whose errors wait, a few seconds at most, until restic is past taking its lock.

    Interrupted in the middle of that, restic leaves the lock behind, and nobody could remove anything any more.
    """

    def __init__(self, advance: Callable[[int], None], seconds: float) -> None:
        self._advance = advance
        self._until = time.monotonic() + seconds
        self._error: Exception | None = None

    def __call__(self) -> None:
        try:
            self._advance(0)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is raised in the end
            self._error = self._error or error
        if self._error is not None and time.monotonic() >= self._until:
            raise self._error

    def past(self) -> None:
        """From now on errors are raised at once; one that waited is."""
        self._until = 0.0
        if self._error is not None:
            raise self._error


class Restic:
    """restic as it is run for the destination of that name. Everything raises DestinationError."""

    def __init__(self, name: str, environment: Mapping[str, str], options: tuple[str, ...]) -> None:
        self._name = name
        self._environment = environment
        self._options = options

    def ask(self, *arguments: str, tick: Tick = nothing) -> str:
        """Let it do something, and return what it writes."""
        return b"".join(self.blocks(*arguments, tick=tick)).decode("utf-8", "replace")

    def blocks(self, *arguments: str, tick: Tick) -> Generator[bytes, None, None]:
        """Yield what it writes; closing it before its end ends the program."""
        with started(self._name, self._command(*arguments), tick) as restic:
            yield from restic.blocks()
            self._end(restic.finish())

    def snapshots(self, *tags: str, tick: Tick = nothing) -> tuple[Snapshot, ...]:
        """Those that have all of these tags, the oldest first."""
        told = json.loads(
            self.ask("snapshots", "--json", "--no-lock", f"--tag={','.join(tags)}", tick=tick) or "null"
        )
        return tuple(sorted(map(Snapshot.of, told or ()), key=lambda snapshot: snapshot.taken_at))

    def contents(self, snapshot: str, tick: Tick) -> tuple[Snapshot, int]:
        """A snapshot and the bytes of all files in it."""
        told = list(map(fields, self.ask("ls", "--json", "--no-lock", snapshot, tick=tick).splitlines()))
        size = sum(int(node.get("size", 0)) for node in told if node.get("type") == "file")
        return Snapshot.of(told[0]), size

    def work(self, *arguments: str, transfer: Transfer, size: int | None = None, cwd: Path | None = None) -> Done:
        """Let it transfer, telling how it goes on.

        ``size``: the bytes that there are in all, when that is known.
        """
        limit = () if transfer.limit is None else (_limit("upload", transfer), _limit("download", transfer))
        command = self._command(arguments[0], "--json", *limit, *arguments[1:], cwd=cwd)
        held = _Held(transfer.advance, _LOCKING_SECONDS if arguments[0] == "backup" else 0)
        told, words, made, unread = 0, LastWords(_words_in), "", dict[str, str]()
        with started(self._name, command, held, errors_too=True) as restic:
            for line in restic.lines():
                news = fields(line)
                if "total_files" in news:  # it has begun to look, which it does with the lock
                    held.past()
                done = int(news.get("bytes_done", news.get("bytes_restored", 0)))
                if (moved := min(done, done if size is None else size) - told) > 0:
                    transfer.advance(moved)
                    told += moved
                words.hear(line)
                unread.update(_unread(news))
                made = news.get("snapshot_id", made)
            self._end(restic.finish(), str(words), expected=(0, _SOME_UNREADABLE))
        transfer.advance(0 if size is None or unread else size - told)
        return Done(made, unread)

    def _command(self, *arguments: str, cwd: Path | None = None) -> Command:
        argv = ("restic", arguments[0], *self._options, *arguments[1:])
        return Command(argv, self._environment, cwd=None if cwd is None else str(cwd))

    def _end(self, finished: Finished, said: str = "", expected: tuple[int, ...] = (0,)) -> None:
        if finished.status not in expected:
            raise meaning(self._name, said or str(LastWords(_words_in, finished.error)))


def _limit(way: str, transfer: Transfer) -> str:
    return f"--limit-{way}={max((transfer.limit or 0) // 1024, 1)}"  # in KiB, and 0 would be none


def _unread(news: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    # While it counts what there is, it tells of the same that it tells of when it comes to read it.
    if news.get("message_type") == "error" and news.get("during") != "scan":
        yield str(news.get("item")), _reason(news.get("error"))


def _reason(error: object) -> str:
    """What restic tells of an error: versions before 0.15 told nothing of most."""
    if isinstance(error, dict):
        error = error.get("message")
    return str(error or "it could not be read")


def _words_in(line: str) -> str:
    news = fields(line)
    if not news:
        return line
    return str(news.get("message", "")) if news.get("message_type") == "exit_error" else ""
