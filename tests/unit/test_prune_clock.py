"""Retention and a clock that is set at the very moment at which it is looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import time_machine

from arcbackupd.dumps.catalogue import Catalogue
from arcbackupd.dumps.retention import Policy
from arcbackupd.operations.prune import Doubt, plan_prune
from tests.unit import sample_dumps

NOW = datetime(2026, 1, 10, 13, tzinfo=UTC)
LEAP = timedelta(days=30)


def pruned(directory: Path, doubt: Doubt) -> int:
    """How many would go of ten days' backups, and of one that a clock named which ran ahead."""
    for number, date in enumerate([*(f"202601{day:02}" for day in range(1, 11)), "20260201"]):
        path = directory / f"backup-{date}-120000.sql.gz"
        text = sample_dumps.dump(sample_dumps.copy(b"public.t", (b"a",), [(b"%d" % number,)]))
        path.write_bytes(sample_dumps.dump_file(text, sample_dumps.manifest(text, host="host")))
    catalogue = Catalogue(directory / "catalogue.json")
    return len(plan_prune(catalogue, directory, Policy(keep_last=1), "host", doubt).pruned)


def test_a_clock_that_is_set_just_as_it_is_looked_at_prunes_nothing(tmp_path: Path) -> None:
    with time_machine.travel(NOW, tick=False) as clock:

        def doubt() -> None:
            clock.shift(LEAP)

        assert pruned(tmp_path, doubt) == 0


def test_by_the_time_that_it_is_then_some_would_go(tmp_path: Path) -> None:
    with time_machine.travel(NOW + LEAP, tick=False):
        assert pruned(tmp_path, lambda: None) > 0
