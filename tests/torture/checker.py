"""What must hold after any fault, looked at from outside: the files, the server, the engine, the process table.

Nothing of arcbackupd is imported, asked or believed: a bug of the daemon's must not hide itself here. What is used
is the standard library and the command lines of docker and psql.

    ledger = take_ledger(site)
    …a fault…
    findings = check(site, ledger)      # sentences; none when every promise held
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.torture.dump_reading import Reading, read_dump

PUBLISHED = re.compile(r"(backup|pre-restore)-(\d{8}-\d{6})\.sql\.gz")
KEEP_DAYS = 14
SCRATCH = "torture_scratch"
_LOCK = ".arcbackupd.lock"
_OURS = "arcbackupd-tests"
_PIPES = "find /tmp /dev/shm /var/tmp -name 'arcbackupd-pipe-*'"


@dataclass(frozen=True)
class Site:
    """Where everything is. `databases` are the tests' own beside the live one, `secret` what nobody may tell."""

    docker_host: str
    database: str
    services: tuple[str, ...]
    user: str
    db: str
    secret: str
    backups: Path
    state_dir: Path
    log: Path
    databases: tuple[str, ...] = ()
    at_rest: tuple[str, ...] = ("events",)
    """Words of command lines that may name our containers while the daemon rests."""


@dataclass(frozen=True)
class Ledger:
    """What was there before a fault: the good dumps by name, and the live database's content."""

    good: dict[str, str]
    live: dict[str, str]


# Asking docker and psql


def docker(site: Site, *arguments: str, stdin: bytes | int | None = None, seconds: float = 120) -> str:
    """Run docker and return what it printed. Raise CalledProcessError with its stderr."""
    done = subprocess.run(
        ["docker", *arguments],
        env={**os.environ, "DOCKER_HOST": site.docker_host, "PGPASSWORD": site.secret, "PGAPPNAME": _OURS},
        input=stdin if isinstance(stdin, bytes) else None,
        stdin=None if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=True,
    )
    return done.stdout.decode()


def psql(site: Site, sql: str, db: str | None = None) -> str:
    """Run SQL and return its rows, columns parted by `|`."""
    argv = ["exec", "-i", "-e", "PGPASSWORD", "-e", "PGAPPNAME", site.database, "psql", "-XAtq", "-v"]
    argv += ["ON_ERROR_STOP=1", "-U", site.user, "-d", db or site.db, "-f", "-"]
    return docker(site, *argv, stdin=sql.encode()).rstrip("\n")


def content(site: Site, db: str | None = None) -> dict[str, str]:
    """Return how many rows each table has and a sum of their hashes, and the state of each sequence."""
    listed = psql(
        site,
        "SELECT c.relkind, quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'S')"
        " AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 2",
        db,
    )
    kinds = [line.split("|", 1) for line in listed.splitlines()]
    rows = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {} AS t;"
    state = "SELECT last_value, is_called FROM {};"
    sums = psql(site, "\n".join((rows if kind == "r" else state).format(name) for kind, name in kinds), db)
    return dict(zip((name for _, name in kinds), sums.splitlines(), strict=True))


# Before


_read: dict[str, Reading] = {}
"""What was read, by the hash of the file's bytes: a file that is the same isn't parsed again."""


def reading_of(path: Path) -> Reading:
    """Read a file's bytes, always; parse them, unless these very bytes were parsed before."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in _read:
        _read[digest] = read_dump(path)
    return _read[digest]


def published(site: Site) -> dict[str, Path]:
    """Return the files under backups' names."""
    if not site.backups.is_dir():
        return {}
    return {path.name: path for path in sorted(site.backups.iterdir()) if PUBLISHED.fullmatch(path.name)}


def take_ledger(site: Site) -> Ledger:
    """Note what must not be lost."""
    readings = {name: reading_of(path) for name, path in published(site).items()}
    good = {name: reading.sha256 for name, reading in readings.items() if reading.problem is None}
    return Ledger(good, content(site))


# After


def check(
    site: Site,
    ledger: Ledger,
    *,
    live: Sequence[dict[str, str]] = (),
    damaged: Sequence[str] = (),
    replaced: Sequence[str] = (),
    pipes_may_stay: bool = False,
    all_stay: bool = False,
) -> list[str]:
    """Return a sentence for each promise that doesn't hold.

    `live` are the contents that the live database may have (what it had before, when none is given), `damaged` the
    names that the fault itself spoiled, `replaced` the databases that the daemon says it keeps for a rollback.
    A container that was killed may keep a pipe for an hour. With `all_stay` retention has no say.
    """
    readings = {name: reading_of(path) for name, path in published(site).items()}
    found = [*_incomplete(readings, damaged), *_lost(ledger, readings, damaged, all_stay)]
    found += _live(site, live or [ledger.live])
    found += [*_left_on_disk(site), *_left_on_server(site, replaced), *_left_in_containers(site, pipes_may_stay)]
    found += [*left_running(site), *_stopped_or_frozen(site), *told(site.secret, site.log)]
    return found


def _incomplete(readings: dict[str, Reading], damaged: Sequence[str]) -> Iterator[str]:
    for name, reading in readings.items():
        if reading.problem and name not in damaged:
            yield f"{name} is published and isn't whole: {reading.problem}"


def _lost(ledger: Ledger, readings: dict[str, Reading], damaged: Sequence[str], all_stay: bool) -> Iterator[str]:
    there = {name: reading.sha256 for name, reading in readings.items()}
    for name, sha256 in ledger.good.items():
        if name in damaged or (name not in there and not all_stay and may_go(name, ledger.good)):
            continue
        if name not in there:
            yield f"{name} was good, and is gone"
        elif there[name] != sha256:
            yield f"{name} holds something else than before"


def may_go(name: str, good: dict[str, str]) -> bool:
    """Return whether retention as the settings have it (14 days, the 3 newest contents) may remove a good dump."""
    newest_first = sorted(good, key=taken_at, reverse=True)
    contents = list(dict.fromkeys(good[other] for other in newest_first))[:3]
    is_newest_of_its_content = next(other for other in newest_first if good[other] == good[name]) == name
    if good[name] in contents and is_newest_of_its_content:
        return False
    return taken_at(newest_first[0]) - taken_at(name) > timedelta(days=KEEP_DAYS) - timedelta(minutes=5)


def taken_at(name: str) -> datetime:
    """Return the time that a backup's name tells."""
    match = PUBLISHED.fullmatch(name)
    assert match, name
    return datetime.strptime(match[2], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)


def _live(site: Site, allowed: Sequence[dict[str, str]]) -> Iterator[str]:
    try:
        now = content(site)
    except subprocess.CalledProcessError as error:
        yield f"the live database doesn't answer: {error.stderr.decode().strip()}"
        return
    if now not in allowed:
        differing = sorted(name for name in {*now, *allowed[0]} if now.get(name) != allowed[0].get(name))
        yield f"the live database isn't what it was: {', '.join(differing)}"


def _left_on_disk(site: Site) -> Iterator[str]:
    for directory in (site.backups, site.state_dir):
        entries = sorted(directory.iterdir()) if directory.is_dir() else []
        for path in entries:
            if path.name.startswith(".") and path.name != _LOCK:
                yield f"{path.name} was left behind in {directory.name}"
    if (site.state_dir / "restore.json").exists():
        yield "a restore isn't ended"


def _left_on_server(site: Site, replaced: Sequence[str]) -> Iterator[str]:
    known = {"postgres", "template0", "template1", site.db, *site.databases, *replaced}
    for name in psql(site, "SELECT datname FROM pg_database", "postgres").splitlines():
        if name not in known:
            yield f"the database {name} was left behind"
    sessions = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'arcbackupd%'"
    for name in psql(site, f"{sessions} AND application_name <> '{_OURS}'", "postgres").splitlines():
        yield f"the session {name} is still served"


def _left_in_containers(site: Site, pipes_may_stay: bool) -> Iterator[str]:
    if not pipes_may_stay and (pipes := docker(site, "exec", site.database, "sh", "-c", _PIPES).split()):
        yield f"pipes were left in {site.database}: {' '.join(pipes)}"
    for line in docker(site, "top", site.database, "-eo", "pid,args").splitlines()[1:]:
        program = Path(line.split()[1]).name
        if program in ("pg_dump", "psql"):
            yield f"{program} still runs in {site.database}"


def left_running(site: Site) -> Iterator[str]:
    """Return what on the host still works with our containers, or stands by for a hold."""
    names = {site.database, *site.services}
    identities = docker(site, "inspect", "--format", "{{.Id}}", *sorted(names)).split()
    for words in command_lines().values():
        busy = names & set(words) and not set(site.at_rest) & set(words)
        holds = "arcbackupd-hold" in words and any(identity in " ".join(words) for identity in identities)
        if busy or holds:
            yield f"a process was left: {' '.join(words)[:120]}"


def _stopped_or_frozen(site: Site) -> Iterator[str]:
    for name in (site.database, *site.services):
        state: dict[str, Any] = json.loads(docker(site, "inspect", "--format", "{{json .State}}", name))
        if not state["Running"]:
            yield f"{name} doesn't run"
        elif state["Paused"] or is_frozen(int(state["Pid"])):
            yield f"{name} is frozen"


def is_frozen(pid: int) -> bool:
    """Return whether the control group of a process is frozen, by either version of control groups."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        old = Path(f"/sys/fs/cgroup/freezer{path}/freezer.state")
        new = Path(f"/sys/fs/cgroup{path}/cgroup.events")
        if "freezer" in controllers.split(",") and old.exists() and old.read_text().strip() != "THAWED":
            return True
        if number == "0" and new.exists() and "frozen 1" in new.read_text():
            return True
    return False


# Secrets


def told(secret: str, log: Path) -> Iterator[str]:
    """Return whether a log has a secret in it."""
    if log.exists() and secret.encode() in log.read_bytes():
        yield f"{log.name} has the password in it"


def command_lines() -> dict[int, list[str]]:
    """Return the argument lists of all processes, those in containers too."""
    found: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if words:
                found[int(entry.name)] = words.decode("utf-8", "replace").rstrip("\0").split("\0")
    return found


# Loading


def loads(site: Site, path: Path) -> str | None:
    """Load a dump into a scratch database and count its rows; return what is wrong, if anything is."""
    reading = reading_of(path)
    psql(site, f"CREATE DATABASE {SCRATCH} TEMPLATE template0", "postgres")
    try:
        return _load(site, path, reading)
    finally:
        psql(site, f"DROP DATABASE {SCRATCH} WITH (FORCE)", "postgres")


def _load(site: Site, path: Path, reading: Reading) -> str | None:
    argv = ["exec", "-i", "-e", "PGPASSWORD", "-e", "PGAPPNAME", site.database, "psql", "-Xq", "-o", "/dev/null"]
    argv += ["-v", "ON_ERROR_STOP=1", "-U", site.user, "-d", SCRATCH]
    with subprocess.Popen(["gunzip", "-c", str(path)], stdout=subprocess.PIPE) as unzipping:
        assert unzipping.stdout
        try:
            docker(site, *argv, stdin=unzipping.stdout.fileno())
        except subprocess.CalledProcessError as error:
            return f"{path.name} doesn't load: {error.stderr.decode().strip()}"
    rows = {name: int(sums.split("|")[0]) for name, sums in content(site, SCRATCH).items() if name in reading.rows}
    return None if rows == reading.rows else f"{path.name} loads {rows}, and holds {reading.rows}"


# The daemon's own size


@dataclass(frozen=True)
class Size:
    """What a process takes: bytes of resident memory, open descriptors, threads."""

    memory: int
    descriptors: int
    threads: int
    kinds: dict[str, int] = field(default_factory=dict, compare=False)
    """The descriptors by what they are open on, for a message."""


def size_of(pid: int) -> Size:
    """Measure a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kinds: dict[str, int] = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kind = re.sub(r"\d+", "N", str(entry.readlink()))
        except OSError:  # closed meanwhile
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    memory = int(status["VmRSS"].split()[0]) * 1024
    return Size(memory, sum(kinds.values()), int(status["Threads"]), kinds)
