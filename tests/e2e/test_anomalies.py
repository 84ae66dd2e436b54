"""A database that loses rows, on real containers: what is told, what stays, and how it is settled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.harness.daemon import Daemon
from tests.harness.stack import ArcsecondStack

LOSS = "public.keepsakes has 1 row, after 5,000 in the backups of the 28 days before"


@pytest.fixture(name="keepsakes")
def _keepsakes(stack16: ArcsecondStack) -> Iterator[ArcsecondStack]:
    """Return a stack with a table that a test may empty."""
    stack16.psql("CREATE TABLE keepsakes AS SELECT generate_series(1, 5000) AS id")
    yield stack16
    stack16.psql("DROP TABLE keepsakes")


def test_older_dumps_outlive_their_time_while_newer_ones_lack_what_they_hold(keepsakes: ArcsecondStack) -> None:
    """After a TRUNCATE two weeks of older dumps stay through `prune`, until somebody accepts the loss."""
    with Daemon(keepsakes) as daemon:
        [whole] = daemon.wait_boot_dumps(1)
        daemon.json("jobs", "pause", "dump")
        days = [datetime.now(UTC) - timedelta(days=day) for day in range(28, 14, -1)]
        old = [f"backup-{day:%Y%m%d-%H%M%S}.sql.gz" for day in days]
        for name in old:
            shutil.copy(daemon.path(whole), daemon.path(name))
        daemon.path(whole).unlink()
        lossy = []
        for number in range(2):
            keepsakes.psql(f"TRUNCATE keepsakes; INSERT INTO keepsakes VALUES ({number})")
            lossy.append(daemon.json("backup")["name"])

        assert len(daemon.log_lines(LOSS)) == 1  # of two dumps: the journal hears of a loss once
        assert [row["anomalies"] for row in daemon.listed()] == [[LOSS], [LOSS], *[[]] * 14]
        listed = daemon.ctl("list").out
        assert "compatible, flagged" in listed
        assert f"The newest backup, {lossy[1]}, is flagged: it is whole, but {LOSS}." in listed
        assert LOSS in daemon.ctl("inspect", lossy[0]).out
        [problem] = [told for told in daemon.json("status", status=1)["problems"] if told["code"] != "job-paused"]
        assert problem["code"] == "dump-anomaly"
        assert f"arcbackupctl restore {old[-1]}" in problem["hint"]

        dry = daemon.ctl("prune", "--dry-run").out
        assert f"arcbackupctl accept {lossy[1]}" in " ".join(dry.split())
        assert daemon.json("prune", "--yes")["removed"] == []
        assert daemon.names() == [*old, *lossy]

        assert daemon.json("accept", "latest", "--yes", status=2)["error"]["code"] == "usage"
        assert daemon.json("accept", lossy[1], "--yes")["accepted"] == [LOSS]
        assert [told["code"] for told in daemon.json("status", status=1)["problems"]] == ["job-paused"]
        assert f"accepted: {LOSS}" in daemon.ctl("inspect", lossy[0]).out
        assert daemon.json("accept", lossy[1], "--yes", status=4)["error"]["code"] == "not-flagged"
        assert daemon.json("prune", "--yes")["removed"] == old[-2::-1]
        assert daemon.names() == [old[-1], *lossy]
