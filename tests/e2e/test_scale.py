"""Sizes of real observatories: large dumps, many tables, many dumps; memory and reading stay small."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from arcbackupd.dumps.dumpfile import MEMBER_SIZE, manifest_member, read_manifest
from arcbackupd.dumps.manifest import Manifest, Reason
from arcbackupd.dumps.names import BackupName, Kind
from tests.e2e.conftest import tidied
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine
from tests.harness.stack import ArcsecondStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GIB = 1 << 30
MEMORY_LIMIT = 120 << 20
"""What the daemon may have used at its peak, whatever it dumped."""

DUMPS, DUMP_SIZE = 336, 100 << 20
"""Two weeks of hourly dumps."""

LARGE = """CREATE UNLOGGED TABLE frames AS SELECT n,
    encode(sha512(n::text::bytea), 'hex') || encode(sha512((-n)::text::bytea), 'hex') AS header,
    repeat(md5(n::text), 24) AS pixels FROM generate_series(1, 1100000) AS n"""

TABLES = 100_000
WIDE = f"""DO $$ BEGIN FOR i IN 1..{TABLES} LOOP
    EXECUTE format('CREATE TABLE night_%s (frame int)', i);
    IF i % 5000 = 0 THEN COMMIT; END IF;
    END LOOP; END $$"""

BY_HAND = {"dump": {"enabled": False}}
QUICK = ("-c", "fsync=off", "-c", "autovacuum=off", "-c", "max_locks_per_transaction=2048")


@pytest.fixture(scope="module")
def large(docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return a database without a backend, with room for many locks."""
    with ArcsecondStack(docker_engine, 16, with_backend=False, postgres_args=QUICK) as stack:
        yield stack


def test_large_database_is_dumped_in_little_memory(large: ArcsecondStack) -> None:
    """A dump of more than 1 GiB of SQL leaves the daemon's peak memory below 120 MiB."""
    large.psql(LARGE)
    try:
        with Daemon(tidied(large), jobs=BY_HAND) as daemon:
            taken = daemon.json("backup", timeout=300)
            assert taken["sql_length"] > GIB
            assert _peak_memory(daemon) < MEMORY_LIMIT
            assert daemon.json("inspect", "latest")["backup"]["rows"]["public.frames"] == 1_100_000
    finally:
        large.psql("DROP TABLE frames")


def test_many_tables_are_dumped_in_little_memory(large: ArcsecondStack) -> None:
    """A hundred thousand tables are all told by name, from the file alone, and memory stays as small."""
    large.create_database("wide")
    large.psql(WIDE, "wide")
    tidied(large).write_env(POSTGRES_DB="wide")
    try:
        with Daemon(large, jobs=BY_HAND) as daemon:
            daemon.json("backup", timeout=300)
            assert _peak_memory(daemon) < MEMORY_LIMIT
            daemon.restart()
            told = daemon.json("inspect", "latest")["backup"]
            assert told["tables"] == TABLES
            assert told["rows"][f"public.night_{TABLES}"] == 0
            assert _peak_memory(daemon) < MEMORY_LIMIT
    finally:
        large.psql("DROP DATABASE wide")


def test_many_dumps_are_listed_from_their_manifests_alone(stack16: ArcsecondStack) -> None:
    """336 dumps of 100 MiB are listed at once, also by a daemon that just started, reading their manifests only."""
    with Daemon(stack16, jobs=BY_HAND) as daemon:
        [name] = daemon.wait_boot_dumps(1)
        _make_dumps(daemon.path(name))
        daemon.restart()
        for _ in range(2):
            began = time.monotonic()
            rows = daemon.listed()
            assert time.monotonic() - began < 5
            assert len(rows) == DUMPS + 1
            assert {row["status"] for row in rows} == {"compatible"}
        assert sum(row["size"] for row in rows) > DUMPS * DUMP_SIZE
        assert _read_by(daemon) < (DUMPS + 1) * MEMBER_SIZE + (32 << 20)
        assert _peak_memory(daemon) < MEMORY_LIMIT


def _make_dumps(real: Path) -> None:
    """Write dumps with manifests like a real one's, whose compressed data are holes."""
    with real.open("rb") as file:
        manifest = read_manifest(file, real.stat().st_size)
    assert manifest is not None
    now = datetime.now(UTC).replace(microsecond=0)
    for number in range(1, DUMPS + 1):
        _make_dump(real.parent, manifest, now - timedelta(hours=number), number)


def _make_dump(directory: Path, manifest: Manifest, started: datetime, number: int) -> None:
    told = {
        "reason": Reason.SCHEDULED,
        "started_at": started,
        "finished_at": started + timedelta(seconds=5),
        "content_sha256": f"{number:064x}",
        "compressed_length": DUMP_SIZE,
    }
    path = directory / str(BackupName(started, Kind.BACKUP))
    path.write_bytes(manifest_member(manifest.model_copy(update=told)))
    os.truncate(path, MEMBER_SIZE + DUMP_SIZE)


def _peak_memory(daemon: Daemon) -> int:
    return _number(Path(f"/proc/{daemon.pid}/status"), r"VmHWM:\s+(\d+) kB") << 10


def _read_by(daemon: Daemon) -> int:
    return _number(Path(f"/proc/{daemon.pid}/io"), r"rchar: (\d+)")


def _number(path: Path, pattern: str) -> int:
    match = re.search(pattern, path.read_text(encoding="ascii"))
    assert match is not None
    return int(match[1])
