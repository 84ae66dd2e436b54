"""A month in minutes: the real daemon and real dumps of a changing database, under a clock that skips the waiting.

`make soak` dumps every hour, as an installation does; `make test` every six.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.restoring import call
from tests.harness.embedded import EmbeddedPostgres, EmbeddedPostgresError
from tests.harness.faked_clock import FakedClock
from tests.harness.process import wait_until
from tests.require import require
from tests.torture import checker
from tests.torture.rig import GROWTH, settled_size
from tests.torture.soaking import DOUBT, SECONDS, Installation, Month, begin

pytestmark = pytest.mark.slow

EVERY = int(os.environ.get("SOAK_HOURS") or 6)
"""Hours between two dumps; a divisor of 12."""
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 31
PASSWORD = "Geheim-im-Test-4711"

RESTORED, STOPPED, JUMPED = 5, 12, 20
"""The days of a restore, of a database that is down, and of a clock that is set forward."""
LEAP = timedelta(minutes=50)
"""By how much the clock is set forward, just after midnight: less than the distance of two dumps."""
DOWN = 16
"""Days after the month for which no dump succeeds: more than retention looks back."""


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """Return a PostgreSQL of the test's own, which it may stop."""
    try:
        with EmbeddedPostgres(18, password=PASSWORD) as running:
            yield running
    except EmbeddedPostgresError as error:
        require("postgres", str(error))


@pytest.fixture
def month(server: EmbeddedPostgres, tmp_path: Path) -> Iterator[Month]:
    """Return a daemon that begins its month."""
    server.create_database("observatory")
    server.psql("CREATE TABLE frames (n int, hex text)", "observatory")
    clock = FakedClock(tmp_path)
    clock.set(BEGIN)
    planned = begin(Installation(server, tmp_path, PASSWORD), clock, f"every {EVERY}h")
    planned.change()
    with planned.daemon:
        yield planned


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("embedded_postgres")  # for its marker
def test_a_month_leaves_what_retention_promises_at_every_day(month: Month) -> None:
    """Counts, retention, room on the disk, memory and descriptors are as predicted at every simulated day."""
    month.wait_begun()
    sizes: dict[int, checker.Size] = {}
    for day in range(DAYS):
        if day == JUMPED:
            jump(month)
        live_through(month, day, BEGIN + timedelta(days=day))
        month.check_day()
        sizes[day] = settled_size(month.daemon.pid)
    assert_as_predicted(month, sizes)
    freeze_and_thaw(month, BEGIN + timedelta(days=DAYS))
    assert sum(1 for _ in checker.told(PASSWORD, month.installation.directory / "daemon.log")) == 0


def live_through(month: Month, day: int, midnight: datetime) -> None:
    """A day: dumps in even distances, the content changed by half of them, pruned at half past twelve."""
    for hour in range(EVERY, 25, EVERY):
        moment = midnight + timedelta(hours=hour)
        if day == STOPPED:
            fail(month, moment)
        else:
            if (hour // EVERY) % 2:
                month.change()
            month.dump(moment)
        if hour == 12:
            month.prune(midnight + timedelta(hours=12, minutes=30))
    if day == RESTORED:
        restore(month)


def fail(month: Month, moment: datetime) -> None:
    """Let a dump come while the database is down."""
    month.installation.server.stop()
    month.failed_dump(moment)
    month.installation.server.start()


def restore(month: Month) -> None:
    """Restore the newest backup: what it replaces goes into a snapshot, which retention treats like the rest."""
    newest = max(month.model.of_kind("backup"), key=checker.taken_at)
    before = set(month.files())
    call(month.daemon, "Restore", name=newest)
    wait_until(lambda: call(month.daemon, "Status")["operation"] is None, "the end of the restore", seconds=SECONDS)
    [snapshot] = set(month.files()) - before
    assert snapshot.startswith("pre-restore-")
    month.model.contents[snapshot] = month.version


def jump(month: Month) -> None:
    """Set the clock forward: for a day nothing is pruned, dumps go on."""
    month.clock.jump(LEAP)
    month.daemon.wait_log("The clock jumped forward")
    month.model.no_prune_before = month.clock.now() + DOUBT


def assert_as_predicted(month: Month, sizes: dict[int, checker.Size]) -> None:
    """See that a month of dumps left two weeks of them, and a daemon that is as small as after two days."""
    expected = 14 * 24 // EVERY
    assert abs(len(month.model.of_kind("backup")) - expected) <= 24 // EVERY + 2
    early, late = sizes[2], sizes[DAYS - 1]
    assert late.descriptors <= early.descriptors + 1, f"{early.kinds} became {late.kinds}"
    assert late.threads <= early.threads + 4
    assert late.memory <= early.memory + GROWTH, f"{early.memory} became {late.memory}"


def freeze_and_thaw(month: Month, midnight: datetime) -> None:
    """Let the database be down for longer than retention looks back: nothing goes, and then all goes on."""
    before = set(month.files())
    month.installation.server.stop()
    for day in range(DOWN):
        noon = midnight + timedelta(days=day, hours=12)
        month.failed_dump(noon)
        month.prune(noon + timedelta(minutes=30))
    assert set(month.files()) >= set(month.model.contents)
    assert "retention-frozen" in [problem["code"] for problem in call(month.daemon, "Status")["problems"]]
    month.installation.server.start()
    kept = len(before & set(month.files()))
    month.change()
    month.dump(midnight + timedelta(days=DOWN, hours=12))
    month.prune(midnight + timedelta(days=DOWN, hours=12, minutes=30))
    assert "retention-frozen" not in [problem["code"] for problem in call(month.daemon, "Status")["problems"]]
    assert len(month.files()) < kept
    month.check_day()
