"""Restores of a real observatory's size: equal content, a downtime that doesn't grow with it, and little memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.restoring import BY_HAND, PROMPT
from tests.harness.daemon import Daemon
from tests.harness.engine import Engine
from tests.harness.images import MAJORS
from tests.harness.stack import ArcsecondStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GIB = 1 << 30
MEMORY_LIMIT = 120 << 20
"""What the daemon may have used at its peak, whatever it restored."""

SMALL, LARGE = 10_000, 1_050_000
"""Rows of about a kilobyte."""
QUICK = ("-c", "fsync=off", "-c", "autovacuum=off", "-c", "max_wal_size=4GB", "-c", "full_page_writes=off")

SEED = """
    CREATE UNLOGGED TABLE frames AS SELECT n, encode(sha512(n::text::bytea), 'hex') AS header,
        repeat(md5(n::text), 28) AS pixels FROM generate_series(1, {rows}) AS n;
    CREATE TABLE nights AS SELECT n AS id, md5(n::text) AS hex FROM generate_series(1, 1000) AS n;
    ALTER TABLE nights ADD PRIMARY KEY (id);
"""
LOOK = """
    SELECT count(*), sum(n), sum(hashtextextended(header, 0)), sum(hashtextextended(pixels, 1)) FROM frames;
    SELECT count(*), md5(string_agg(id || hex, ',' ORDER BY id)) FROM nights;
"""


@pytest.fixture(params=MAJORS, ids=lambda major: f"postgres{major}")
def stack(request: pytest.FixtureRequest, docker_engine: Engine) -> Iterator[ArcsecondStack]:
    """Return a stack of each major, without a backend; its service is healthy at once."""
    with ArcsecondStack(docker_engine, request.param, with_backend=False, postgres_args=QUICK) as stack:
        stack.add_service("quick", ["sleep", "infinity"], arguments=PROMPT)
        yield stack


def test_a_gigabyte_is_restored_with_no_more_downtime_than_a_little(stack: ArcsecondStack) -> None:
    """A GiB comes back equal, in little memory, and its services are down no longer than for a hundredth of it."""
    with Daemon(stack, jobs=BY_HAND) as daemon:
        little, _ = _restored(daemon, SMALL)
        daemon.json("discard-replaced", "--yes", timeout=300)
        much, length = _restored(daemon, LARGE)
        peak = _peak_memory(daemon)
    print(f"\nPostgreSQL {stack.major}: 10 MB {_figures(little)}, {length / GIB:.2f} GiB {_figures(much)},")
    print(f"peak memory {peak / (1 << 20):.0f} MiB")
    assert length > GIB
    assert peak < MEMORY_LIMIT
    assert much["downtime_s"] < _duration(much) / 2
    assert much["downtime_s"] < little["downtime_s"] + _duration(much) / 4


def _restored(daemon: Daemon, rows: int) -> tuple[dict[str, Any], int]:
    """Seed, dump, wreck, restore and compare; return the report and the bytes of the dump's SQL."""
    stack = daemon.stack
    stack.psql(f"DROP TABLE IF EXISTS frames, nights; {SEED.format(rows=rows)}")
    before = stack.psql(LOOK)
    taken = daemon.json("backup", timeout=300)
    stack.psql("DROP TABLE frames; DELETE FROM nights WHERE id > 10")
    report = daemon.json("restore", taken["name"], "--yes", timeout=600)
    assert (report["outcome"], report["problem"]) == ("restored", None)
    assert stack.psql(LOOK) == before
    return report, int(taken["sql_length"])


def _figures(report: dict[str, Any]) -> str:
    return f"down {report['downtime_s']:.1f} s of {_duration(report):.1f} s"


def _duration(report: dict[str, Any]) -> float:
    started, finished = (datetime.fromisoformat(report[key]) for key in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def _peak_memory(daemon: Daemon) -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii"))
    assert match is not None
    return int(match[1]) << 10
