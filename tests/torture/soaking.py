"""An installation without containers under a clock of its own, and what should be there at any of its days."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from tests.e2e.restoring import call
from tests.harness.daemon import Daemon
from tests.harness.embedded import EmbeddedPostgres
from tests.harness.faked_clock import FakedClock
from tests.harness.process import wait_until
from tests.harness.stack import ArcsecondStack, to_toml
from tests.torture.checker import PUBLISHED, taken_at

SECONDS = 60.0
KEEP = timedelta(days=14)
KEEP_CONTENTS = 3
_ALWAYS = datetime.min.replace(tzinfo=UTC)
DOUBT = timedelta(days=1)
"""For so long after a jump of the clock nothing is pruned."""


class Installation:
    """What the harness' Daemon needs to know of an installation whose PostgreSQL runs on the host itself."""

    def __init__(self, server: EmbeddedPostgres, directory: Path, password: str) -> None:
        self.server = server
        self.directory = directory
        self.db = "observatory"
        self.password = password
        self.backups = directory / "shared" / "db_backups"
        self.state_dir = directory / "state"
        self.control_socket = directory / "control.sock"
        (directory / "shared").mkdir()
        env = directory / ".env"
        env.touch(mode=0o600)
        env.write_text(
            f"SHARED_DATA_PATH=shared\nPOSTGRES_DB={self.db}\nPOSTGRES_USER={server.superuser}\n"
            f"POSTGRES_PASSWORD={password}\n"
        )

    def settings(self, **overrides: Any) -> dict[str, Any]:
        """Return the daemon's settings for it."""
        local = {"bin_dir": str(self.server.bin_dir), "host": str(self.server.socket_dir)}
        if self.server.user:
            local["os_user"] = self.server.user
        engine = {"kind": "local", "services": [], "local": local}
        own = {"install_dir": str(self.directory), "state_dir": str(self.state_dir), "engine": engine}
        return {**own, "control": {"socket": str(self.control_socket)}, **overrides}

    def settings_toml(self, **overrides: Any) -> str:
        """Return the same as the text of a config.toml."""
        return to_toml(self.settings(**overrides))


class SleepingDaemon(Daemon):
    """The real daemon, on a host whose clocks the test moves."""

    module = "tests.harness.dying"


@dataclass
class Model:
    """What retention should have left: a few lines that know the promise, and nothing of how it is kept.

    `contents` tells, of each name there should be, which version of the database it holds.
    """

    contents: dict[str, object] = field(default_factory=dict)
    no_prune_before: datetime = _ALWAYS

    def prune(self, now: datetime) -> None:
        """Do as the daily prune should."""
        newest_first = sorted(self.contents, key=taken_at, reverse=True)
        if now < self.no_prune_before or now - taken_at(newest_first[0]) > KEEP:
            return
        last = dict.fromkeys(self.contents[name] for name in newest_first)
        newest_of = {content: next(n for n in newest_first if self.contents[n] == content) for content in last}
        safe = set(list(newest_of.values())[:KEEP_CONTENTS])
        for name in newest_first:
            if name not in safe and taken_at(newest_first[0]) - taken_at(name) > KEEP:
                del self.contents[name]

    def of_kind(self, kind: str) -> list[str]:
        """Return the names of a kind."""
        return [name for name in self.contents if name.startswith(f"{kind}-")]


@dataclass
class Month:
    """A daemon that lives through a month, step by step: the clock goes on once its work is done."""

    installation: Installation
    daemon: Daemon
    clock: FakedClock
    model: Model = field(default_factory=Model)
    version: int = 0

    def wait_begun(self) -> None:
        """Wait for the first dump, and for the scheduler, which notes since when it knows each job."""
        [name] = self.daemon.wait_backups(1)
        self.model.contents[name] = self.version
        noted = self.installation.state_dir / "jobs.json"
        wait_until(lambda: noted.exists() and "prune" in noted.read_text(), "the scheduler", seconds=SECONDS)

    def change(self) -> None:
        """Let the database have another content."""
        self.version += 1
        self.installation.server.psql(
            f"INSERT INTO frames SELECT n, md5(n::text || {self.version}) FROM generate_series(1, 200) AS n",
            self.installation.db,
        )

    def files(self) -> dict[str, Path]:
        """Return what is under backups' names."""
        return {path.name: path for path in self.installation.backups.iterdir() if PUBLISHED.fullmatch(path.name)}

    def until(self, moment: datetime, job: str) -> str:
        """Sleep until a moment at which a job is due, and wait for its end; return how it ended."""
        self.clock.set(moment)
        return (
            wait_until(lambda: self._ran(job, moment), f"{job} at {moment}", seconds=SECONDS, interval=0.03) or ""
        )

    def _ran(self, job: str, since: datetime) -> str | None:
        self.daemon.require_running()
        row = next(row for row in call(self.daemon, "Jobs")["jobs"] if row["name"] == job)
        ended = row["last_run"] and datetime.fromisoformat(row["last_run"]) >= since
        return str(row["last_outcome"]) if ended else None

    def dump(self, moment: datetime) -> str:
        """Expect one dump at a moment, and nothing else; return its name."""
        before = set(self.files())
        assert self.until(moment, "dump") == "done", self.daemon.log()
        [name] = set(self.files()) - before
        assert moment <= taken_at(name) + timedelta(seconds=1) <= self.clock.now() + timedelta(seconds=1)
        self.model.contents[name] = self.version
        return name

    def failed_dump(self, moment: datetime) -> None:
        """Expect a dump to fail at a moment, and to leave nothing."""
        before = set(self.files())
        assert self.until(moment, "dump") == "failed"
        assert set(self.files()) == before

    def prune(self, moment: datetime) -> None:
        """Expect what the model expects of a prune."""
        self.until(moment, "prune")
        self.model.prune(self.clock.now())
        there, expected = set(self.files()), set(self.model.contents)
        assert there == expected, (
            f"{moment}: too many {sorted(there - expected)}, missing {sorted(expected - there)}"
        )

    def check_day(self) -> None:
        """Look at what is there: every kind, every content once on the disk, and what the client says of it."""
        files = self.files()
        rows = call(self.daemon, "List")["backups"]
        for kind in ("backup", "pre-restore"):
            assert sorted(row["name"] for row in rows if row["kind"] == kind) == sorted(self.model.of_kind(kind))
        assert {row["status"] for row in rows} <= {"unknown"}, (
            "there is no backend to compare with, and none is broken"
        )
        by_inode: dict[int, set[object]] = {}
        for name in self.model.of_kind("backup"):
            by_inode.setdefault(files[name].stat().st_ino, set()).add(self.model.contents[name])
        assert all(len(contents) == 1 for contents in by_inode.values())
        assert len(by_inode) == len({self.model.contents[name] for name in self.model.of_kind("backup")})
        assert not list(self.installation.backups.glob(".*.partial"))


def begin(installation: Installation, clock: FakedClock, schedule: str) -> Month:
    """Return a month whose daemon is planned, and not started."""
    jobs = {
        "dump": {"schedule": schedule},
        "prune": {"schedule": "30 12 * * *"},
        "discard": {"schedule": "every 1h"},
    }
    daemon = SleepingDaemon(
        cast(ArcsecondStack, installation),  # as far as a Daemon asks, it is one
        # A zone that changes to summer time on 29 March: nothing may depend on it.
        environment={**clock.environment, "TZ": "Europe/Berlin"},
        jobs=jobs,
        dump={"wait_for_database": "1s"},
    )
    return Month(installation, daemon, clock)
