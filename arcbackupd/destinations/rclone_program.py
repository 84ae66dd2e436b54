"""rclone itself: the options and the environment it is run with, what it tells, and how it fails."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arcbackupd.destinations import DestinationError, Transfer
from arcbackupd.destinations.program_errors import LastWords, meaning
from arcbackupd.destinations.programs import Tick, fields, nothing, started
from arcbackupd.stack.command import Command
from arcbackupd.stack.process import Finished

_NOT_THERE = (3, 4)
_OPTIONS = (
    "--use-json-log",
    "--ask-password=false",
    "--contimeout=15s",
    "--timeout=60s",
    "--retries=1",  # whoever asked tries again, and knows when
    "--low-level-retries=2",
    "--use-server-modtime",
)
SOON = ("--timeout=20s", "--low-level-retries=1")
"""For what shall fail soon when nobody answers."""
_TELL = ("--stats=0.5s", "--stats-log-level=NOTICE")
_ENVIRONMENT = {
    "TZ": "UTC",
    # A file's time is to say when it came, not how old its contents are.
    "RCLONE_LOCAL_NO_SET_MODTIME": "true",
    "RCLONE_SFTP_SET_MODTIME": "false",
}
_DATED = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?:[A-Z]+ *: )?")
_HARMLESS = ("debug", "info", "notice", "warning")


class RcloneFailed(DestinationError):
    """rclone ended with a status of its own. ``not_there``: because what it was to look at doesn't exist."""

    def __init__(self, cause: DestinationError, status: int) -> None:
        super().__init__(cause.code, cause.message, hint=cause.hint, passing=cause.passing)
        self.not_there = status in _NOT_THERE


@dataclass(frozen=True)
class Item:
    """What rclone tells of something on a remote; ``hash`` when it was asked for one, else empty."""

    path: str
    size: int
    modified_at: datetime
    is_dir: bool
    hash: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Item:
        """Read an object as ``lsjson`` writes it."""
        hashes = told.get("Hashes") or {}
        moment = datetime.fromisoformat(told["ModTime"]).astimezone(UTC)
        return cls(told["Path"], int(told["Size"]), moment, bool(told["IsDir"]), next(iter(hashes.values()), ""))


class Rclone:
    """rclone as it is run for the destination of that name. Everything raises RcloneFailed."""

    def __init__(self, name: str, config: Path) -> None:
        self._name = name
        self._config = config

    def command(self, *arguments: str) -> Command:
        """How it is run. What it must not show is in its configuration, which only it reads."""
        return Command(("rclone", f"--config={self._config}", *_OPTIONS, *arguments), _ENVIRONMENT)

    def ask(self, *arguments: str, tick: Tick = nothing) -> str:
        """Let it do something, and return what it writes."""
        return b"".join(self.blocks(*arguments, tick=tick)).decode("utf-8", "replace")

    def blocks(self, *arguments: str, tick: Tick) -> Generator[bytes, None, None]:
        """Yield what it writes; closing it before its end ends the program."""
        with started(self._name, self.command(*arguments), tick) as rclone:
            yield from rclone.blocks()
            self._end(rclone.finish())

    def items(self, path: str, *options: str, tick: Tick = nothing) -> list[Item]:
        """What is at a path of a remote; raise RcloneFailed, with ``not_there``, where nothing is."""
        with started(self._name, self.command("lsjson", path, "--no-mimetype", *options), tick) as rclone:
            # One to a line, which keeps a long list out of memory as text.
            found = [Item.of(told) for line in rclone.lines() if (told := fields(line.rstrip(",")))]
            self._end(rclone.finish())
        return found

    def file(self, path: str, tick: Tick = nothing) -> Item | None:
        """The file at a path of a remote; ``None`` where there is none, or something else."""
        # In a bucket every path is that of a directory, whether there is anything or not: so only files are told.
        told = json.loads(self.ask("lsjson", "--stat", "--files-only", "--no-mimetype", path, tick=tick) or "null")
        return Item.of(told) if told else None

    def hashes(self, path: str) -> tuple[str, ...]:
        """The hashes that a remote has of its files, by rclone's names."""
        try:
            told = json.loads(self.ask("backend", "features", path))
        except (RcloneFailed, ValueError):  # none is used then
            return ()
        return tuple(told.get("Hashes") or ())

    def move_bytes(self, *arguments: str, size: int, transfer: Transfer) -> None:
        """Let it transfer ``size`` bytes in all, telling how it goes on."""
        limit = () if transfer.limit is None else (f"--bwlimit={max(transfer.limit, 1)}B",)
        command = self.command(*arguments, *_TELL, *limit)
        told, words = 0, LastWords(_words_in)
        with started(self._name, command, lambda: transfer.advance(0), errors_too=True) as rclone:
            for line in rclone.lines():
                moved = min(int(fields(line).get("stats", {}).get("bytes", 0)), size)
                if moved > told:
                    transfer.advance(moved - told)
                    told = moved
                words.hear(line)
            self._end(rclone.finish(), str(words))
        transfer.advance(size - told)

    def _end(self, finished: Finished, said: str = "") -> None:
        if finished.status:
            raise RcloneFailed(
                meaning(self._name, said or str(LastWords(_words_in, finished.error))), finished.status
            )


def _words_in(line: str) -> str:
    told = fields(line)
    return "" if told.get("level") in _HARMLESS else str(told.get("msg") or _DATED.sub("", line))
